"""From jobs to AUCs: the starts of a fit, the choice among them, and fits that are not whole."""

from functools import partial

import numpy as np
import pytest

from stssad_fast.experiments import outcomes
from stssad_fast.experiments.scores import Score
from stssad_fast.experiments.store import Record


def record(method, task, seed, tests, start=None, losses=(None, None)):
    config = {"method": method, "seed": seed, "tasks": task}
    if start is not None:
        config["start"] = start
    return Record(
        key=f"{method}{task}{seed}{start}",
        config=config,
        label="",
        group=method,
        status="done",
        values={
            "tests": tests,
            **dict(zip(("train_loss", "validation_loss"), losses, strict=True)),
        },
        reason=None,
        seconds=1.0,
        when="2026-01-01T00:00:00+00:00",
        about={},
    )


def start(method, number, auc, shift, variance, loss=1.0, seed=0):
    found = {"auc": auc, "score_shift": shift, "score_variance": variance}
    tests = {"hole": found if auc is not None else {"auc": None}}
    return record(method, {"hole": "tile/hole"}, seed, tests, {"size": number}, (loss, 1.0))


def by(rule):
    return partial(outcomes.chosen_auc, rule=rule)


def untold(fit):
    return None


STARTS = [
    start("ST-SSAD", 1, 0.6, 0.1, 30.0, loss=0.5),
    start("ST-SSAD", 2, 0.9, 0.7, 20.0, loss=0.3),
    start("ST-SSAD", 3, None, None, None, loss=0.1),
    start("ST-SSAD", 4, 0.8, 0.2, 25.0, loss=0.2),
]


@pytest.mark.parametrize(
    ("rule", "auc"), [("score_shift", 0.9), ("score_variance", 0.6), ("loss", 0.8)]
)
def test_the_rule_chooses_among_the_starts(rule, auc):
    assert outcomes.scores(STARTS, 4, by(rule)) == [Score("tile/hole", "ST-SSAD", 0, auc)]


def test_a_fit_counts_when_all_its_starts_are_done():
    assert outcomes.scores(STARTS[:3], 4, by("score_shift")) == []
    other = [start("ST-SSAD", 1, 0.5, 0.1, 1.0, seed=1), start("FO", 1, 0.5, 0.1, 1.0)]
    assert len(outcomes.scores([*STARTS, *other], 4, by("score_shift"))) == 1


def test_a_fit_whose_starts_have_all_diverged_tells_nothing_apart():
    diverged = [start("FO", number, None, None, None) for number in range(2)]
    assert outcomes.scores(diverged, 2, by("score_shift")) == [Score("tile/hole", "FO", 0, 0.5)]
    ours = [start("ST-SSAD", number, None, None, None) for number in range(2)]
    assert {score.auc for score in outcomes.ablation(ours, 2, lambda fit: 0.5)} == {0.5}


def test_an_untuned_detector_that_diverged_tells_nothing_apart():
    found = record("AE", {"hole": "tile/hole"}, 4, {"hole": {"auc": None}})
    assert outcomes.scores([found], 4, untold) == [Score("tile/hole", "AE", 4, 0.5)]


def test_a_job_for_all_tasks_gives_each_its_auc():
    tests = {"hole": {"auc": 0.7}, "cut": {"auc": 0.2}}
    found = record("AE", {"hole": "tile/hole", "cut": "tile/cut"}, 4, tests)
    assert outcomes.scores([found], 4, by("score_shift")) == [
        Score("tile/hole", "AE", 4, 0.7),
        Score("tile/cut", "AE", 4, 0.2),
    ]


def test_the_ablation_has_every_rule_the_mean_and_the_best_start_of_our_method_alone():
    others = [start("FO", number, 0.1, 1.0, 1.0) for number in range(4)]
    found = {
        score.method: score.auc
        for score in outcomes.ablation([*STARTS, *others], 4, lambda fit: 0.8)
    }
    assert found == {
        "chosen by shift": 0.9,
        "chosen by S": 0.6,
        "chosen by loss": 0.8,
        "all together": 0.8,
        "mean of starts": pytest.approx((0.6 + 0.9 + 0.5 + 0.8) / 4),
        "best start": 0.9,
    }


def test_all_starts_together_are_weighted_by_their_shift():
    (fit,) = outcomes.fits(STARTS, 4)
    labels = np.array([0, 0, 1, 1])
    right, wrong = np.array([1.0, 2.0, 3.0, 4.0]), np.array([40.0, 30.0, 20.0, 10.0])
    # Shifts 0.1, 0.7 and 0.2.
    assert outcomes.ensemble_auc(fit, [wrong, right, wrong], labels) == 1.0
    assert outcomes.ensemble_auc(fit, [right, wrong, right], labels) == 0.0


def test_a_fit_that_cannot_be_judged_is_no_score():
    assert outcomes.scores(STARTS, 4, untold) == []
    assert "all together" not in {s.method for s in outcomes.ablation(STARTS, 4, untold)}
