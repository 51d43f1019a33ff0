"""All detectors that are not tuned: scikit-learn's conventions, pictures, what they refuse."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from stssad_fast import InputError
from stssad_fast.augment.catalogue import NAMES
from stssad_fast.baselines import AugmentationPredictor, AutoEncoder, DeepSAD, DeepSVDD
from stssad_fast.datasets import load_digits
from stssad_fast.errors import Diverged

SIZES = {"width": 2, "hidden": 8}
TRAINED = {
    "AE": (AutoEncoder, SIZES),
    "DAE": (AutoEncoder, {**SIZES, "augmentation": "noise"}),
    "DeepSVDD": (DeepSVDD, SIZES),
    "DeepSAD": (DeepSAD, {**SIZES, "augmentation": "invert"}),
    "AP": (AugmentationPredictor, {"augmentation": "invert"}),
}
DIMENSIONS = {"AP": 64}
PARAMS = {"epochs": 2, "batch_size": 4, "random_state": 0, "device": "cpu"}


def draw(count, seed, channels=1, height=16, width=16):
    generator = torch.Generator().manual_seed(seed)
    size = count, channels, height, width
    return torch.randint(256, size, generator=generator, dtype=torch.uint8)


TRAIN, TEST = draw(9, 0), draw(6, 1)


def maker(name):
    """``make(**changes)``: an estimator with small parameters."""
    kind, own = TRAINED[name]
    return lambda **changes: kind(**{**PARAMS, **own, **changes})


@pytest.fixture(params=TRAINED)
def name(request):
    return request.param


@pytest.fixture
def make(name):
    return maker(name)


@pytest.fixture
def fitted(make):
    return make().fit(TRAIN)


@pytest.mark.parametrize("name", ["AE", "DAE", "DeepSVDD", "DeepSAD"])
def test_finds_other_digits(make):
    digits = load_digits(0, 1)
    model = make(width=4, hidden=32, epochs=10, batch_size=16, learning_rate=1e-3)
    model.fit(digits.train_images)
    scores = model.anomaly_scores(digits.test_images)
    assert roc_auc_score(digits.test_labels, scores) > 0.98
    predicted = model.predict(digits.test_images)
    assert (predicted[digits.test_labels == 1] == -1).mean() > 0.9
    assert (predicted[digits.test_labels == 0] == 1).mean() > 0.7


@pytest.mark.parametrize("name", ["AE", "DAE", "DeepSVDD"])
def test_training_makes_the_scores_of_the_training_pictures_small(make):
    images = load_digits(0, 1).train_images[:32]
    less, more = (
        make(epochs=n, width=4, batch_size=8, learning_rate=1e-3)
        .fit(images)
        .anomaly_scores(images)
        .mean()
        for n in (1, 20)
    )
    assert more < 0.8 * less


def test_scores_and_predictions_agree(fitted):
    scores = fitted.anomaly_scores(TEST)
    assert scores.shape == (6,)
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(fitted.score_samples(TEST), -scores)
    np.testing.assert_array_equal(fitted.decision_function(TEST), fitted.threshold_ - scores)
    expected = np.where(scores > fitted.threshold_, -1, 1)
    np.testing.assert_array_equal(fitted.predict(TEST), expected)
    assert fitted.threshold_ == np.quantile(fitted.anomaly_scores(TRAIN), 0.95)


def test_scores_of_a_picture_do_not_depend_on_the_others(fitted):
    alone = np.concatenate([fitted.anomaly_scores(TEST[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(alone, fitted.anomaly_scores(TEST), rtol=1e-5)


def test_embeddings(name, fitted):
    found = fitted.embed(TEST)
    assert found.shape == (6, DIMENSIONS.get(name, 8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(fitted.embed(TEST[2:3]), found[2:3], rtol=1e-4, atol=1e-5)
    assert np.ptp(found, axis=0).any()
    with pytest.raises(InputError, match="fitted on"):
        fitted.embed(draw(2, 0, 3))


def test_one_seed_gives_one_result_and_global_generators_are_left_alone(make, fitted):
    torch.manual_seed(123)
    np.random.seed(123)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = make().fit(TRAIN)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    np.testing.assert_array_equal(again.anomaly_scores(TEST), fitted.anomaly_scores(TEST))
    other = make(random_state=1).fit(TRAIN)
    assert (other.anomaly_scores(TEST) != fitted.anomaly_scores(TEST)).all()


@pytest.mark.parametrize("shape", [(1, 17, 23), (3, 16, 16), (3, 33, 18)])
def test_odd_sizes_and_colours(make, shape):
    model = make(epochs=1).fit(draw(5, 0, *shape))
    assert np.isfinite(model.anomaly_scores(draw(3, 1, *shape))).all()


@pytest.mark.parametrize("name", ["DAE", "DeepSAD", "AP"])
@pytest.mark.parametrize("augmentation", [name for name in NAMES if name != "identity"])
def test_every_augmentation_of_the_catalogue(make, augmentation):
    images = draw(3, 0, 3)
    model = make(augmentation=augmentation, epochs=1).fit(images)
    assert np.isfinite(model.anomaly_scores(images)).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_pictures_that_are_all_the_same(make, value):
    images = np.full((5, 16, 16), value, np.uint8)
    with pytest.raises(InputError, match="train_images is all of one colour"):
        make().fit(images)
    images[0, 0, 0] ^= 1
    assert np.isfinite(make().fit(images).anomaly_scores(images)).all()


def test_a_single_picture_left_over_is_left_for_the_next_epoch(make):
    # Batch norm of the autoencoder's 1 x 1 features cannot train on one picture.
    for count in (2, 3, 5):
        assert make(batch_size=2).fit(draw(count, 0))


class Rows:
    """Pictures that do not lie in memory."""

    def __init__(self, images):
        self.images, self.shape = images, images.shape

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        return self.images[rows]


def test_every_kind_of_picture_gives_the_same_scores(make, fitted):
    expected = fitted.anomaly_scores(TEST)
    for train, test in (
        (TRAIN.numpy()[:, 0], TEST.numpy()[:, 0]),
        (Rows(TRAIN.numpy()), Rows(TEST.numpy())),
    ):
        np.testing.assert_array_equal(make().fit(train).anomaly_scores(test), expected)


def test_callback(make):
    seen = []
    make(epochs=3).fit(TRAIN, callback=lambda *progress: seen.append(progress))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_clone_and_parameters(make, fitted):
    other = clone(fitted)
    assert other.get_params() == fitted.get_params()
    assert not hasattr(other, "network_")
    for call in (other.anomaly_scores, other.score_samples, other.predict):
        with pytest.raises(NotFittedError):
            call(TEST)
    np.testing.assert_array_equal(make().fit_predict(TRAIN), fitted.predict(TRAIN))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (TRAIN[:1], "train_images holds 1 picture"),
        (TRAIN / 255 * torch.nan, "NaN"),
        (TRAIN / 1.0, "ranges from"),
        (TRAIN[:, :, :15], "15 x 16 pixels; both sides need at least 16"),
        (None, "NoneType"),
    ],
)
def test_wrong_pictures(make, images, words):
    with pytest.raises(InputError, match=words):
        make().fit(images)


def test_wrong_pictures_after_fit(fitted):
    for images in (draw(2, 0, 3), draw(2, 0, 1, 20)):
        with pytest.raises(InputError, match="fitted on"):
            fitted.predict(images)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"learning_rate": -1.0},
        {"device": "abacus"},
    ],
    ids=str,
)
def test_wrong_parameters(make, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        make(**changes).fit(TRAIN)


@pytest.mark.parametrize("name", ["AE", "DeepSVDD", "DeepSAD"])
@pytest.mark.parametrize("size", ["width", "hidden"])
def test_wrong_sizes(make, size):
    with pytest.raises(ValueError, match=size):
        make(**{size: 0}).fit(TRAIN)


@pytest.mark.parametrize("epochs", [1, 4])
def test_divergence_is_one_clear_sentence(make, epochs):
    with pytest.raises(Diverged, match=r"diverged.*lower learning_rate"):
        make(learning_rate=1e30, epochs=epochs).fit(TRAIN)


def test_a_second_fit_that_does_not_end_leaves_the_first(make):
    model = make(epochs=2).fit(TRAIN)
    before = model.anomaly_scores(TEST)

    def interrupt(done, todo):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(1 - TRAIN, callback=interrupt)
    assert (model.anomaly_scores(TEST) == before).all()
