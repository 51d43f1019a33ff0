"""Which augmentation fits: candidates, what a detector of one sees, and their order."""

import numpy as np
import pytest
import torch

from stssad_fast import STSSAD, CutDiff, InputError, mean_distance_loss
from stssad_fast.augment import catalogue
from stssad_fast.augment.catalogue import Named
from stssad_fast.datasets import load_digits
from stssad_fast.recommendation import CANDIDATES, Changing, Evidence, Learned, recommend

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


def test_held_out_pictures_that_are_all_alike(digits):
    learned = Learned(digits[0], Named("noise"), parameters=SMALL)
    learned._held_out[:] = 1.0
    assert learned.judge(digits[1]).separation == 0


def test_pictures_that_cannot_be_used(digits):
    train, test = digits
    with pytest.raises(InputError, match="7 training pictures; expected at least 8"):
        recommend(train[:7], test, [Named.parse("noise")])
    with pytest.raises(InputError, match="1 channel"):
        recommend(train, test.expand(-1, 3, -1, -1), [Named.parse("noise")])
    with pytest.raises(InputError, match="identity"):
        recommend(train, test, [Named.parse("noise"), Named("identity")])


WIDE = torch.rand(12, 1, 16, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def untrained(monkeypatch):
    """Names of the candidates that would have been trained; none is."""
    names = []

    class Pretended:
        def __init__(self, train, candidate, *more):
            names.append(candidate.name)

        def judge(self, test):
            return Evidence(None, 0.0, 0.0, 0.0, 0.0, None, None, {})

    monkeypatch.setattr("stssad_fast.recommendation.Learned", Pretended)
    return names


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ("rotate", r"candidates is 'rotate'; expected a list such as \['rotate'"),
        ([], r"candidates is \[\]"),
        (Named("flip"), r"candidates is Named\("),
        (["flip", CutDiff(0.1)], r"candidates has CutDiff\(\); expected names"),
        (["flip", "sparkle"], "'sparkle'; choose one of"),
        ([Named("flip"), "geom"], "square ones; these are 16 by 20"),
    ],
)
def test_candidates_that_cannot_be_used(candidates, words, untrained):
    with pytest.raises(InputError, match=words):
        recommend(WIDE, WIDE, candidates)
    assert not untrained


def test_all_candidates_that_the_pictures_allow(untrained):
    recommend(WIDE, WIDE)
    assert set(untrained) == {c.name for c in CANDIDATES} - {"rotate", "geom"}
    untrained.clear()
    recommend(WIDE[..., :16], WIDE[..., :16])
    assert untrained == [c.name for c in CANDIDATES]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"wdth": 2}, "parameters has 'wdth'; choose from backbone, batch_size"),
        ({"warm_up": 5}, "parameters has 'warm_up'"),
        ({2: 2}, "parameters has 2"),
        ("width", "parameters is 'width'; expected a dict"),
        ({"steps": 0}, "steps is 0; expected a whole number of updates, at least 1"),
        ({"steps": 2.5}, "steps is 2.5"),
    ],
)
def test_parameters_that_cannot_be_used(parameters, words, digits, monkeypatch):
    monkeypatch.setattr(STSSAD, "fit", lambda *_, **__: pytest.fail("training was begun"))
    with pytest.raises(InputError, match=words):
        recommend(*digits, ["noise"], parameters=parameters)


def test_a_seed_of_any_kind_is_one_for_all_candidates(digits):
    whole, drawn, none = (
        recommend(*digits, ["noise", "noise"], random_state=seed, parameters=SMALL)
        for seed in (np.int64(3), np.random.RandomState(3), None)
    )
    assert whole[0].separation == whole[1].separation
    (same,) = recommend(*digits, [Named("noise")], random_state=3, parameters=SMALL)
    assert whole[0].separation == same.separation != drawn[0].separation
    for found in (drawn, none):
        assert found[0].separation == found[1].separation
    with pytest.raises(ValueError, match="cannot be used to seed"):
        recommend(*digits, ["noise"], random_state="x", parameters=SMALL)
