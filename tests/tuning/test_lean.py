"""What makes the step lean changes no number: convolutions, recomputing, precision, Adam."""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.profiler import profile

from stssad_fast import STSSAD, CutDiff, InputError, Rotation
from stssad_fast.detectors import ResNetDetector
from stssad_fast.ops import conv3x3, extension, mean_distance_loss, rotate
from stssad_fast.tuning.batch_norm import TrainingBatchNorm
from stssad_fast.tuning.convolution import LeanConvolutions
from stssad_fast.tuning.hypergradient import bilevel_step
from stssad_fast.tuning.optimizer import HyperOptimizer
from stssad_fast.tuning.recompute import parts, recomputed
from stssad_fast.tuning.tuner import Tuner, TunerConfig

LEARNING_RATE = 0.1


def norm(x, theta, name):
    return F.batch_norm(x, None, None, theta[f"{name}.weight"], theta[f"{name}.bias"], True)


def plain_detector(theta, image, activation):
    """A ResNetDetector of up to 32 px by the textbook, from its parameters."""

    def convolved(x, convolution, normalised, stride=1):
        weight = theta[f"{convolution}.weight"]
        if stride == 1 and weight.shape[-1] == 3:
            result = conv3x3(x, weight)  # in float64 F.conv2d
        else:
            result = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        return norm(result, theta, normalised)

    x = activation(convolved(image, "stem.0", "stem.1"))
    for index in range(8):
        name = f"blocks.{index}"
        stride = 2 if index in (2, 4, 6) else 1
        inner = activation(convolved(x, f"{name}.conv1", f"{name}.norm1", stride))
        inner = convolved(inner, f"{name}.conv2", f"{name}.norm2")
        if stride == 2:
            x = convolved(x, f"{name}.shortcut.0", f"{name}.shortcut.1", stride)
        x = activation(inner + x)
    z = F.normalize(x.mean((2, 3)), dim=1)
    hidden = activation(F.linear(z, theta["head.0.weight"], theta["head.0.bias"]))
    return z, F.linear(hidden, theta["head.2.weight"], theta["head.2.bias"])[:, 0]


