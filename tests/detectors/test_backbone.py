"""BackboneDetector: what it takes, how it normalises, what is random in it, its derivatives."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from stssad_fast import STSSAD, InputError, mean_distance_loss
from stssad_fast.augment import CutDiff
from stssad_fast.detectors import BackboneDetector, module_digest
from stssad_fast.tuning.hypergradient import bilevel_step


def network(channels=1, *more, activation=nn.ReLU):
    """Embeds in 4 dimensions; a strided, a depthwise and a plain convolution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3, 2, 1, bias=False),
            nn.BatchNorm2d(4),
            activation(),
            nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False),
            nn.Conv2d(4, 4, 3, 2, 1),
            activation(),
            *more,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def make(backbone, channels=1, size=(16, 16), *args, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return BackboneDetector(backbone, channels, size, *args, **kwargs)


def draw(*size):
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
def test_shapes(channels, size):
    backbone = network(channels)
    before = copy.deepcopy(backbone.state_dict())
    detector = make(backbone, channels, size)
    embedding, logit = detector(draw(3, channels, *size))
    assert embedding.shape == (3, 4)
    assert logit.shape == (3,)
    assert detector.dimensions == 4
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert backbone.training


@pytest.mark.parametrize("unit", [True, False])
def test_embeds_normalised_pictures_as_the_backbone_does(unit, assert_close):
    mean, std = torch.tensor([0.3, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.4])
    backbone, image = network(3).eval(), draw(2, 3, 16, 16)
    expected = backbone((image - mean[:, None, None]) / std[:, None, None])
    if unit:
        expected = F.normalize(expected, dim=1)
    found = make(backbone, 3, (16, 16), mean, std, unit).eval().embed(image)
    assert_close(found, expected)


@pytest.mark.parametrize("own", [(0.4, 0.2), ((0.1, 0.5, 0.6), [0.3]), (torch.zeros(3), 1)])
def test_a_pretrained_backbone_says_how_pictures_are_normalised(own, assert_close):
    backbone, image = network(3).eval(), draw(2, 3, 16, 16)
    backbone.mean, backbone.std = own
    mean, std = (torch.as_tensor(value).reshape(-1, 1, 1) for value in own)
    expected = F.normalize(backbone((image - mean) / std), dim=1)
    training = torch.full((3,), 0.9), torch.full((3,), 9.0)
    assert_close(make(backbone, 3, (16, 16), *training).eval().embed(image), expected)


@pytest.mark.parametrize("own", [(0.5, None), (0.5, 0.0), ((0.1, 0.2), 1.0), ("x", 1.0)], ids=str)
def test_a_normalisation_that_cannot_be_used(own):
    backbone = network(3)
    backbone.mean, backbone.std = own
    with pytest.raises(InputError, match="Set both, or neither"):
        make(backbone, 3)


def test_grey_pictures_are_repeated_only_for_a_backbone_that_needs_it(assert_close):
    image = draw(2, 1, 16, 16)
    grey, colour = network(1).eval(), network(3).eval()
    assert make(grey).channels == 1
    detector = make(colour, 1, (16, 16), torch.tensor([0.5]), torch.tensor([0.2])).eval()
    assert detector.channels == 3
    expected = F.normalize(colour((image.repeat(1, 3, 1, 1) - 0.5) / 0.2), dim=1)
    assert_close(detector.embed(image), expected)


class Wrong(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, image):
        return self.result(image, self.training)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (network(2), r"cannot take pictures \(2, 1, 16, 16\)"),
        (nn.Conv2d(1, 4, 3), r"gives \(2, 4, 14, 14\).*expected a tensor of embeddings \(2, D\)"),
        (Wrong(lambda x, training: x.sum((0, 2, 3))), r"gives \(1,\)"),
        (Wrong(lambda x, training: (x.sum((2, 3)), x)), "gives tuple"),
        (Wrong(lambda x, training: (x,) if training else x.sum((2, 3))), "gives tuple"),
        (nn.Flatten(0), r"gives \(512,\)"),
        (Wrong(lambda x, training: x.sum((2, 3)).long()), r"gives \(2, 1\) of torch.int64"),
        (Wrong(lambda x, training: x[:, :0, 0, 0]), r"gives \(2, 0\) .*D > 0"),
    ],
)
def test_what_is_no_backbone(backbone, words):
    with pytest.raises(InputError, match=words):
        make(backbone)


class NoGradient(nn.Module):
    def __init__(self, asks=True):
        super().__init__()
        self.inner = network().requires_grad_(asks)

    @torch.no_grad()
    def forward(self, image):
        return self.inner(image)


def test_embeddings_that_cannot_be_trained():
    image, words = (
        draw(3, 1, 16, 16),
        r"NoGradient gives embeddings without a gradient.*no_grad\(\)",
    )
    detector = make(NoGradient())
    with pytest.raises(InputError, match=words):
        detector(image)
    with pytest.raises(InputError, match=words):
        STSSAD(backbone=NoGradient(), warm_up=1, iterations=1).fit(image, image)
    with torch.no_grad():
        detector(image)
    frozen = make(NoGradient(False))
    for other in (detector.eval(), frozen):
        assert other.embed(image).shape == (3, 4)  # as features that nobody trains
        with pytest.raises(InputError, match=words):
            other.embed(image.clone().requires_grad_())  # as where an augmentation is tuned


