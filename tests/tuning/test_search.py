"""Tuner and Search: stopping, going on to the identical result, and what diverges."""

import copy
import math
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from stssad_fast import CutDiff, InputError, Rotation, checkpoint
from stssad_fast.tuning import selection
from stssad_fast.tuning.selection import Search, choose, score_shift
from stssad_fast.tuning.tuner import Tuner, TunerConfig

CONFIG = TunerConfig(iterations=5, warm_up=2, batch_size=4)
VARIANTS = {
    "second_order": {},
    "first_order": {"strategy": "first_order"},
    "random_dynamic": {"strategy": "random_dynamic"},
    "random_static": {"strategy": "random_static"},
    "sgd, running": {"hyper_optimizer": "sgd", "validation_norm": "running"},
    "updates": {"updates": 3, "momentum": 0.0},
    "cosine, smoothed": {"hyper_schedule": "cosine", "label_smoothing": 0.2},
}


@pytest.fixture
def make_tuner(make_detector, pictures):
    def make(**changes):
        generator = torch.Generator().manual_seed(7)
        config = replace(CONFIG, **changes)
        return Tuner(make_detector(), CutDiff(0.01, 1.5, 20.0), *pictures, config, generator)

    return make


@pytest.fixture
def make_search(make_detector, pictures):
    def make(path=None, make_detector=make_detector, seed=3, identity=None, **changes):
        return Search(
            *pictures,
            [CutDiff(0.01), CutDiff(0.1)],
            make_detector,
            replace(CONFIG, **changes),
            seed,
            path,
            0.0,  # seconds between checkpoints
            identity,
        )

    return make


def outcome(search):
    """Everything but the time it took."""
    results = [{k: v for k, v in r.items() if k != "seconds"} for r in search.results]
    return results, [
        {name: tensor.tolist() for name, tensor in kept.items()} for kept in search.tensors
    ]


def run_to_the_end(tuner):
    while not tuner.done:
        tuner.step()
    tensors, values = tuner.state()
    return {name: tensor.tolist() for name, tensor in tensors.items()}, values


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_tuner_goes_on_to_the_identical_result(make_tuner, tmp_path, variant, steps):
    unbroken = run_to_the_end(make_tuner(**VARIANTS[variant]))
    tuner = make_tuner(**VARIANTS[variant])
    for _ in range(steps):
        tuner.step()
    checkpoint.save(tmp_path / "state", *tuner.state())
    again = make_tuner(**VARIANTS[variant])
    again.load_state(*checkpoint.load(tmp_path / "state"))
    assert run_to_the_end(again) == unbroken


def test_what_a_tuner_records(make_tuner):
    tuner = make_tuner()
    before = tuner.augmentation.describe()
    run_to_the_end(tuner)
    assert tuner.stopped == "finished"
    history = tuner.history
    assert set(history) == {"iteration", "train_loss", "validation_loss", *before}
    assert history["iteration"] == list(range(5))
    assert {name: history[name][0] for name in before} == before  # warm-up does not move them
    assert len(set(history["size"])) == 5
    assert tuner.augmentation.describe() == {
        name: history[name][tuner.best_iteration] for name in before
    }


