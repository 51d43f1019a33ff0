"""STSSAD: scikit-learn's conventions, determinism, files, and what it refuses."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from torch import nn

from stssad_fast import STSSAD, InputError
from stssad_fast.augment import Augmentation, CutDiff, Rotation
from stssad_fast.baselines import AutoEncoder

PARAMS = {
    "width": 2,
    "iterations": 2,
    "warm_up": 1,
    "batch_size": 4,
    "starts": [{"size": 0.01}, {"size": 0.1, "aspect": 2.0}],
    "random_state": 0,
    "device": "cpu",
}


def make(**changes):
    return STSSAD(**{**PARAMS, **changes})


def draw(count, seed, channels=1, size=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


TRAIN, TEST = draw(10, 0), draw(8, 1)


@pytest.fixture(scope="module")
def fitted():
    return make().fit(TRAIN, TEST)


def test_parameters_are_kept_as_given():
    model = make()
    before = copy.deepcopy(model.get_params())
    assert model.get_params()["starts"] is PARAMS["starts"]
    model.fit(TRAIN, TEST)
    assert model.get_params() == before
    assert model.set_params(width=3).width == 3
    with pytest.raises(ValueError, match="Invalid parameter"):
        model.set_params(deep=1)


def test_clone(fitted):
    other = clone(fitted)
    assert other.get_params() == fitted.get_params()
    assert not hasattr(other, "starts_")
    assert "width=2" in repr(other)


def test_before_fit():
    model = make()
    for call in (
        model.decision_function,
        model.score_samples,
        model.predict,
        model.anomaly_scores,
        model.embed,
    ):
        with pytest.raises(NotFittedError):
            call(TEST)
    for attempt in (lambda: model.history_, lambda: model.save("nowhere")):
        with pytest.raises(NotFittedError):
            attempt()


def test_fitted_attributes(fitted):
    check_is_fitted(fitted)
    assert isinstance(fitted.augmentation_, CutDiff)
    assert len(fitted.starts_) == 2
    variances = [start["score_variance"] for start in fitted.starts_]
    assert fitted.chosen_start_ == np.argmax(variances)
    chosen = fitted.starts_[fitted.chosen_start_]
    assert fitted.history_ is chosen["history"]
    assert len(fitted.history_["train_loss"]) == 2
    assert fitted.augmentation_.describe() == chosen["final"]
    kept_alone = fitted.density_.score(fitted.embed(TEST))
    np.testing.assert_allclose(kept_alone, chosen["scores"])
    assert np.var(chosen["scores"], ddof=1) == pytest.approx(max(variances))
    json.dumps(fitted.starts_)  # plain values only


def test_scores_and_predictions_agree(fitted):
    decision = fitted.decision_function(TEST)
    assert decision.shape == (8,)
    assert decision.dtype == np.float64
    np.testing.assert_array_equal(fitted.score_samples(TEST), -fitted.anomaly_scores(TEST))
    np.testing.assert_array_equal(decision, fitted.score_samples(TEST) - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(TEST), np.where(decision < 0, -1, 1))
    assert fitted.threshold_ == -fitted.offset_
    assert fitted.embed(TEST).shape == (8, 16)


@pytest.mark.parametrize("contamination", [0.125, 0.25, 0.5])
def test_contamination_is_the_share_that_is_predicted_anomalous(contamination):
    model = make(contamination=contamination)
    predicted = model.fit_predict(TRAIN, TEST)
    assert (predicted == -1).sum() == contamination * len(TEST)
    np.testing.assert_array_equal(predicted, model.predict(TEST))


def test_contamination_auto(fitted):
    assert (fitted.predict(TRAIN) == -1).sum() == 1  # 5 % of 10, and at least one


def same(one, other):
    np.testing.assert_array_equal(one.score_samples(TEST), other.score_samples(TEST))
    assert one.threshold_ == other.threshold_
    assert one.history_ == other.history_


def test_one_seed_gives_one_result_and_global_generators_are_left_alone(fitted):
    torch.manual_seed(123)
    np.random.seed(123)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = make().fit(TRAIN, TEST)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    same(again, fitted)
    other = make(random_state=1).fit(TRAIN, TEST)
    scores = [np.array(model.starts_[0]["scores"]) for model in (other, fitted)]
    assert (scores[0] != scores[1]).all()
    same(
        *(make(random_state=np.random.RandomState(5)).fit(TRAIN, TEST) for _ in range(2)),
    )


def test_save_and_load(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    state = torch.get_rng_state()
    loaded = STSSAD.load(tmp_path / "model", device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    same(loaded, fitted)
    assert loaded.get_params() == fitted.get_params()
    assert loaded.starts_ == fitted.starts_
    assert loaded.augmentation_.describe() == fitted.augmentation_.describe()
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


@pytest.mark.parametrize("state", [np.random.RandomState(0), None, np.int64(3)], ids=str)
def test_whatever_random_state_it_can_be_saved(tmp_path, state):
    model = make(random_state=state).fit(TRAIN, TEST)
    model.save(tmp_path / "model")
    same(STSSAD.load(tmp_path / "model", device="cpu"), model)


def test_a_damaged_or_foreign_file_is_refused(fitted, tmp_path):
    path = tmp_path / "model"
    fitted.save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read"):
            STSSAD.load(path)
    with pytest.raises(InputError, match="does not exist"):
        STSSAD.load(tmp_path / "missing")
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="cannot be read"):
        STSSAD.load(path)
    path.unlink()
    make().fit(TRAIN, TEST, checkpoint_path=path)  # ours, but no model
    with pytest.raises(InputError, match="not a model"):
        STSSAD.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": np.int64(2), "batch_size": np.int32(4)},
        {"ensemble": np.bool_(True)},
        {"learning_rate": np.float32(0.01)},
        {"starts": np.array([{"size": 0.1}])},
        {"device": torch.device("cpu")},
    ],
    ids=repr,
)
def test_a_model_with_parameters_of_other_libraries_is_one_to_fit_again(tmp_path, changes):
    model = make(**changes).fit(TRAIN, TEST)
    model.save(tmp_path / "model")
    loaded = STSSAD.load(tmp_path / "model", device=torch.device("cpu"))
    loaded.save(tmp_path / "again")
    assert (loaded.anomaly_scores(TEST) == model.anomaly_scores(TEST)).all()
    assert (loaded.fit(TRAIN, TEST).anomaly_scores(TEST) == model.anomaly_scores(TEST)).all()


@pytest.mark.parametrize(
    "later",
    [{"width": 8}, {"unit_embedding": False}, {"ensemble": True}, {"augmentation": Rotation()}],
)
def test_what_is_set_after_a_fit_does_not_change_what_was_fitted(tmp_path, later):
    model = make().fit(TRAIN, TEST)
    before = model.anomaly_scores(TEST)
    model.set_params(**later)
    assert (model.anomaly_scores(TEST) == before).all()
    model.save(tmp_path / "model")
    loaded = STSSAD.load(tmp_path / "model")
    assert (loaded.anomaly_scores(TEST) == before).all()
    assert loaded.get_params()["width"] == PARAMS["width"]


def interrupted(progress):
    raise KeyboardInterrupt


def test_a_second_fit_that_does_not_end_leaves_the_first(tmp_path):
    model = make().fit(TRAIN, TEST)
    before = model.anomaly_scores(TEST)
    for train, how in ((draw(6, 0, 3), interrupted), (TRAIN, interrupted), (draw(6, 0, 2), None)):
        with pytest.raises((KeyboardInterrupt, InputError)):
            model.fit(train, train, callback=how)
        assert (model.anomaly_scores(TEST) == before).all()
    model.save(tmp_path / "model")
    assert (STSSAD.load(tmp_path / "model").anomaly_scores(TEST) == before).all()


def unwanted(progress):
    raise AssertionError("a step was done")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"resume": True}, "give the checkpoint_path"),
        ({"checkpoint_path": "{folder}/missing/checkpoint"}, "is no folder; make it first"),
        ({"checkpoint_path": "{folder}/photo.jpg"}, "photo.jpg, which exists; give resume=True"),
        ({"checkpoint_interval": math.nan}, "checkpoint_interval is nan"),
        ({"checkpoint_interval": "10"}, "checkpoint_interval is '10'"),
    ],
)
def test_a_checkpoint_that_cannot_be_is_refused_before_any_work(tmp_path, how, words):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"precious")
    if "checkpoint_path" in how:
        how = {"checkpoint_path": how["checkpoint_path"].format(folder=tmp_path)}
    with pytest.raises(ValueError, match=words):
        make().fit(TRAIN, TEST, callback=unwanted, **how)
    assert photo.read_bytes() == b"precious"


def test_a_model_that_cannot_be_written(fitted, tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        fitted.save(tmp_path / "missing" / "model")


INPUTS = {
    "numpy": lambda x: x.numpy(),
    "grey without channel": lambda x: x[:, 0],
    "float": lambda x: x / 255,
    "float64 numpy": lambda x: x.double().numpy() / 255,
    "uint16": lambda x: x.numpy().astype(np.uint16) * 257,
    "not contiguous": lambda x: x.repeat(2, 1, 1, 1)[::1][: len(x)].mT.contiguous().mT,
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_array_gives_the_same_scores(fitted, kind):
    expected = fitted.score_samples(TEST)
    np.testing.assert_allclose(fitted.score_samples(INPUTS[kind](TEST)), expected, rtol=1e-4)
    if kind in ("numpy", "grey without channel", "not contiguous"):
        same(make().fit(INPUTS[kind](TRAIN), INPUTS[kind](TEST)), fitted)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (TRAIN / 255 * torch.nan, TEST, "NaN"),
        (TRAIN / 1.0, TEST, "ranges from"),
        (TRAIN, TEST / 255 - 1, "ranges from"),
        (TRAIN, TEST[:1], "test_images holds 1 picture"),
        (TRAIN[:1], TEST, "train_images holds 1 picture"),
        (TRAIN[:, :, :15], TEST[:, :, :15], "15 x 16 pixels; both sides need at least 16"),
        (TRAIN, draw(8, 1, 3), "channel"),
        (TRAIN, draw(8, 1, 1, 20), "pixels"),
        (TRAIN.int(), TEST, "dtype int32"),
        (TRAIN[0, 0], TEST, "shape"),
        (None, TEST, "NoneType"),
    ],
)
def test_wrong_pictures(train, test, words):
    with pytest.raises(InputError, match=words):
        make().fit(train, test)


def test_wrong_pictures_after_fit(fitted):
    for images, words in ((draw(2, 0, 3), "channel"), (draw(2, 0, 1, 20), "fitted on")):
        with pytest.raises(InputError, match=words):
            fitted.predict(images)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"augmentation": "blur"}, "augmentation is 'blur'; choose one of cutdiff, cutout"),
        ({"starts": []}, "starts is empty"),
        ({"starts": [{"angel": 3.0}]}, "angel"),
        ({"starts": [0.01]}, "starts has 0.01; expected a list of dicts, .* such as {'size'"),
        ({"starts": {"size": 0.1}}, "starts has 'size'; expected a list of dicts"),
        ({"starts": [{"size": -1.0}]}, "size has values that are not positive"),
        ({"augmentation": Rotation()}, "starts belong to a named augmentation"),
        ({"device": "abacus"}, "device 'abacus' cannot be used .*choose 'auto'"),
        ({"strategy": "guess"}, "strategy"),
        ({"iterations": 0}, "iterations"),
        ({"validation": "all"}, "set validation_norm to 'running'"),
        (
            {
                "validation_distance": "shift",
                "strategy": "first_order",
                "validation_norm": "running",
            },
            "set strategy to 'second_order'",
        ),
        ({"contamination": 0.6}, "contamination"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"jitter": 4.0}, "jitter"),
        ({"jitter": 1.0, "parametrization": "cholesky"}, "expected jitter 0"),
    ],
)
def test_wrong_parameters(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes).fit(TRAIN, TEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "first_order"},
        {"strategy": "random_dynamic"},
        {"strategy": "random_static"},
        {"parametrization": "cholesky", "hyper_optimizer": "sgd"},
        {"jitter": 1.0},
        {"validation_norm": "running", "unit_embedding": False},
        {"validation_distance": "shift", "iterate_selection": "score_shift"},
        {"updates": 2, "patience": 1, "smoothing": 0.0},
        {"validation": "all", "validation_norm": "running"},
        {"validation": "all", "validation_norm": "running", "strategy": "random_static"},
        {"augmentation": "rotation", "starts": None},
    ],
    ids=str,
)
def test_every_way_to_tune(changes):
    model = make(**changes).fit(TRAIN, TEST)
    assert np.isfinite(model.score_samples(TEST)).all()
    if changes.get("strategy", "").startswith("random"):
        assert len(model.starts_) == 1
    if "augmentation" in changes:
        assert isinstance(model.augmentation_, Rotation)
        assert len(model.starts_) == 4


class Brightness(Augmentation):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, image, *, generator=None):
        return image * self.factor

    def describe(self):
        return {"factor": self.factor.item()}

    def draw_(self, generator):
        self.factor.data.copy_(torch.rand((), generator=generator))


def test_an_augmentation_of_your_own(tmp_path):
    own = Brightness()
    model = make(augmentation=own, starts=None).fit(TRAIN, TEST)
    assert own.factor.item() == 0.5  # parameters stay as they are given
    assert isinstance(model.augmentation_, Brightness)
    assert model.augmentation_.factor.item() == model.starts_[0]["final"]["factor"]
    assert len(model.history_["factor"]) == 2
    assert clone(model).augmentation.factor.item() == 0.5
    assert make(augmentation=own, starts=None, strategy="random_dynamic").fit(TRAIN, TEST)
    with pytest.raises(InputError, match="module Brightness; only named"):
        model.save(tmp_path / "model")


class Shifted(Brightness):
    """One hyperparameter to tune, and two that are fixed."""

    def __init__(self, by=0.25):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by), requires_grad=False)
        self.count = nn.Parameter(torch.tensor(3), requires_grad=False)

    def forward(self, image, *, generator=None):
        return image * self.factor + self.by


@pytest.mark.parametrize("strategy", ["second_order", "first_order"])
def test_a_hyperparameter_that_asks_for_no_gradient_stays(strategy):
    model = make(augmentation=Shifted(), starts=None, strategy=strategy).fit(TRAIN, TEST)
    assert model.augmentation_.by == 0.25
    assert len(set(model.history_["factor"])) == 2


def test_a_checkpoint_of_an_augmentation_with_other_settings_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    make(augmentation=Shifted(), starts=None).fit(TRAIN, TEST, checkpoint_path=path)
    with pytest.raises(InputError, match="another run"):
        other = make(augmentation=Shifted(0.5), starts=None)
        other.fit(TRAIN, TEST, checkpoint_path=path, resume=True)


def test_generators_of_gpus_are_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("seeded"))
    make().fit(TRAIN, TEST)
    AutoEncoder(width=2, hidden=4, epochs=1, device="cpu").fit(TRAIN)


class Misshapen(Brightness):
    def forward(self, image, *, generator=None):
        return image[:, :, 1:] * self.factor


class Double(Brightness):
    def forward(self, image, *, generator=None):
        return image.double() * self.factor


class Nothing(Brightness):
    def forward(self, image, *, generator=None):
        return None


class Constant(Brightness):
    def forward(self, image, *, generator=None):
        return image * 0.5


class Undescribed(Brightness):
    describe = Augmentation.describe


class Tensors(Brightness):
    def describe(self):
        return {"factor": self.factor}


class Keyless(Brightness):
    def forward(self, image):
        return image * self.factor


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Misshapen, r"gives \(2, 1, 15, 16\) of torch.float32 for pictures"),
        (Double, "of torch.float64 for pictures"),
        (Nothing, "gives a NoneType; expected a tensor"),
        (Constant, "no gradient for its parameters"),
        (Undescribed, r"lacks .* describe\(\), or fails in them: NotImplementedError"),
        (Tensors, "expected plain numbers"),
        (Keyless, r"lacks forward\(image, \*, generator=None\)"),
    ],
)
def test_an_augmentation_of_your_own_that_lacks_something(kind, words):
    with pytest.raises(InputError, match=f"(?s)augmentation is {kind.__name__}, .*{words}"):
        make(augmentation=kind(), starts=None).fit(TRAIN, TEST, callback=unwanted)


def test_an_augmentation_of_your_own_without_gradients_is_good_for_a_strategy_without(tmp_path):
    assert make(augmentation=Constant(), starts=None, strategy="random_static").fit(TRAIN, TEST)


def test_rgb_and_non_square_pictures():
    train, test = draw(6, 0, 3, 24)[:, :, :16], draw(5, 1, 3, 24)[:, :, :16]
    model = make(starts=[{"size": 0.01}]).fit(train, test)
    assert model.decision_function(test).shape == (5,)


def test_resume_without_a_seed_goes_on_with_the_seed_of_the_checkpoint(tmp_path):
    model = make(random_state=None)
    path, seen = tmp_path / "checkpoint", []

    def interrupt(progress):
        seen.append(progress)
        if len(seen) == 4:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        model.fit(TRAIN, TEST, checkpoint_path=path, checkpoint_interval=0.0, callback=interrupt)
    first = seen[2].train_loss
    model.fit(TRAIN, TEST, checkpoint_path=path, resume=True)
    assert first in model.starts_[0]["history"]["train_loss"]


def test_divergence_is_one_clear_sentence():
    with pytest.raises(InputError, match="every start diverged"):
        make(learning_rate=1e30, warm_up=4).fit(TRAIN, TEST)
    with pytest.raises(InputError, match="train_images is all of one colour"):
        make().fit(TRAIN * 0 + 7, TEST)


def test_checkpoint_of_other_starts_is_refused(tmp_path):
    images = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    model = STSSAD(width=1, iterations=1, warm_up=0, batch_size=2, random_state=0)
    path = tmp_path / "checkpoint"
    model.set_params(starts=[{"size": 0.01}]).fit(images, images, checkpoint_path=path)
    model.fit(images, images, checkpoint_path=path, resume=True)
    for other in ({"starts": [{"size": 0.1}]}, {"random_state": 1}):
        with pytest.raises(InputError, match="another run"):
            clone(model).set_params(**other).fit(images, images, checkpoint_path=path, resume=True)
