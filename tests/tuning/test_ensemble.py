"""All starts together: places instead of scores, weighted by the shift."""

import numpy as np
import pytest
from scipy.stats import rankdata

from stssad_fast import STSSAD
from stssad_fast.datasets import load_digits
from stssad_fast.tuning import ensemble

SPLIT = load_digits(6, 9, image_size=16)
TRAIN, TEST = SPLIT.train_images[:24], SPLIT.test_images[-24:]


def result(shift, scores=(1.0,)):
    return {"score_shift": shift, "scores": None if scores is None else list(scores)}


@pytest.fixture(scope="module")
def fitted():
    model = STSSAD(
        "rotation",
        ensemble=True,
        width=1,
        depth=10,
        warm_up=2,
        iterations=2,
        batch_size=8,
        random_state=0,
    )
    return model.fit(TRAIN, TEST)


def test_weights_are_the_positive_shifts_of_the_starts_that_did_not_diverge():
    starts = [result(3.0), result(-2.0), result(None, None), result(1.0)]
    assert ensemble.members(starts) == [0, 1, 3]
    assert ensemble.weights(starts).tolist() == [0.75, 0.0, 0.25]
    assert ensemble.weights([result(-1.0), result(0.0)]).tolist() == [0.5, 0.5]


def test_of_the_test_pictures_places_are_ranks():
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=20), rng.normal(size=20).round(1)]  # the second with ties
    found = ensemble.combine(scores, scores, np.array([0.25, 0.75]))
    expected = 0.25 * (rankdata(scores[0]) - 0.5) / 20 + 0.75 * (rankdata(scores[1]) - 0.5) / 20
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_scale_of_a_start_does_not_matter():
    rng = np.random.default_rng(0)
    pictures, references = rng.normal(size=(2, 5)), rng.normal(size=(2, 9))
    weight = np.array([0.5, 0.5])
    expected = ensemble.combine(list(pictures), list(references), weight)
    found = ensemble.combine(
        [np.exp(9 * pictures[0]), pictures[1]], [np.exp(9 * references[0]), references[1]], weight
    )
    np.testing.assert_array_equal(found, expected)
    outside = ensemble.combine([np.array([-99.0, 99.0])] * 2, list(references), weight)
    assert outside.tolist() == [0.0, 1.0]


def test_the_estimator_scores_by_all_starts(fitted):
    starts = [np.array(start["scores"]) for start in fitted.starts_]
    assert len(fitted.members_) == 4
    expected = ensemble.combine(starts, starts, ensemble.weights(fitted.starts_))
    np.testing.assert_array_equal(fitted.test_scores_, expected)
    np.testing.assert_array_equal(fitted.anomaly_scores(TEST), expected)
    assert not np.array_equal(rankdata(starts[fitted.chosen_start_]), rankdata(expected))
    np.testing.assert_array_equal(fitted.predict(TEST) == -1, expected > fitted.threshold_)
    assert fitted.threshold_ == np.quantile(fitted.anomaly_scores(TRAIN), 0.95)


def test_a_file_holds_all_starts(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = STSSAD.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.anomaly_scores(TRAIN), fitted.anomaly_scores(TRAIN))
    np.testing.assert_array_equal(loaded.test_scores_, fitted.test_scores_)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


def test_without_it_the_chosen_start_scores(fitted):
    plain = STSSAD(**fitted.get_params() | {"ensemble": False}).fit(TRAIN, TEST)
    chosen = plain.starts_[plain.chosen_start_]["scores"]
    np.testing.assert_array_equal(plain.test_scores_, chosen)
    assert plain.members_ == []
