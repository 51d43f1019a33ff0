"""AE and DAE: how they are trained, what they reconstruct."""

import numpy as np
import pytest
import torch
from torch import nn

from stssad_fast import InputError
from stssad_fast.augment import CutDiff
from stssad_fast.augment.catalogue import make
from stssad_fast.baselines import AutoEncoder
from stssad_fast.detectors import ConvAutoEncoder

SMALL = {"width": 2, "hidden": 6, "epochs": 2, "batch_size": 4, "random_state": 3, "device": "cpu"}


@pytest.mark.parametrize("decay", [{}, {"weight_decay": 0.5}])
def test_without_an_augmentation_training_is_that_of_an_autoencoder(halves, train_by_hand, decay):
    images = halves(8, "left")
    model = AutoEncoder(**SMALL, **decay).fit(images)
    assert model.weight_decay == decay.get("weight_decay", 0)
    expected = train_by_hand(
        lambda: ConvAutoEncoder(1, (16, 16), 2, 6),
        lambda network, x: (network(x) - x).square().flatten(1).mean(1).mean(),
        images,
        model,
    ).state_dict()
    assert model.augmentation_ is None
    for name, value in model.network_.state_dict().items():
        assert torch.equal(value, expected[name]), name


class Known(nn.Module):
    """In the place of a network: gives what it is given, times a number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, image):
        return self.scale * image


def test_the_loss_is_the_distance_of_the_augmented_to_the_picture(halves, assert_close, generator):
    images = halves(3, "left")
    model = AutoEncoder("invert", augmentation_settings={"probability": 1.0}, **SMALL).fit(images)
    network = Known()
    loss = model._loss(network, images, generator)
    loss.backward()
    difference = 0.5 * (1 - images) - images
    assert_close(loss, (difference**2).mean())
    assert_close(network.scale.grad, (2 * difference * (1 - images)).mean())


def test_a_denoising_one_takes_the_augmentation_back(halves):
    images = torch.cat([halves(16, "top"), halves(16, "bottom", 1)])
    flipped = images.flip(2).numpy()
    fit = {**SMALL, "width": 8, "hidden": 16, "epochs": 16, "learning_rate": 3e-3}
    always = {"augmentation_settings": {"probability": 1.0}}
    for model, expected, other in (
        (AutoEncoder("flip", **always, **fit), flipped, images.numpy()),
        (AutoEncoder(**fit), images.numpy(), flipped),
    ):
        made = model.fit(images).reconstruct(images)
        assert made.shape == images.shape
        assert made.dtype == np.float32
        assert made.min() >= 0
        assert made.max() <= 1
        assert ((made - expected) ** 2).mean() < 0.2 * ((made - other) ** 2).mean()


def test_the_score_is_of_the_picture_as_it_is(halves):
    images = halves(6, "left")
    model = AutoEncoder("invert", **SMALL).fit(images)
    expected = ((model.reconstruct(images) - images.numpy()) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(model.anomaly_scores(images), expected, rtol=1e-5)
    np.testing.assert_array_equal(
        model.embed(images), model.network_.encoder(images).detach().numpy()
    )
    with pytest.raises(InputError, match="fitted on"):
        model.reconstruct(torch.zeros(2, 3, 16, 16))


def test_a_module_augments_as_its_name_does_and_is_left_as_it_was(halves):
    images = halves(6, "left")
    named = AutoEncoder("noise", augmentation_settings={"std": 0.3}, **SMALL).fit(images)
    module = make("noise", std=0.3)
    given = AutoEncoder(module, **SMALL).fit(images)
    assert given.augmentation_ is not module
    np.testing.assert_array_equal(given.anomaly_scores(images), named.anomaly_scores(images))
    weaker = AutoEncoder("noise", augmentation_settings={"std": 0.1}, **SMALL).fit(images)
    assert (weaker.anomaly_scores(images) != named.anomaly_scores(images)).all()
    tunable = AutoEncoder(CutDiff(0.1), **SMALL).fit(images)
    assert all(value.grad is None for value in tunable.augmentation_.parameters())


class Noted(nn.Module):
    """Notes a number that it draws."""

    def forward(self, image, *, generator=None):
        self.drawn = torch.rand((), generator=generator).item()
        return image


def test_the_seed_decides_what_the_augmentation_draws(halves):
    images = halves(4, "left")
    first, again, other = (
        AutoEncoder(Noted(), **{**SMALL, "random_state": seed}).fit(images).augmentation_.drawn
        for seed in (0, 0, 1)
    )
    assert first == again != other


class Smaller(nn.Module):
    def forward(self, image, *, generator=None):
        return image[..., 1:]


@pytest.mark.parametrize(
    ("augmentation", "settings", "words"),
    [
        ("sharpen", None, "sharpen"),
        ("noise", {"volume": 3.0}, "volume"),
        ("noise", {"std": -1.0}, "std"),
        (nn.Identity(), {"std": 0.1}, "augmentation_settings belong to a named augmentation"),
        (Smaller(), None, r"gives \(4, 1, 16, 15\) .* keeps their shape"),
    ],
)
def test_wrong_augmentations(halves, augmentation, settings, words):
    with pytest.raises(InputError, match=words):
        AutoEncoder(augmentation, augmentation_settings=settings, **SMALL).fit(halves(4, "left"))
    with pytest.raises(ValueError, match="augmentation"):
        AutoEncoder(7, **SMALL).fit(halves(4, "left"))


@pytest.mark.parametrize("decay", [-1e-5, "much"])
def test_wrong_weight_decay(halves, decay):
    with pytest.raises(ValueError, match="weight_decay"):
        AutoEncoder(weight_decay=decay, **SMALL).fit(halves(4, "left"))