class Problem:
    """Both losses of a detector on a few pictures of noise, and a rotation."""

    def __init__(self, width, dtype, count=3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.detector = ResNetDetector(1, width, 16).to(dtype)
            self.images, self.test = torch.rand(2, count, 1, 16, 16).to(dtype)
        self.theta = {k: v.detach() for k, v in self.detector.named_parameters()}
        self.a = {"angle": torch.tensor(17.0, dtype=dtype)}

    def detected(self, theta, image):
        return functional_call(self.detector, theta, (image,))

    def by_the_textbook(self, activation=F.relu):
        self.detected = lambda theta, image: plain_detector(theta, image, activation)
        return self

    def train_loss(self, theta, a):
        both = torch.cat([self.images, rotate(self.images, a["angle"])])
        logit = self.detected(theta, both)[1]
        truth = torch.arange(len(both)) >= len(self.images)
        return F.binary_cross_entropy_with_logits(logit, truth.to(logit.dtype))

    def validation_loss(self, theta, a):
        sets = [self.images, rotate(self.images, a["angle"]), self.test]
        return mean_distance_loss(*self.detected(theta, torch.cat(sets))[0].chunk(3))

    def step(self, **options):
        return bilevel_step(
            self.train_loss,
            self.validation_loss,
            self.theta,
            self.a,
            learning_rate=LEARNING_RATE,
            **options,
        )

    def plain(self):
        """The hypergradient as autograd finds it through the whole step."""
        theta = {k: v.detach().requires_grad_() for k, v in self.theta.items()}
        a = {k: v.detach().requires_grad_() for k, v in self.a.items()}
        gradients = torch.autograd.grad(
            self.train_loss(theta, a), list(theta.values()), create_graph=True
        )
        stepped = {
            name: value - LEARNING_RATE * gradient
            for (name, value), gradient in zip(theta.items(), gradients, strict=True)
        }
        return torch.autograd.grad(self.validation_loss(stepped, a), a["angle"])[0]


def test_exact_on_a_resnet():
    expected = Problem(8, torch.float64).by_the_textbook().plain()
    problem = Problem(8, torch.float64)
    for recompute in (False, True):
        found = problem.step(recompute=recompute).gradient["angle"]
        assert abs(found - expected) <= 1e-10 * abs(expected)
    first = problem.step(first_order=True, recompute=True).gradient["angle"]
    assert abs(first - expected) > 1e-3 * abs(expected)


@pytest.mark.parametrize("count", [3, 8])
def test_float32_on_a_resnet_of_full_width(count):
    # Smooth: where rounding turns a ReLU on or off the gradient jumps, however it is computed.
    expected = Problem(64, torch.float64, count).by_the_textbook(F.softplus).plain()
    problem = Problem(64, torch.float32, count).by_the_textbook(F.softplus)
    with profile() as record:
        found = problem.step().gradient["angle"]
    assert abs(found - expected) <= 1e-3 * abs(expected)
    if extension.load():  # and Winograd's convolutions have a part in it
        assert any("winograd_weight_gradient" in event.key for event in record.key_averages())


@pytest.mark.parametrize(
    "options",
    [{}, {"padding": 1}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2}],
    ids=str,
)
def test_lean_convolutions_can_be_differentiated_twice(options):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 4, 7, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    shape = 6, 4 // options.get("groups", 1), 3, 3
    weight = torch.rand(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    def convolved(x, weight):
        with LeanConvolutions([weight]):
            return F.conv2d(x, weight, **options)

    assert type(convolved(x, weight).grad_fn).__name__ == "_ConvolutionBackward"
    assert torch.equal(convolved(x, weight), F.conv2d(x, weight, **options))
    assert torch.autograd.gradcheck(convolved, (x, weight))
    assert torch.autograd.gradgradcheck(convolved, (x, weight), fast_mode=True)


def test_other_convolutions_are_left_alone():
    x, weight, bias = torch.rand(1, 2, 5, 5), torch.rand(2, 2, 3, 3, requires_grad=True), None
    with LeanConvolutions([torch.rand(2, 2, 3, 3)]):
        found = F.conv2d(x, weight, bias)
    assert type(found.grad_fn).__name__ == "ConvolutionBackward0"
    with LeanConvolutions([weight]):
        assert type(F.conv2d(x, weight, torch.rand(2)).grad_fn).__name__ == "ConvolutionBackward0"
        same = F.conv2d(x, weight, padding="same")
    assert type(same.grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize(
    "options",
    [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}, {"eps": 0.1}],
    ids=str,
)
@pytest.mark.parametrize("size", [(4, 3, 5, 6), (7, 3)], ids=str)
def test_batch_norm_of_any_network_is_the_op(options, size):
    """Values, two derivatives and running statistics are those of the module."""
    x = torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outcomes, operators = [], []
    for where in (nullcontext(), TrainingBatchNorm()):
        kind = nn.BatchNorm2d if len(size) == 4 else nn.BatchNorm1d
        module = kind(3, **options).double()
        for index, value in enumerate(module.parameters()):
            nn.init.constant_(value, 0.7 + index)
        image = x.clone().requires_grad_()
        with profile() as record:
            with where:
                y = module(image)
            wanted = [image, *module.parameters()]
            first = torch.autograd.grad(y.pow(3).sum(), wanted, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
            with where:
                module.eval()(x)
        outcomes.append([y, *first, *second, *module.buffers()])
        operators.append({event.key for event in record.key_averages()})
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    for name in ("batch_norm", "batch_norm_backward", "batch_norm_double_backward"):
        taken = extension.load() and len(size) == 4
        assert (f"stssad_fast::{name}" in operators[1]) == taken


def test_a_channel_of_one_number_is_refused_as_ever():
    with TrainingBatchNorm(), pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(3)(torch.rand(1, 3, 1, 1))


def test_a_network_of_ones_own_takes_the_op():
    backbone = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    pictures = torch.rand(8, 1, 16, 16)
    options = {"iterations": 1, "warm_up": 0, "starts": [{"size": 0.05}], "batch_size": 4}
    with profile() as record:
        STSSAD(backbone=backbone, device="cpu", **options).fit(pictures, pictures)
    name = "stssad_fast::batch_norm_double_backward"
    assert any(event.key == name for event in record.key_averages()) == extension.load()


def count(run, *names):
    with profile() as record:
        run()
    return sum(event.count for event in record.key_averages() if event.key in names)


def test_the_last_pass_computes_no_gradient_for_weights():
    # 20 convolutions, that of the pictures first. Forward: twice. Second backward: one with each
    # direction; the pictures have one, of the weight, alone.
    problem = Problem(4, torch.float32)
    assert count(problem.step, "aten::convolution") == 2 * 20 + 20 + 19
    # Inner and outer gradient, and twice in the last pass.
    assert count(problem.step, "aten::convolution_backward") == 4 * 20
    first = count(lambda: problem.step(first_order=True), "aten::convolution_backward")
    assert first == 2 * 20


@pytest.fixture
def make_tuner():
    def make(width=4, augmentation=None, side=32, **changes):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            detector = ResNetDetector(1, width, side)
        random = torch.Generator().manual_seed(1)
        pictures = torch.rand(2, 12, 1, side, side, generator=random)
        config = replace(TunerConfig(iterations=3, warm_up=2, batch_size=4), **changes)
        return Tuner(detector, augmentation or CutDiff(0.05), *pictures, config, random)

    return make


def end(tuner):
    while not tuner.done:
        tuner.step()
    tensors, values = tuner.state()
    return {name: tensor.tolist() for name, tensor in tensors.items()}, values


@pytest.mark.parametrize("strategy", ["second_order", "first_order", "random_static"])
@pytest.mark.parametrize("validation_norm", ["joint", "running"])
def test_recomputing_changes_no_bit(make_tuner, strategy, validation_norm):
    options = {"strategy": strategy, "validation_norm": validation_norm}
    assert end(make_tuner(recompute=True, **options)) == end(make_tuner(**options))


def test_recomputing_holds_less():
    def held(recompute):
        problem = Problem(8, torch.float32, count=32)
        with profile(profile_memory=True) as record:
            problem.step(recompute=recompute)
        total = peak = 0
        for event in record.profiler.kineto_results.events():
            if event.name() == "[memory]":
                total += event.nbytes()
                peak = max(peak, total)
        return peak

    assert held(True) < 0.85 * held(False)


def test_recomputed_parts_keep_less():
    network = ResNetDetector(1, 16, 32)
    image = torch.rand(8, 1, 32, 32)

    def held(wanted):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.nbytes
            return tensor

        with (
            recomputed(network, wanted),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        ):
            network(image)
        return total

    assert held(True) < held(False) / 2
    assert len(list(parts(network))) == 1 + 8 + 1
    assert "forward" not in vars(network.stem)


def hypergradient(tuner):
    return torch.cat(
        [
            part.reshape(-1)
            for part in bilevel_step(
                tuner._train_loss(tuner.train.pictures),
                tuner._validation_loss(tuner.train.pictures, tuner.test.pictures),
                dict(tuner.detector.named_parameters()),
                dict(tuner.augmentation.named_parameters()),
                learning_rate=LEARNING_RATE,
            ).gradient.values()
        ]
    )


def test_bfloat16_is_close_and_keeps_float32_state(make_tuner):
    exact, lower = (
        make_tuner(16, Rotation(20.0), precision=precision) for precision in ("float32", "bfloat16")
    )
    losses = [tuner._train_loss(tuner.train.pictures) for tuner in (exact, lower)]
    theta = dict(exact.detector.named_parameters())
    a = dict(exact.augmentation.named_parameters())
    right, found = (loss(theta, a) for loss in losses)
    assert found.dtype == torch.float32
    assert 0 < abs(found - right) < 0.02
    end(lower)
    assert lower.stopped == "finished"
    state = [*lower.state()[0].values(), hypergradient(lower)]
    assert {t.dtype for t in state} <= {torch.float32, torch.int64, torch.uint8}
    assert all(math.isfinite(loss) for loss in lower.history["validation_loss"])


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_the_optimiser_moves_like_that_of_torch(kind):
    random = torch.Generator().manual_seed(0)
    rates = torch.rand(30, generator=random, dtype=torch.float64).tolist()
    start = [torch.randn(shape, generator=random) for shape in ((), (3,), (17,))]
    ours, theirs = ([nn.Parameter(v.clone()) for v in start] for _ in range(2))
    optimizer = HyperOptimizer(ours, kind, rates)
    right = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind](theirs, 1.0)
    for index, rate in enumerate(rates):
        gradients = [torch.randn(v.shape, generator=random) for v in start]
        right.param_groups[0]["lr"] = rate
        for value, gradient in zip(theirs, gradients, strict=True):
            value.grad = gradient
        right.step()
        if index == 10:  # goes on from what it has saved
            saved = {name: value.clone() for name, value in optimizer.state().items()}
            optimizer = HyperOptimizer(ours, kind, rates)
            optimizer.load_state(saved)
        optimizer.step(gradients, torch.tensor(index))
        for value, expected in zip(ours, theirs, strict=True):
            assert torch.equal(value, expected)


def test_a_gradient_that_is_not_finite_moves_nothing(make_tuner):
    tuner = make_tuner(warm_up=0)
    tuner.step()
    before = copy.deepcopy([tuner.augmentation.state_dict(), tuner._optimizer.state()])
    loss = tuner._validation_loss
    tuner._validation_loss = lambda *images: lambda theta, a: loss(*images)(theta, a) * math.nan
    tuner._bilevel()
    after = [tuner.augmentation.state_dict(), tuner._optimizer.state()]
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(value, new[name]) for name, value in old.items())
    tuner.step()
    assert tuner.stopped == "diverged"


