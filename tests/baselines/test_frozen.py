"""Frozen features: the density of what a backbone sees, its threshold, what is no backbone."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from torch import nn

from stssad_fast import InputError
from stssad_fast.baselines import FrozenFeatures
from stssad_fast.datasets import load_digits


def draw(count, seed, channels=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, 16, 16), generator=generator, dtype=torch.uint8)


TRAIN, TEST = draw(9, 0), draw(6, 1)


def pooled(channels=1, norm=True):
    """A backbone that is nothing but 4 x 4 means, and batch norm, which must not see batches."""
    layers = [nn.BatchNorm2d(channels)] if norm else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())


def test_frozen_features_are_a_density_of_what_the_backbone_sees():
    digits = load_digits(0, 1)
    backbone = pooled()
    model = FrozenFeatures(backbone, device="cpu").fit(digits.train_images)
    assert model.embed(digits.test_images).shape == (len(digits.test_images), 16)
    scores = model.anomaly_scores(digits.test_images)
    assert roc_auc_score(digits.test_labels, scores) > 0.98
    alone = model.anomaly_scores(digits.test_images[:1])
    np.testing.assert_allclose(alone, scores[:1], rtol=1e-5)
    assert backbone[0].num_batches_tracked == 0
    same = clone(model).fit(digits.train_images).anomaly_scores(digits.test_images)
    np.testing.assert_array_equal(same, scores)


def test_the_threshold_of_frozen_features_holds_for_pictures_that_were_not_fitted():
    # 24 pictures in 48 dimensions: their own density would call half of all others anomalous.
    model = FrozenFeatures(pooled(3), device="cpu").fit(draw(24, 0, 3))
    assert (model.predict(draw(200, 1, 3)) == 1).mean() > 0.75
    fitted = model.density_.score(model.embed(draw(24, 0, 3)))
    assert (model.anomaly_scores(draw(200, 1, 3)) > np.quantile(fitted, 0.95)).mean() > 0.4


@pytest.mark.parametrize("count", [2, 3, 4, 11])
def test_frozen_features_of_few_or_equal_pictures(count):
    for images in (draw(count, 0), draw(1, 0).repeat(count, 1, 1, 1)):
        model = FrozenFeatures(pooled(), device="cpu").fit(images)
        assert np.isfinite(model.anomaly_scores(TEST)).all()
        assert np.isfinite(model.threshold_)


class Broken(nn.Module):
    def forward(self, image):
        return image.mean((2, 3)) / 0


def test_frozen_features_of_what_is_no_backbone():
    with pytest.raises(InputError, match="not finite"):
        FrozenFeatures(Broken(), device="cpu").fit(TRAIN)
    with pytest.raises(InputError, match="Pool and flatten"):
        FrozenFeatures(nn.ReLU(), device="cpu").fit(TRAIN)
    with pytest.raises(ValueError, match="backbone"):
        FrozenFeatures("resnet", device="cpu").fit(TRAIN)
