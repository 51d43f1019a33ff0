"""From records of the study to tables: means, comparisons, and what is missing."""

import csv
import io

import pretended_study
import pytest

from stssad_fast.experiments import hyperparameters
from stssad_fast.experiments import study_results as from_records
from stssad_fast.experiments import study_tables as tables

CLASSES = range(6)


def records():
    """AE has 0.7 everywhere; DAE with Flip gains on anomalies by Flip, and loses in the wild."""
    made = [
        pretended_study.record(
            "DAE", augmentation, {"flip": 0.7 + 0.05 * gain, "cutout": 0.7}, normal, seed
        )
        for normal in CLASSES
        for seed in (0, 1)
        for augmentation, gain in (("identity", 0), ("flip", 1 + normal), ("noise", 0))
    ]
    wild = [
        pretended_study.record("DAE", augmentation, {"8": auc, "9": auc}, normal)
        for normal in CLASSES
        for augmentation, auc in (("identity", 0.7), ("flip", 0.6 - 0.01 * normal))
    ]
    return [*made, *wild]


def test_results_name_what_made_the_anomalies():
    found = from_records.results(records())
    assert len(found) == 6 * 2 * 3 * 2 + 6 * 2 * 2
    assert from_records.generators(found) == ["cutout", "flip", "semantic"]
    assert from_records.augmentations(found) == ["flip", "noise", "identity"]
    assert found[-1].task == "5/9"


def test_the_table_has_means_over_tasks():
    found = from_records.results(records())
    cell = from_records.table(found)["flip", "DAE", "flip"]
    assert cell.auc == pytest.approx(0.7 + 0.05 * 3.5)
    assert (cell.runs, cell.expected) == (12, 12)
    lacking = [r for r in found if r.task != "5 flip" or r.augmentation != "flip"]
    grid = tables.auc_table(lacking)
    assert grid.header == ["Augmentation", "DAE, CutOut", "DAE, Flip", "DAE, Sem."]
    assert grid.rows[0] == ["Flip", "**0.700**", "0.850 [10]", "0.575"]
    assert grid.rows[1][3] == "\u2013"
    assert "| Flip | **0.700** |" in grid.markdown()


def test_what_is_printed_equal_is_bold_alike():
    found = from_records.results(
        pretended_study.record("DAE", augmentation, {"flip": auc}, normal)
        for normal in CLASSES
        for augmentation, auc in (("flip", 1.0), ("noise", 0.9999), ("identity", 0.5))
    )
    assert [row[1] for row in tables.auc_table(found).rows] == ["**1.000**", "**1.000**", "0.500"]


def test_a_task_counts_once_whatever_the_number_of_seeds():
    found = from_records.results(records())
    row = from_records.relatives(found, "DAE", "flip")["flip"]
    assert len(row.differences) == 6
    assert row.median == pytest.approx(0.05 * 3.5)
    assert row.verdict == "helpful"
    assert from_records.relatives(found, "DAE", "semantic")["flip"].verdict == "harmful"
    assert from_records.relatives(found, "DAE", "flip")["noise"].p_value is None


def test_what_is_compared_has_the_same_seeds():
    """Flip loses everywhere; the seed it lacks is harder, and no advantage of Flip."""
    found = from_records.results(
        pretended_study.record("DAE", augmentation, {"flip": auc - normal / 1000}, normal, seed)
        for normal in CLASSES
        for augmentation, seed, auc in (
            ("identity", 0, 0.9),
            ("identity", 1, 0.6),
            ("flip", 0, 0.8),
        )
    )
    row = from_records.relatives(found, "DAE", "flip")["flip"]
    assert row.differences == pytest.approx([-0.1] * 6)
    assert row.verdict == "harmful"
    grid = tables.auc_table(found)
    assert [line[1] for line in grid.rows] == ["0.797 [6]", "**0.747**"]


def test_a_detector_without_a_vanilla_form_is_compared_with_nothing():
    found = from_records.results([pretended_study.record("AP", "flip", {"flip": 0.9})])
    assert from_records.relatives(found, "AP", "flip") == {}
    assert not tables.relative_table(found).rows


def test_csv_files_hold_the_numbers():
    found = from_records.results(records())
    lines = list(csv.DictReader(io.StringIO(tables.results_csv(found))))
    assert len(lines) == len(found)
    assert lines[0] == {
        "detector": "DAE",
        "augmentation": "identity",
        "anomalies": "flip",
        "task": "0 flip",
        "seed": "0",
        "auc": "0.7",
        "hyperparameters": "",
    }
    (line,) = (
        each
        for each in csv.DictReader(io.StringIO(tables.relative_csv(found)))
        if (each["anomalies"], each["augmentation"]) == ("flip", "flip")
    )
    assert float(line["p_value"]) < 0.05
    assert float(line["low"]) < float(line["pseudo_median"]) < float(line["high"])


def test_distances_are_means_over_classes_and_tasks():
    record = pretended_study.record("DAE", "identity", {"8": 0.5, "9": 0.5})
    config = {k: v for k, v in record.config.items() if k != "detector"}
    values = {"mmd": {"flip": {"8": 1.0, "9": 2.0}, "noise": {"8": 0.5, "9": 0.1}}}
    shared = {**vars(record), "config": {**config, "encoder": "flat"}, "values": values}
    table = from_records.distance_table([type(record)(**shared), record])
    assert table == {"flip": {"semantic": 1.5}, "noise": {"semantic": 0.3}}
    grid = tables.distance_grid(table, "flat")
    assert grid.rows[0] == ["Noise", "0.3000", "0.3000"]
    assert "encoder: flat" in grid.caption


def test_other_hyperparameters_are_compared_setting_by_setting():
    """With 10 epochs AE has 0.5 and Flip gains 0.1 and more, with 20 it has 0.9 and Flip loses."""
    others = [
        pretended_study.record(
            "DAE",
            augmentation,
            {"flip": auc + (0.01 * normal if augmentation == "flip" else 0)},
            normal,
            parameters={"epochs": epochs, "width": 8, "hidden": 4, "weight_decay": 1e-5},
        )
        for epochs, aucs in ((10, (0.5, 0.6)), (20, (0.9, 0.85)))
        for normal in CLASSES
        for augmentation, auc in zip(("identity", "flip"), aucs, strict=True)
    ]
    found = from_records.results(others)
    text = "epochs 10, width 8, weight decay 1e-05, hidden 4"
    assert [text] * 12 == [result.hyperparameters for result in found[:12]]
    row = hyperparameters.varied(found, "flip")["flip"]
    assert len(row.pooled.differences) == 12
    assert list(row.medians.values()) == pytest.approx([0.125, -0.025])
    assert row.pooled.median == pytest.approx(0.05)
    assert hyperparameters.vanilla_aucs(found, "flip")[text] == pytest.approx(0.5)
    (line,) = tables.hyperparameter_table(found).rows
    assert line[:3] == ["Flip", "Flip", "+0.050"] and line[-1] == "\u22120.025 to +0.125"
    lines = list(csv.DictReader(io.StringIO(tables.results_csv(found))))
    assert lines[0]["hyperparameters"] == text