def test_frozen_parameters_stay_what_they_are():
    backbone = network()
    backbone[0].weight.requires_grad_(False)
    detector = make(backbone)
    names = dict(detector.named_parameters())
    assert "backbone.0.weight" not in names
    assert "backbone.4.weight" in names
    assert list(detector.backbone.state_dict()) != []
    assert detector.backbone.state_dict().keys() == backbone.state_dict().keys()
    detector(draw(2, 1, 16, 16))[1].sum().backward()
    assert detector.backbone[0].weight.grad is None


def test_double_precision_and_evaluation_mode_do_not_matter(assert_close):
    image = draw(2, 1, 16, 16)
    expected = make(network()).eval().embed(image)
    assert_close(make(network().double().eval()).eval().embed(image), expected)


def test_dropout_draws_from_its_own_seed():
    image = draw(4, 1, 16, 16)
    detector = make(network(1, nn.Dropout(0.5)), unit_embedding=False)
    assert detector.draws
    assert not make(network()).draws
    start, before = copy.deepcopy(detector.state_dict()), torch.get_rng_state()
    first, second = detector.embed(image), detector.embed(image)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    detector.load_state_dict(start)
    torch.manual_seed(5)
    assert torch.equal(detector.embed(image), first)
    detector.eval()
    assert torch.equal(detector.embed(image), detector.embed(image))


def test_digest():
    plain = network()
    assert module_digest(plain) == module_digest(copy.deepcopy(plain)) == module_digest(plain)
    moved, renormalised = network(), network()
    moved[0].weight.data[0, 0, 0, 0] += 1e-6
    renormalised.mean, renormalised.std = 0.5, 0.2
    others = [moved, renormalised, network(1, nn.Dropout(0.1)), network(1, nn.Dropout(0.2))]
    others += [network(activation=nn.Tanh), nn.ModuleList(network())]
    assert len({module_digest(b) for b in (plain, *others)}) == 1 + len(others)


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_hypergradient_is_that_of_central_differences(norm):
    # Smooth, so that differences converge; dropout's mask is the same as long as its seed is.
    backbone = network(1, nn.Dropout(0.3), activation=nn.Softplus)
    detector = make(backbone).double()
    detector.train()
    train, test = draw(4, 1, 16, 16).double(), draw(9, 1, 16, 16)[4:].double() * 0.5
    augmentation = CutDiff(0.05, 1.5, 20.0).double()
    parameters = {k: v.detach() for k, v in detector.named_parameters()}

    def detect(theta, images):
        buffers = {k: v.clone() for k, v in detector.named_buffers()}
        return functional_call(detector, {**theta, **buffers}, (images,))

    def augmented(a):
        generator = torch.Generator().manual_seed(0)
        return functional_call(augmentation, a, (train,), {"generator": generator})

    def train_loss(theta, a):
        detector.train()
        _, logit = detect(theta, torch.cat([train, augmented(a)]))
        truth = torch.tensor([0.0] * 4 + [1.0] * 4).double()
        return F.binary_cross_entropy_with_logits(logit, truth)

    def validation_loss(theta, a):
        detector.train(norm == "batch")
        z, _ = detect(theta, torch.cat([train, augmented(a), test]))
        return mean_distance_loss(z[:4], z[4:8], z[8:])

    def step(raw):
        return bilevel_step(
            train_loss, validation_loss, parameters, {"raw": raw}, learning_rate=0.5
        )

    raw = augmentation.raw.detach()
    found = step(raw).gradient["raw"]
    for i, delta in enumerate(torch.eye(3).double() * 1e-5):
        ahead, behind = (step(raw + sign * delta).validation_loss for sign in (1, -1))
        difference = (ahead - behind) / 2e-5
        assert abs(found[i] - difference) < 1e-6 * max(1.0, abs(difference.item()))
    assert (found.abs() > 1e-4).all()  # far above the tolerance


class Layouts(nn.Module):
    """Notes the layout that it is called with; may flatten with ``view``, or misread the memory."""

    def __init__(self, kind):
        super().__init__()
        self.inner, self.kind, self.seen = nn.Conv2d(3, 4, 3, 2), kind, []

    def forward(self, x):
        self.seen.append(x.is_contiguous(memory_format=torch.channels_last))
        if self.kind == "misreads":  # as a kernel does that takes any memory for contiguous
            x = x.as_strided(x.shape, torch.empty(x.shape).stride())
        z = self.inner(x)
        if self.kind == "view" or (self.kind == "view in training" and self.training):
            return z.view(len(z), -1)[:, :9]
        return z.mean((2, 3))


@pytest.mark.parametrize("kind", ["any", "view", "view in training", "misreads"])
def test_pictures_come_channels_last_to_those_that_can_take_them(kind, assert_close):
    backbone, image = Layouts(kind), draw(3, 3, 9, 11)
    before = torch.get_rng_state()
    detector = make(backbone, 3, (9, 11), unit_embedding=False)
    assert torch.equal(torch.get_rng_state(), before)
    detector.backbone.seen.clear()
    assert_close(detector.embed(image), backbone(image))
    assert detector.backbone.seen == [kind == "any"]