@pytest.mark.parametrize("strategy", ["random_static", "random_dynamic"])
def test_random_strategies_do_not_tune(make_tuner, strategy):
    tuner = make_tuner(strategy=strategy, iterations=6)
    sizes = set()
    run_to_the_end(tuner)
    sizes.update(tuner.history["size"])
    epochs = {2 // 3, 7 // 3} if strategy == "random_static" else {2 // 3, 3 // 3, 6 // 3}
    assert len(sizes) == (1 if strategy == "random_static" else len(epochs))
    assert tuner.best_iteration == 5  # the last


def test_patience(make_tuner):
    tuner = make_tuner(iterations=100, patience=3, learning_rate=1e-9, smoothing=0.0)
    run_to_the_end(tuner)
    assert tuner.stopped == "no progress for 3 iterations"
    assert tuner.step_count < 50
    assert len(tuner.history["iteration"]) == tuner.best_iteration + 1 + 3
    totals = [
        a + b
        for a, b in zip(tuner.history["train_loss"], tuner.history["validation_loss"], strict=True)
    ]
    assert tuner.best_iteration == totals.index(min(totals))


def test_the_network_and_batches_are_those_of_the_seed_whatever_the_start(make_search):
    search = make_search()
    search.starts[1] = CutDiff(0.01)
    search.run()
    (first, second), _ = outcome(search)
    assert first == second


@pytest.mark.parametrize("steps", [1, 5, 7, 9, 14])  # warm-up, tuning, end; start 1; the very end
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "crash"])
@pytest.mark.parametrize("rule", ["loss", "score_shift"])
def test_an_interrupted_search_goes_on_to_the_identical_result(
    make_search, tmp_path, monkeypatch, steps, how, rule
):
    monkeypatch.setattr(selection, "LOOK_EVERY", 2)
    make_search = partial(make_search, iterate_selection=rule, seed=2)
    unbroken = make_search()
    unbroken.run()
    path, seen = tmp_path / "checkpoint", []

    def interrupt(progress):
        seen.append(progress)
        if len(seen) == steps:
            if how == "crash":
                raise RuntimeError(how)
            signal.raise_signal(getattr(signal, how))

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError if how == "crash" else KeyboardInterrupt):
        make_search(path).run(interrupt)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert path.exists() == (how != "crash" or steps > 1)
    resumed = make_search(path)
    resumed.resume()
    if how != "crash":  # nothing done is lost
        assert len(resumed.results) == steps // 7
        if steps % 7:
            assert resumed.begun[steps // 7][0]["step_count"] == steps % 7
    resumed.run(lambda progress: seen.append(progress))
    assert outcome(resumed) == outcome(unbroken)
    assert len(seen) == 14 + (how == "crash")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]  # no leftovers

    finished = make_search(path)
    finished.resume()
    finished.run(lambda progress: pytest.fail("nothing is left to do"))
    assert outcome(finished) == outcome(unbroken)


def test_the_iterate_that_is_farthest_from_the_training_pictures_is_kept(make_search, monkeypatch):
    """Looking changes nothing of the fit, and what is kept is what was seen."""
    monkeypatch.setattr(selection, "LOOK_EVERY", 3)
    seen, scored = {}, Search._scored

    def spy(self, detector):
        found = scored(self, detector)
        seen.setdefault(self._index, []).append(found.shift)
        return found

    by_loss, by_shift = (
        make_search(iterations=20, seed=2),
        make_search(iterations=20, seed=2, iterate_selection="score_shift"),
    )
    by_loss.run()
    monkeypatch.setattr(Search, "_scored", spy)
    by_shift.run()
    places = set()
    for index, (before, result) in enumerate(zip(by_loss.results, by_shift.results, strict=True)):
        *looks, least_loss = seen[index][:7]
        assert len(looks) == 6 and least_loss == before["score_shift"]
        assert result["history"] == before["history"]
        farthest = looks.index(max(looks)) if max(looks) > least_loss else None
        places.add(farthest)
        iteration = before["iteration"] if farthest is None else 3 * (1 + farthest) - 1
        assert result["iteration"] == iteration
        assert result["score_shift"] == max(seen[index])
        history = {name: values[iteration] for name, values in result["history"].items()}
        assert result["final"] == {name: history[name] for name in result["final"]}
        assert result["train_loss"] == history["train_loss"]
    assert len(places) == 2 and None in places  # the least loss may be the farthest, too
    tensors = by_shift.tensors[0]
    detector = by_shift.make_detector()
    detector.load_state_dict(checkpoint.under("detector", tensors))
    density = selection.GaussianDensity.from_state(checkpoint.under("density", tensors))
    scores = density.score_at(selection.distances(detector, density, by_shift.test))
    assert scores.tolist() == by_shift.results[0]["scores"]


