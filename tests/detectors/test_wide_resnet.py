"""WideResNet: every size, the published one, its normalisation."""

import pytest
import torch

from stssad_fast.detectors import WideResNet


def make(*args, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WideResNet(*args, **kwargs)


def draw(*size):
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (17, 23), (48, 40), (65, 80)])
def test_shapes(size, channels):
    network, image = make(channels, 5, 10, 1, min(size)), draw(2, channels, *size)
    assert network(image).shape == (2, 5)
    assert network.embed(image).shape == (2, 64)


@pytest.mark.parametrize(("side", "features"), [(32, 32), (64, 32), (128, 32)])
def test_larger_pictures_are_made_smaller_first(side, features):
    network = make(1, 2, 10, 1, side)
    assert network.stem(draw(1, 1, side, side)).shape[2:] == (features, features)


def test_published_size():
    network = make(3, 72)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters() if p.ndim == 4}
    assert list(shapes.values()) == [
        (16, 3, 3, 3),
        *[(64, 16, 3, 3), (64, 64, 3, 3), (64, 16, 1, 1)],
        *[(128, 64, 3, 3), (128, 128, 3, 3), (128, 64, 1, 1)],
        *[(256, 128, 3, 3), (256, 256, 3, 3), (256, 128, 1, 1)],
    ]
    assert network.head.weight.shape == (72, 256)
    assert len(make(1, 2, 22, 1).blocks) == 9
    with pytest.raises(ValueError, match="depth is 12"):
        make(1, 2, 12)


def test_a_block_adds_to_what_it_is_given(assert_close):
    network, x = make(1, 2, 16, 1).eval(), draw(2, 16, 8, 8)
    block = network.blocks[1]
    torch.nn.init.zeros_(block.conv2.weight)
    assert_close(block(x), x)


def test_normalises_with_mean_and_std(assert_close):
    mean, std = torch.tensor([0.3, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.4])
    image = draw(2, 3, 16, 16)
    normalised = (image - mean[:, None, None]) / std[:, None, None]
    found = make(3, 4, 10, 1, 16, mean, std).eval()(image)
    assert_close(found, make(3, 4, 10, 1, 16).eval()(normalised))


def test_every_parameter_is_learned():
    network = make(1, 3, 10, 1, 16)
    network(draw(4, 1, 16, 16)).square().sum().backward()
    assert all(p.grad.any() for p in network.parameters())
