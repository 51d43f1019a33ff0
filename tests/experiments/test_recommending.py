"""Recommendation as jobs, and how its order agrees with labels."""

import pytest

from stssad_fast.augment.catalogue import Named
from stssad_fast.experiments import recommending
from stssad_fast.experiments.plans import semantic
from stssad_fast.experiments.recommending import agreements, ranking
from stssad_fast.experiments.store import Record

SMALL = {"width": 2, "batch_size": 8, "steps": 2}


def record(candidate, separation, auc, seed=0, task="6/9", train_loss=0.5):
    test = {"separation": separation, "alignment": 1.0, "variance": 2.0, "auc": auc}
    config = {"tasks": {"9": task}, "candidate": candidate, "seed": seed}
    values = {"train_loss": train_loss, "tests": {"9": test}}
    key = f"{candidate} {task} {seed}"
    return Record(key, config, "", "", "done", values, None, 1.0, "", {})


def test_one_job_for_each_training_set_and_candidate():
    parts = semantic("digits", [2, 6], 16, 40, 20)
    jobs = recommending.plan(
        parts, [Named.parse("noise"), Named.parse("cutout:size=0.3")], range(2), SMALL
    )
    assert len(jobs) == 8
    assert len({job.key for job in jobs}) == 8
    assert jobs[0].config["candidate"] == "noise"
    assert jobs[0].config["parameters"] == {"depth": 10, **SMALL}
    assert [job.config["seed"] for job in jobs] == [0] * 4 + [1] * 4
    values, arrays = recommending.work(jobs[1].config, jobs[1].sources)
    assert set(values["tests"]) == {*"01345 6789"} - {" ", "2"}
    assert all(0 <= test["auc"] <= 1 for test in values["tests"].values())
    assert arrays["augmented"].shape == (6, 1, 16, 16)
    again, _ = recommending.work(jobs[1].config, jobs[1].sources)
    assert again == values


def test_ranking_is_by_the_mean_over_seeds():
    records = [
        record("noise", 1.0, 0.7),
        record("noise", 2.0, 0.8, seed=1),
        record("invert", 0.6, 0.9),
        record("invert", 2.6, 0.9, seed=1),
        record("flip", 9.0, 0.9, task="6/8"),
    ]
    rows = ranking(records, "6/9")
    assert [str(row.candidate) for row in rows] == ["invert", "noise"]
    assert rows[1].separations == (1.0, 2.0)
    assert (rows[1].separation, rows[1].auc) == (1.5, 0.75)


def test_seeds_that_one_lacks_do_not_count():
    records = [
        record("noise", 1.0, 0.7),
        record("noise", 9.0, 0.8, seed=1),
        record("invert", 1.6, 0.9),
    ]
    rows = ranking(records, "6/9")
    assert [(str(row.candidate), row.separations) for row in rows] == [
        ("invert", (1.6,)),
        ("noise", (1.0,)),
    ]
    rows = ranking(records[1:], "6/9")  # no seed that both have
    assert [row.separations for row in rows] == [(9.0,), (1.6,)]


def test_agreement():
    names = ["noise", "invert", "flip", "blur"]
    separations, aucs = [3.0, 2.0, 1.0, 0.0], [0.95, 0.97, 0.6, 0.5]
    (found,) = agreements([record(*row) for row in zip(names, separations, aucs, strict=True)])
    assert found.task == "6/9"
    assert found.correlation == pytest.approx(0.8)
    assert (found.chosen, found.best, str(found.first)) == (0.95, 0.97, "noise")
    assert found.close
    (found,) = agreements([record("noise", 1.0, 0.9), record("invert", 0.5, 0.94)])
    assert not found.close
    assert found.correlation == pytest.approx(-1)


def test_agreement_needs_labels_and_differences():
    assert agreements([record("noise", 1.0, None), record("invert", 2.0, None)]) == []
    assert agreements([record("noise", 1.0, 0.5)]) == []
    (found,) = agreements([record("noise", 1.0, 1.0), record("invert", 2.0, 1.0)])
    assert found.correlation is None
    assert found.close
