"""SVDDNetwork: every size, no bias anywhere, its centre and score."""

import pytest
import torch
from torch import nn

from stssad_fast.detectors import SVDDNetwork


def make(*args, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SVDDNetwork(*args, **kwargs)


def draw(*size):
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (17, 23), (64, 64)])
def test_shapes(size, channels):
    network, image = make(channels, size, 2, 5), draw(3, channels, *size)
    assert network(image).shape == (3, 5)
    assert network.score(image).shape == (3,)


def test_published_size():
    network = make(3, (32, 32))
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert shapes == [(32, 3, 5, 5), (64, 32, 5, 5), (128, 64, 5, 5), (128, 2048)]


def test_nothing_has_a_bias_or_a_bound_at_the_end():
    network = make(1, (16, 16), 2, 5)
    for module in network.modules():
        assert getattr(module, "bias", None) is None
    assert isinstance(network.layers[-1], nn.Linear)


def test_normalises_with_mean_and_std(assert_close):
    mean, std = torch.tensor([0.3, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.4])
    image = draw(2, 3, 16, 16)
    normalised = (image - mean[:, None, None]) / std[:, None, None]
    found = make(3, (16, 16), 2, 5, mean, std)(image)
    assert_close(found, make(3, (16, 16), 2, 5)(normalised))


def test_the_centre_keeps_away_from_zero(assert_close):
    network = make(1, (16, 16), 2, 5)
    network.set_center(torch.tensor([0.0, 0.03, -0.03, 0.7, -2.0]))
    assert_close(network.center, torch.tensor([0.1, 0.1, -0.1, 0.7, -2.0]))
    assert "center" in network.state_dict()


def test_score_is_the_squared_distance_to_the_centre(assert_close):
    network, image = make(1, (16, 16), 2, 5), draw(4, 1, 16, 16)
    network.set_center(draw(5))
    distance = torch.cdist(network.eval()(image), network.center[None])[:, 0]
    assert_close(network.score(image), distance**2)
