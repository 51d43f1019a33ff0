"""Which augmentation fits: candidates, what a detector of one sees, and their order."""

import numpy as np
import pytest
import torch

from stssad_fast import InputError, mean_distance_loss
from stssad_fast.augment import catalogue
from stssad_fast.augment.catalogue import Named
from stssad_fast.datasets import load_digits
from stssad_fast.recommendation import CANDIDATES, Changing, Learned, recommend

SMALL = {"width": 2, "batch_size": 8, "steps": 3}


@pytest.fixture(scope="module")
def digits():
    split = load_digits(6, 9, image_size=16)
    return split.train_images[:24], split.test_images[:20]


def test_all_candidates_are_known_by_their_text():
    assert len({str(candidate) for candidate in CANDIDATES}) == len(CANDIDATES)
    assert all(Named.parse(str(candidate)) == candidate for candidate in CANDIDATES)
    assert {c.name for c in CANDIDATES} == {*catalogue.NAMES, "cutdiff"} - {"identity"}


@pytest.mark.parametrize("name", ["flip", "invert", "rotate"])
def test_every_picture_is_changed(name):
    image = torch.rand(40, 1, 16, 16)
    made = Changing(Named(name))(image, generator=torch.Generator().manual_seed(0))
    assert (made != image).flatten(1).any(1).all()
    if name == "rotate":
        turned = [torch.rot90(image, k, (2, 3)) for k in (1, 2, 3)]
        kinds = torch.stack([torch.isclose(made, t, atol=1e-5).flatten(1).all(1) for t in turned])
        assert kinds.any(0).all()
        assert kinds.any(1).all()


def test_what_is_seen_of_a_test_set(digits, assert_close):
    train, test = digits
    learned = Learned(train, Named("invert"), parameters=SMALL)
    found = learned.judge(test)
    model, density = learned.model, learned.model.density_
    held = torch.arange(len(train)) % 4 == 0
    logs = [np.log(density.distance(model.embed(x))) for x in (train[held], test)]
    np.testing.assert_allclose(found.held_out, logs[0])
    np.testing.assert_allclose(found.test, logs[1])
    np.testing.assert_allclose(found.separation, (logs[1].mean() - logs[0].mean()) / logs[0].std())
    sets = [model.embed(x) for x in (train[~held], 1 - train[~held], test)]
    assert_close(found.alignment, mean_distance_loss(*map(torch.from_numpy, sets)))
    np.testing.assert_allclose(found.variance, np.var(learned.scores(test), ddof=1), rtol=1e-6)
    assert found.train_loss == model.starts_[0]["train_loss"]
    assert {name: len(rows) for name, rows in found.embeddings.items()} == {
        "train": 18,
        "augmented": 18,
        "test": 20,
    }


def test_held_out_pictures_are_not_trained_on(digits):
    train, test = digits
    other = train.clone()
    other[::4] = torch.rand_like(other[::4])
    one, two = (Learned(t, Named("invert"), parameters=SMALL).judge(test) for t in (train, other))
    np.testing.assert_array_equal(one.test, two.test)
    assert not np.array_equal(one.held_out, two.held_out)


def test_the_best_comes_first():
    """Anomalies are inverted digits: who has learned to see that is ahead of who has not."""
    split = load_digits(6, 9, image_size=16)
    normal = split.test_images[torch.from_numpy(split.test_labels == 0)]
    test = torch.cat([normal[0::2], 1 - normal[1::2]])
    seen = []
    found = recommend(
        split.train_images,
        test,
        [Named.parse("cutdiff:size=0.0001"), Named.parse("invert")],
        parameters={"width": 4, "steps": 40},
        callback=lambda done, left: seen.append((done, left)),
    )
    assert [str(row.candidate) for row in found] == ["invert", "cutdiff:size=0.0001"]
    assert found[0].separation > found[1].separation > 0
    assert seen == [(1, 2), (2, 2)]


def test_a_test_set_of_normal_pictures_is_not_set_apart():
    split = load_digits(6, 9, image_size=16)
    normal = split.test_images[torch.from_numpy(split.test_labels == 0)]
    parameters = {"width": 4, "steps": 40}
    (found,) = recommend(split.train_images, normal, [Named.parse("invert")], parameters=parameters)
    assert abs(found.separation) < 1


def test_equal_seeds_give_equal_numbers(digits):
    one, two, three = (
        recommend(*digits, [Named.parse("noise")], random_state=seed, parameters=SMALL)[0]
        for seed in (0, 0, 1)
    )
    assert (one.separation, one.alignment) == (two.separation, two.alignment)
    assert one.separation != three.separation


def test_pictures_that_are_all_alike():
    train, test = torch.full((12, 1, 16, 16), 0.5), torch.full((4, 1, 16, 16), 0.5)
    (found,) = recommend(train, test, [Named.parse("noise")], parameters=SMALL)
    assert np.isfinite([found.separation, found.alignment, found.variance]).all()


def test_pictures_that_cannot_be_used(digits):
    train, test = digits
    with pytest.raises(InputError, match="7 training pictures; expected at least 8"):
        recommend(train[:7], test, [Named.parse("noise")])
    with pytest.raises(InputError, match="1 channel"):
        recommend(train, test.expand(-1, 3, -1, -1), [Named.parse("noise")])
    with pytest.raises(InputError, match="identity"):
        recommend(train, test, [Named.parse("noise"), Named("identity")])