def test_random_strategies_keep_their_last_iterate(make_search, monkeypatch):
    monkeypatch.setattr(selection, "LOOK_EVERY", 2)
    search = make_search(strategy="random_dynamic", iterate_selection="score_shift")
    search.run()
    assert {result["iteration"] for result in search.results} == {4}


def test_progress(make_search):
    seen = []
    make_search().run(seen.append)
    assert [(p.start, p.step) for p in seen] == [(s, n) for s in (0, 1) for n in range(1, 8)]
    assert {(p.starts, p.steps) for p in seen} == {(2, 7)}
    assert [p.warming_up for p in seen[:7]] == [True, True, False, False, False, False, False]
    assert seen[1].train_loss is None
    assert all(math.isfinite(p.train_loss + p.validation_loss) for p in seen[2:7])


@pytest.mark.parametrize("change", ["pictures", "config", "identity"])
def test_a_checkpoint_of_another_run_is_refused(make_search, tmp_path, change):
    path = tmp_path / "checkpoint"
    make_search(path).run()
    written = path.read_bytes()
    other = make_search(
        path,
        identity="other" if change == "identity" else None,
        momentum=0.5 if change == "config" else 0.9,
    )
    if change == "pictures":
        other = Search(
            other.test, other.train, other.starts, other.make_detector, CONFIG, 3, path, 0.0
        )
    with pytest.raises(InputError, match="of another run"):
        other.resume()
    assert path.read_bytes() == written


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(make_search, tmp_path, share):
    path = tmp_path / "checkpoint"
    make_search(path).run()
    written = path.read_bytes()
    path.write_bytes(written[: int(share * len(written))])
    search = make_search(path)
    with pytest.raises(InputError, match="cannot be read"):
        search.resume()


@pytest.mark.parametrize("stop", [3, 4, 5, 6, 7, 8, 9, 10, 11, None])
@pytest.mark.parametrize(
    "changes",
    [
        {"patience": 2, "smoothing": 0.0},
        {"patience": 2, "smoothing": 0.0, "iterate_selection": "score_shift"},
        {"learning_rate": 1e30},
    ],
)
def test_an_end_that_is_read_late_is_the_same_end(
    make_search, tmp_path, monkeypatch, changes, stop
):
    """As on a GPU, where a checkpoint may be written some steps after a start has ended."""
    monkeypatch.setattr(selection, "LOOK_EVERY", 2)
    changes = changes | {"iterations": 12, "warm_up": 1}
    expected = make_search(**changes)
    expected.run()
    assert all(result["stopped"] != "finished" for result in expected.results)

    begin = Search._begin

    def late(self, index):
        found = begin(self, index)
        found.read_every = 16
        return found

    monkeypatch.setattr(Search, "_begin", late)
    path, steps = tmp_path / "checkpoint", []

    def count(self):
        step(self)
        steps.append(1)
        if len(steps) == stop:
            signal.raise_signal(signal.SIGINT)

    step = Tuner.step
    monkeypatch.setattr(Tuner, "step", count)
    search = make_search(path, **changes)
    search.interval = math.inf
    if stop is not None:
        with pytest.raises(KeyboardInterrupt):
            search.run()
        search = make_search(path, **changes)
        search.resume()
    search.run()
    (found, kept), (results, tensors) = outcome(search), outcome(expected)
    assert str(found) == str(results)  # NaN is not equal to NaN
    assert kept == tensors


def test_without_a_checkpoint_it_begins(make_search, tmp_path):
    search = make_search(tmp_path / "checkpoint")
    search.resume()
    assert search.results == []


