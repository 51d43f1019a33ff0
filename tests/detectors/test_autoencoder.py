"""ConvAutoEncoder: every size, the published one, its score."""

import pytest
import torch

from stssad_fast.detectors import ConvAutoEncoder


def make(*args, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConvAutoEncoder(*args, **kwargs)


def draw(*size):
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (17, 23), (31, 16), (18, 37), (64, 64)])
def test_the_reconstruction_is_a_picture_of_the_same_shape(size, channels):
    image = draw(3, channels, *size)
    out = make(channels, size, width=2, hidden=5)(image)
    assert out.shape == image.shape
    assert out.min() >= 0
    assert out.max() <= 1
    assert make(channels, size, width=2, hidden=5).encoder(image).shape == (3, 5)


def test_published_size():
    network = make(3, (32, 32))
    shapes = [tuple(p.shape) for p in network.encoder.parameters() if p.ndim == 4]
    assert shapes == [(64, 3, 3, 3), (128, 64, 3, 3), (256, 128, 3, 3), (512, 256, 3, 3)]
    codes = network.encoder(draw(2, 3, 32, 32))
    assert codes.shape == (2, 256)
    assert codes.abs().max() < 1


def test_score_is_the_mean_squared_error(assert_close):
    network, image = make(3, (16, 20), 2, 4).eval(), draw(4, 3, 16, 20)
    out = network(image)
    expected = [((out[i] - image[i]) ** 2).sum() / (3 * 16 * 20) for i in range(4)]
    assert_close(network.score(image), torch.stack(expected))


def test_every_parameter_is_learned():
    network = make(1, (16, 16), 2, 4)
    network.score(draw(4, 1, 16, 16)).mean().backward()
    assert all(p.grad.any() for p in network.parameters())
