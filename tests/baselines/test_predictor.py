"""AP: its loss, its score, which classes pictures are seen in, what has no classes."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from stssad_fast import InputError
from stssad_fast.augment.catalogue import make
from stssad_fast.baselines import AugmentationPredictor

SMALL = {"epochs": 1, "batch_size": 4, "random_state": 3, "device": "cpu"}


class Brightness(nn.Module):
    """In the place of a network: logits are brightness times a weight for each class."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, image):
        return image.mean((1, 2, 3))[:, None] * self.weights


@pytest.fixture
def inverting(halves):
    """One that tells inverted pictures, already fitted."""
    return AugmentationPredictor("invert", **SMALL).fit(halves(4, "left"))


def test_the_loss_is_the_cross_entropy_of_all_classes_of_all_pictures(
    halves, inverting, assert_close, generator
):
    images = halves(3, "left")
    loss = inverting._loss(Brightness([1.0, 3.0]), images, generator)
    expected = []
    for x in images:
        for k, seen in enumerate((x, 1 - x)):
            logits = seen.mean().item() * np.array([1.0, 3.0])
            expected.append(math.log(np.exp(logits).sum()) - logits[k])
    assert_close(loss.float(), torch.tensor(np.mean(expected), dtype=torch.float32))


def test_the_score_adds_the_probabilities_of_the_right_classes(halves, inverting, assert_close):
    images = halves(3, "left")
    inverting.network_ = Brightness([1.0, 3.0])
    bright = images.double().mean((1, 2, 3))
    kept = bright.exp() / (bright.exp() + (3 * bright).exp())
    dark = 1 - bright
    inverted = (3 * dark).exp() / (dark.exp() + (3 * dark).exp())
    found = inverting.anomaly_scores(images)
    np.testing.assert_allclose(found, -(kept + inverted), rtol=1e-5)


def test_finds_what_the_augmentation_does_not_show(halves):
    # Whether a picture is upright can be told for the training pictures, not for noise.
    images = halves(24, "top")
    model = AugmentationPredictor("flip", **{**SMALL, "epochs": 8, "batch_size": 8}).fit(images)
    normal, other = halves(16, "top", 1), halves(16, "left", 2)
    scores = model.anomaly_scores(torch.cat([normal, other]))
    assert roc_auc_score([0] * 16 + [1] * 16, scores) == 1
    assert (scores[:16] < -1.7).all()
    assert ((scores >= -2) & (scores <= 0)).all()


def test_rotations_are_all_learned(halves):
    images = halves(16, "left")
    model = AugmentationPredictor(**{**SMALL, "epochs": 16, "batch_size": 4}).fit(images)
    assert model.network_.head.out_features == 4
    assert (model.anomaly_scores(halves(8, "left", 1)) < -3.5).all()


def test_each_picture_is_seen_in_some_of_many_classes(inverting, generator):
    inverting.classes_per_picture = 3
    chosen = inverting._chosen(400, 6, generator)
    assert (chosen.sum(1) == 3).all()
    assert ((chosen.sum(0) > 150) & (chosen.sum(0) < 250)).all()
    assert len(chosen.unique(dim=0)) == 20  # all there are
    assert inverting._chosen(4, 3, generator).all()


def test_geom_has_72_classes_of_which_some_are_seen_and_all_scored(halves):
    images = halves(4, "left")
    model = AugmentationPredictor("geom", classes_per_picture=2, **SMALL).fit(images)
    assert model.network_.head.out_features == 72
    scores = model.anomaly_scores(images)
    assert ((scores > -72) & (scores < 0)).all()


def test_scores_of_random_classes_are_the_same_in_every_call(halves):
    images = halves(6, "left")
    model = AugmentationPredictor(make("noise", std=0.5), **SMALL).fit(images)
    np.testing.assert_array_equal(model.anomaly_scores(images), model.anomaly_scores(images))
    again = AugmentationPredictor("noise", augmentation_settings={"std": 0.5}, **SMALL).fit(images)
    np.testing.assert_array_equal(again.anomaly_scores(images), model.anomaly_scores(images))


def test_the_embedding_is_of_the_picture_as_it_is(halves, inverting):
    images = halves(3, "left")
    with torch.no_grad():
        expected = inverting.network_.embed(images)
    np.testing.assert_array_equal(inverting.embed(images), expected.numpy())
    wider = AugmentationPredictor("invert", widen=2, **SMALL).fit(images)
    assert wider.embed(images).shape == (3, 128)


class Classless(nn.Module):
    classes = 2

    def forward(self, image, *, generator=None):
        return image


@pytest.mark.parametrize("augmentation", ["identity", make("identity"), nn.ReLU(), Classless()])
def test_what_has_no_classes_is_refused(halves, augmentation):
    with pytest.raises(InputError, match=r"no classes to tell apart.*other than 'identity'"):
        AugmentationPredictor(augmentation, **SMALL).fit(halves(4, "left"))


@pytest.mark.parametrize(
    "changes", [{"depth": 12}, {"widen": 0}, {"classes_per_picture": 0}], ids=str
)
def test_wrong_parameters(halves, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        AugmentationPredictor(**{**SMALL, **changes}).fit(halves(4, "left"))