def test_a_checkpoint_that_cannot_be_written(make_search, tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        make_search(tmp_path / "missing" / "checkpoint").run()


@pytest.mark.parametrize("hyper_optimizer", ["adam", "sgd"])
def test_a_step_to_infinity_is_not_taken(make_search, hyper_optimizer):
    search = make_search(hyper_learning_rate=1e300, hyper_optimizer=hyper_optimizer)
    search.run()
    for result in search.results:
        assert result["final"] == result["initial"]
        assert result["score_shift"] is not None


@pytest.mark.parametrize("warm_up", [0, 1, 2])
@pytest.mark.parametrize("strategy", ["second_order", "random_static"])
def test_divergence_everywhere(make_search, warm_up, strategy):
    search = make_search(learning_rate=1e30, warm_up=warm_up, strategy=strategy)
    search.run()
    assert [r["stopped"] for r in search.results] == ["diverged"] * 2
    for result in search.results:
        assert result["score_variance"] is None or math.isfinite(result["score_variance"])
    if warm_up == 2:
        with pytest.raises(InputError, match="every start diverged"):
            choose(search.results, "loss")


@pytest.mark.parametrize("spoil", [lambda z: z * math.nan, lambda z: z * 0], ids=["NaN", "alike"])
def test_a_start_whose_embeddings_say_nothing_counts_as_diverged(make_search, monkeypatch, spoil):
    search, good, calls = make_search(), selection.embed, []

    def embed(detector, images):
        calls.append(detector)
        found = good(detector, images)
        return spoil(found) if len(calls) == 1 else found

    monkeypatch.setattr(selection, "embed", embed)
    search.run()
    assert [r["stopped"] for r in search.results] == ["diverged", "finished"]
    assert search.results[0]["scores"] is None
    assert choose(search.results, "score_shift") == 1


def test_a_start_that_diverges_is_reported_and_not_chosen(make_search, make_detector):
    made = []

    def one_bad_detector():
        made.append(make_detector())
        if len(made) == 1:
            made[0].head[-1].weight.data.fill_(math.nan)
        return made[-1]

    search = make_search(make_detector=one_bad_detector)
    search.run()
    assert [r["stopped"] for r in search.results] == ["diverged", "finished"]
    assert search.results[0]["score_variance"] is None
    assert choose(search.results, "score_variance") == 1


@pytest.mark.parametrize(
    "augmentation", [CutDiff(), CutDiff(parametrization="cholesky"), Rotation()]
)
def test_hyperparameters_that_diverge(make_detector, pictures, augmentation):
    config = replace(CONFIG, hyper_learning_rate=1e30, hyper_optimizer="sgd")
    generator = torch.Generator().manual_seed(0)
    tuner = Tuner(make_detector(), copy.deepcopy(augmentation), *pictures, config, generator)
    run_to_the_end(tuner)
    assert all(math.isfinite(v) for v in tuner.augmentation.describe().values())


def test_cosine_schedule_falls_to_zero(make_tuner):
    tuner = make_tuner(hyper_schedule="cosine", hyper_learning_rate=0.1, iterations=8)
    expected = [0.05 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert tuner._optimizer._tables[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("smoothing", "certain"), [(0.0, True), (0.5, False)])
def test_label_smoothing_bounds_the_loss(make_tuner, smoothing, certain):
    tuner = make_tuner(label_smoothing=smoothing, learning_rate=0.1)
    tuner.augmentation.load_state_dict(CutDiff(1.0).state_dict())  # which any detector can tell
    losses = [tuner._update() for _ in range(100)]
    least = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)  # entropy of a target of 1/4
    assert (min(losses) < least - 1e-3) == certain


def test_score_shift_is_free_of_scale():
    rng = np.random.default_rng(0)
    test, train = rng.gamma(3, size=50), rng.gamma(2, size=70)
    assert score_shift(1e6 * test, 1e6 * train) == pytest.approx(score_shift(test, train))
    assert score_shift(2 * train, train) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("rule", "chosen"), [("score_variance", 0), ("score_shift", 2), ("loss", 3)]
)
def test_choice_by_every_rule(rule, chosen):
    names = ("score_variance", "score_shift", "train_loss", "validation_loss")
    rows = [
        (9.0, 0.1, 0.10, 1.10),
        (None, None, 0.01, 0.50),  # diverged when it was scored
        (1.0, 0.7, 0.69, 0.95),
        (2.0, 0.3, 0.05, 1.05),
        (None, None, None, None),
    ]
    assert choose([dict(zip(names, row, strict=True)) for row in rows], rule) == chosen