@pytest.mark.parametrize("changes", [{}, {"patience": 1}, {"learning_rate": 1e30}], ids=str)
@pytest.mark.parametrize("warm_up", [0, 2])
def test_looking_late_finds_the_same(make_tuner, changes, warm_up):
    """What a GPU does: the losses are read at the end alone."""
    options = {"iterations": 6, "warm_up": warm_up, "smoothing": 0.0, **changes}
    at_once = make_tuner(**options)
    end(at_once)
    late = make_tuner(**options)
    read, late.read = late.read, lambda: None
    for _ in range(late.total_steps):
        late.step()
    late.read = read
    assert str(late.history) == str(at_once.history)  # NaN is not equal to NaN
    assert (late.stopped, late.step_count) == (at_once.stopped, at_once.step_count)
    assert late.best_iteration == at_once.best_iteration
    assert ("patience" not in changes) == (late.stopped != "no progress for 1 iterations")
    if late.best_iteration >= 0:
        for name, value in at_once.detector.state_dict().items():
            assert torch.equal(late.detector.state_dict()[name], value)
        assert late.augmentation.describe() == at_once.augmentation.describe()


def test_a_graph_needs_a_gpu(make_tuner):
    with pytest.raises(InputError, match="needs a GPU"):
        make_tuner(graph=True)
    with pytest.raises(InputError, match="needs a GPU"):
        STSSAD(graph=True, device="cpu").check_parameters()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("strategy", ["second_order", "first_order"])
def test_a_graph_computes_what_the_steps_compute(strategy):
    outcomes = []
    for graph in (False, True):
        torch.manual_seed(0)
        detector = ResNetDetector(1, 8, 32).cuda()
        random = torch.Generator("cuda").manual_seed(1)
        pictures = torch.rand(2, 40, 1, 32, 32, generator=random, device="cuda")
        config = TunerConfig(strategy=strategy, iterations=12, warm_up=8, batch_size=8, graph=graph)
        tuner = Tuner(detector, CutDiff(0.05).cuda(), *pictures, config, random)
        while not tuner.done:
            tuner.step()
        outcomes.append(tuner.history)
    for name, values in outcomes[0].items():
        assert outcomes[1][name] == pytest.approx(values, rel=1e-2), name
