"""DeepSVDD and DeepSAD: how they are trained, their losses and centres."""

import numpy as np
import pytest
import torch
from torch import nn

from stssad_fast.baselines import DeepSAD, DeepSVDD
from stssad_fast.datasets import mean_and_std
from stssad_fast.detectors import SVDDNetwork

SMALL = {"width": 2, "hidden": 8, "epochs": 2, "batch_size": 4, "random_state": 3, "device": "cpu"}
ALWAYS = {"augmentation_settings": {"probability": 1.0}}


def test_training_is_that_of_deep_svdd(halves, train_by_hand):
    images = halves(8, "left")
    model = DeepSVDD(**SMALL).fit(images)

    def make():
        network = SVDDNetwork(1, (16, 16), 2, 8, *mean_and_std(images))
        with torch.no_grad():
            network.set_center(network(images).mean(0))
        return network

    def loss(network, x):
        return (network(x) - network.center).square().sum(1).mean()

    expected = train_by_hand(make, loss, images, model).state_dict()
    for name, value in model.network_.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_centre_of_deep_svdd_is_where_training_began(halves):
    images = halves(9, "left")
    model, longer = (DeepSVDD(**{**SMALL, "epochs": n}).fit(images) for n in (2, 5))
    assert (model.network_.center.abs() >= 0.1 - 1e-7).all()
    assert torch.equal(longer.network_.center, model.network_.center)
    assert not torch.equal(longer.network_.layers[-1].weight, model.network_.layers[-1].weight)


class Known(nn.Module):
    """In the place of a network: a picture's columns are averaged, and moved by a parameter."""

    def __init__(self, center):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(16))
        self.center = center

    def forward(self, image):
        return image.mean((1, 2)) + self.shift

    def score(self, image):
        return (self(image) - self.center).square().sum(1)


@pytest.fixture
def prepared(halves):
    """``prepared(augmentation, ...)``: a DeepSAD between two epochs, whose network is replaced."""
    return lambda *args, **settings: DeepSAD(*args, **settings, **SMALL).fit(halves(4, "left"))


def test_loss_and_gradient_of_deep_sad(halves, prepared, assert_close, generator):
    images, center = halves(3, "left"), torch.linspace(0.5, 2, 16)
    network = Known(center)
    loss = prepared("invert", **ALWAYS)._loss(network, images, generator)
    loss.backward()
    normal = images.mean((1, 2)) - center
    away = 1 - images.mean((1, 2)) - center
    squares = (away**2).sum(1, keepdim=True) + 1e-6
    assert_close(loss, (normal**2).sum(1).mean() + (1 / squares).mean())
    assert_close(network.shift.grad, (2 * normal - 2 * away / squares**2).mean(0))


def test_without_an_augmentation_the_loss_is_the_first_term(
    halves, prepared, assert_close, generator
):
    images, center = halves(3, "left"), torch.linspace(0.5, 2, 16)
    loss = prepared("identity")._loss(Known(center), images, generator)
    assert_close(loss, ((images.mean((1, 2)) - center) ** 2).sum(1).mean())


@pytest.mark.parametrize("augmentation", ["invert", "identity"])
def test_the_centre_of_deep_sad_is_the_mean_of_what_is_scored(halves, augmentation, assert_close):
    images = halves(9, "left")
    model, longer = (DeepSAD(augmentation, **{**SMALL, "epochs": n}).fit(images) for n in (2, 5))
    for fitted in (model, longer):
        mean = torch.tensor(fitted.embed(images)).mean(0)
        expected = SVDDNetwork(1, (16, 16), 2, 8)
        expected.set_center(mean)
        assert_close(fitted.network_.center, expected.center)
    assert not torch.equal(longer.network_.center, model.network_.center)


def test_an_augmented_picture_at_the_centre_is_finite(prepared, generator):
    images = torch.full((2, 1, 16, 16), 0.5)
    network = Known(torch.full((16,), 0.5))
    loss = prepared("invert", **ALWAYS)._loss(network, images, generator)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(network.shift.grad).all()


def test_augmented_pictures_are_kept_away(halves):
    images = halves(16, "top")
    fit = {**SMALL, "width": 4, "epochs": 20, "learning_rate": 1e-3}
    one_sided, vanilla = (
        DeepSAD(name, augmentation_settings=settings, **fit).fit(images)
        for name, settings in (("flip", {"probability": 1.0}), ("identity", None))
    )
    assert vanilla.augmentation_ is None
    normal, flipped = halves(8, "top", 1), halves(8, "bottom", 2)
    ratio = [
        np.median(model.anomaly_scores(flipped)) / np.median(model.anomaly_scores(normal))
        for model in (one_sided, vanilla)
    ]
    assert ratio[0] > 3 * max(ratio[1], 1)


def test_the_score_is_the_squared_distance_of_the_embedding(halves):
    images = halves(6, "left")
    model = DeepSAD("invert", **SMALL).fit(images)
    distance = model.embed(images) - model.network_.center.numpy()
    expected = (distance**2).sum(1)
    np.testing.assert_allclose(model.anomaly_scores(images), expected, rtol=1e-5)
