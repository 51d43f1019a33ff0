"""All starts together: places instead of scores, weighted by the shift."""

import numpy as np
import pytest
from scipy.stats import rankdata

from stssad_fast import STSSAD, checkpoint
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
    scaled = [[1e6 * each[0] - 1e7, each[1]] for each in (pictures, references)]
    np.testing.assert_allclose(ensemble.combine(*scaled, weight), expected, rtol=1e-9)


def test_new_pictures_keep_their_order_within_and_beyond_the_test_pictures():
    reference = np.array([4.0, 1.0, 2.0, 2.0])
    scores = np.array([-1e300, -2.0, 0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 1e300])
    found = ensemble.places(scores, reference)
    assert found[[3, 5, 7]].tolist() == [0.125, 0.5, 0.875]  # test pictures themselves
    assert found[[4, 6]].tolist() == [0.3125, 0.6875]  # halfway between two
    assert found[[1, 9]].tolist() == [0.0625, 0.9375]  # as far out as the others are apart
    assert (np.diff(found) > 0).all() and found.min() >= 0 and found.max() <= 1
    alike = ensemble.places(np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0]))
    assert alike.tolist() == [0.25, 0.5, 0.75]


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
    tensors, _ = checkpoint.load(tmp_path / "model")
    networks = {name.split("detector.")[0] for name in tensors if "detector." in name}
    assert len(networks) == 4  # the one that is kept is there once
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


def test_parameters_that_change_after_the_fit_change_no_score(fitted, tmp_path):
    model = STSSAD(**fitted.get_params()).fit(TRAIN, TEST).set_params(ensemble=False)
    model.save(tmp_path / "model")
    for each in (model, STSSAD.load(tmp_path / "model")):
        np.testing.assert_array_equal(each.anomaly_scores(TRAIN), fitted.anomaly_scores(TRAIN))
        np.testing.assert_array_equal(each.test_scores_, fitted.test_scores_)


def test_one_start_scores_alone(fitted, tmp_path):
    model = STSSAD(**fitted.get_params() | {"starts": [{"angle": 90.0}]}).fit(TRAIN, TEST)
    assert model.members_ == []
    np.testing.assert_array_equal(model.test_scores_, model.starts_[0]["scores"])
    model.save(tmp_path / "model")
    loaded = STSSAD.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.anomaly_scores(TRAIN), model.anomaly_scores(TRAIN))


def test_without_it_the_chosen_start_scores(fitted):
    plain = STSSAD(**fitted.get_params() | {"ensemble": False}).fit(TRAIN, TEST)
    chosen = plain.starts_[plain.chosen_start_]["scores"]
    np.testing.assert_array_equal(plain.test_scores_, chosen)
    assert plain.members_ == []
