"""ResNetDetector: shapes, unit embeddings, second derivatives, threads."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from stssad_fast.detectors import MIN_IMAGE_SIZE, ResNetDetector


def make(*args, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ResNetDetector(*args, **kwargs)


def draw(*size):
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("image_size", "width"), [(16, 2), (32, 4), (64, 3), (65, 2), (256, 2)])
def test_shapes(image_size, width, channels):
    detector = make(channels, width, image_size)
    embedding, logit = detector(draw(2, channels, image_size, image_size))
    assert embedding.shape == (2, 8 * width)
    assert logit.shape == (2,)
    assert torch.isfinite(embedding).all()


def test_pictures_need_not_be_square():
    assert make(1, 2, 16).embed(draw(2, 1, 16, 40)).shape == (2, 16)


def test_width_64_is_resnet_18():
    detector = make(3, 64, 256)
    backbone = sum(
        p.numel() for part in (detector.stem, detector.blocks) for p in part.parameters()
    )
    assert backbone == 11_176_512  # torchvision's resnet18 without its last layer


@pytest.mark.parametrize("unit", [True, False])
def test_unit_embedding(unit, assert_close):
    detector = make(1, 2, 16, unit_embedding=unit)
    image = draw(4, 1, 16, 16)
    length = torch.linalg.vector_norm(detector.embed(image), dim=1)
    assert (abs(length - 1) < 1e-5).all() == unit
    if not unit:
        unit_detector = make(1, 2, 16)
        assert_close(F.normalize(detector.embed(image), dim=1), unit_detector.embed(image))


def test_normalises_with_mean_and_std(assert_close):
    mean, std = torch.tensor([0.3, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.4])
    image = draw(2, 3, 16, 16)
    normalised = (image - mean[:, None, None]) / std[:, None, None]
    assert_close(make(3, 2, 16, mean, std).embed(image), make(3, 2, 16).embed(normalised))


def test_too_small():
    with pytest.raises(ValueError, match="image_size is 15; ResNetDetector needs at least 16 px"):
        make(1, 2, MIN_IMAGE_SIZE - 1)


@pytest.mark.parametrize("dead", [False, True])
def test_differentiable_twice(dead):
    detector = make(1, 2, 16)
    if dead:  # every embedding is zero
        for block in detector.blocks[-2:]:
            block.norm2.bias.data.fill_(-10)
            block.conv1.weight.data.zero_()
        detector.blocks[-2].shortcut[1].bias.data.fill_(-10)
    image = draw(4, 1, 16, 16).requires_grad_()
    embedding, logit = detector(image)
    assert embedding.any().item() is not dead
    parameters = list(detector.parameters())
    loss = F.binary_cross_entropy_with_logits(logit, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    first = torch.autograd.grad(loss, parameters, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), [image, *parameters])
    assert all(torch.isfinite(g).all() for g in (*first, *second))
    assert second[0].any().item() is not dead


ODD_BATCHES = """
import torch
from stssad_fast.detectors import ResNetDetector

torch.set_num_threads(2)
for width in (2, 8):
    detector = ResNetDetector(1, width, 16)
    for count in (5, 7) * 20:
        embedding, logit = detector(torch.rand(count, 1, 16, 16))
        torch.autograd.grad(embedding.sum() + logit.sum(), list(detector.parameters()))
"""


def test_two_threads_share_an_odd_batch():
    # In a process of its own: an error is a corrupted heap, and the tests have one thread.
    run = subprocess.run([sys.executable, "-c", ODD_BATCHES], capture_output=True, text=True)
    assert run.returncode == 0, (run.returncode, run.stderr)


def test_a_strided_shortcut_is_the_convolution_it_replaces(assert_close):
    shortcut = make(1, 2, 16).blocks[2].shortcut[0]
    assert shortcut.stride == (2, 2)
    for size in (8, 7, 1):
        image = draw(3, 2, size, size + 1)
        assert_close(shortcut(image), F.conv2d(image, shortcut.weight, None, 2))
