"""The study's findings, said of records in which they hold, and in which they do not."""

from dataclasses import replace

import numpy as np
import pretended_study
import pytest

from stssad_fast.errors import InputError
from stssad_fast.experiments.findings import findings
from stssad_fast.experiments.study_results import results


def said(records, others=(), arrays=None):
    told = findings(results(records), results(others), arrays)
    return {finding.name: " ".join(finding.evidence) for finding in told}


def made(gains, kind="flip"):
    """Six classes; ``gains`` of each augmentation over a vanilla AUC of 0.7."""
    return [
        pretended_study.record("DAE", a, {kind: 0.7 + gain * (1 + k / 9)}, normal=k)
        for k in range(6)
        for a, gain in {"identity": 0, **gains}.items()
    ]


def test_nothing_is_said_without_results():
    assert findings([]) == []
    assert said(made({})) == {}


def test_finding_1_tells_the_place_of_the_aligned_augmentation():
    text = said(made({"flip": 0.2, "noise": 0.0, "invert": -0.1}))["Finding 1"]
    assert "AUC 0.956, place 1 of 3; 1 of 3 augmentations help (p < 0.05) and 1 harm" in text
    text = said(made({"flip": 0.0, "noise": 0.2, "invert": 0.0}))["Finding 1"]
    assert "place 2 of 3, shared with 1 (best: Noise, 0.956, ahead with p = 0.016)" in text


def halves(augmentation, gain, kinds, seeds):
    """Six classes; every seed is harder by 0.3 than the one before."""
    return [
        pretended_study.record("DAE", augmentation, {t: 0.9 + gain - 0.3 * s for t in kinds}, k, s)
        for k in range(6)
        for s in seeds
    ]


def test_a_seed_that_is_lacking_makes_nothing_better():
    records = [
        *halves("identity", 0, ["flip", "8", "9"], [0, 1]),
        *halves("flip", 0.05, ["flip", "8", "9"], [0, 1]),
        *halves("noise", -0.05, ["flip", "8", "9"], [0]),
        *halves("invert", 0, ["flip", "8", "9"], [0, 1]),
    ]
    text = said(records)
    assert "the same augmentation has AUC 0.950, place 1 of 3; " in text["Finding 1"]
    assert "DAE: of 6 pairs" in text["Obs. 3"]


def test_a_detector_that_diverged_tells_nothing_apart():
    records = made({"flip": 0.2, "noise": 0.0, "invert": -0.1})
    for place, record in enumerate(records[:4]):
        tests = {name: {"auc": None} for name in record.values["tests"]}
        records[place] = replace(record, values={"tests": tests, "stopped": "diverged"})
    text = said(records)
    assert "vanilla AUC 0.667" in text["Finding 1"]
    assert "for 0 of 3 augmentations" in text["Obs. 6"]


def test_observation_1_tells_the_best_size_and_where_harm_begins():
    gains = {f"cutout:size=0.{c}": 0.1 - 0.03 * abs(c - 2) for c in (1, 2, 5, 9)}
    assert "Obs. 1" not in said(made(gains))
    text = said(made(gains, "cutout"))["Obs. 1"]
    assert "+0.128, at c = 0.2 and negative at c = 0.9" in text
    assert "rank correlation with c \u22120.800" in text


def varied(*gains, kind="flip"):
    """As :func:`made`, once for each setting, from which AE has 0.01 more than from the last."""
    return [
        pretended_study.record(
            "DAE",
            augmentation,
            {kind: 0.6 + 0.01 * place + gain * (1 + k / 9)},
            normal=k,
            parameters={"epochs": place, "width": 1, "hidden": 1, "weight_decay": 1e-5},
        )
        for place, each in enumerate(gains)
        for k in range(6)
        for augmentation, gain in {"identity": 0, **each}.items()
    ]


def test_observation_2_compares_the_order_of_the_augmentations_between_settings():
    best, other = ({"flip": 0.1, "noise": n, "invert": -0.1} for n in (0.0, 0.2))
    text = said([], varied(best, best, other))["Obs. 2"]
    assert "DAE with 3 settings, anomalies by Flip: Spearman" in text
    assert "of 3 augmentations" in text
    assert "is +0.667 on average and +0.500 at least; Flip is best in 2 of 3 settings" in text
    assert "AE's AUC lies between 0.600 and 0.620" in text
    assert "the preset +1.000; Flip" in said(made(best), varied(best, best))["Obs. 2"]
    assert "the preset" not in said(made({"flip": 0.1}), varied(best, best))["Obs. 2"]


def test_observation_2_tells_what_matters_more():
    steady = [{"flip": 0.1, "noise": -0.1}] * 4
    text = said([], varied(*steady, kind="1"))["Obs. 2"]
    assert "is 0.181 over the augmentations (mean of the settings) and 0.000 over" in text
    restless = [{"flip": 0.1 * k, "noise": 0.1 * k + 0.001} for k in range(4)]
    text = said([], varied(*restless, kind="1"))["Obs. 2"]
    assert "is 0.001 over the augmentations (mean of the settings) and 0.165 over" in text


def test_observation_2_says_nothing_without_an_order():
    gains = {"flip": 0.1, "noise": 0.0}
    assert said([], varied(gains)) == {}  # one setting
    assert said([], varied({"flip": 0.1}, {"flip": 0.2})) == {}  # one augmentation
    assert said([], varied(*[{"flip": 0.1, "noise": 0.1}] * 2)) == {}  # both alike
    unfinished = [*varied(gains, gains), *varied({}, {}, {"flip": 0.1})]
    assert "DAE with 2 settings" in said([], unfinished)["Obs. 2"]


def test_observation_3_counts_classes_that_lose_although_the_mean_gains():
    aucs = {"identity": {"1": 0.6, "2": 0.9}, "rotate": {"1": 0.9, "2": 0.8}}
    aucs["cutout:size=0.9"] = {"1": 1.0, "2": 0.7}  # of the sweep, which Obs. 1 tells of
    records = [pretended_study.record("DAE", a, tests) for a, tests in aucs.items()]
    text = said(records)["Obs. 3"]
    assert "of 1 pairs" in text and "1 lose" in text and "0.400 apart" in text
    worse = {"identity": {"1": 0.9, "2": 0.9}, "rotate": {"1": 0.5, "2": 0.9}}
    assert "Obs. 3" not in said([pretended_study.record("DAE", a, t) for a, t in worse.items()])


def test_observation_4_orders_the_families():
    aucs = {"identity": 0.6, "rotate": 0.9, "flip": 0.7, "noise": 0.5, "invert": 0.65}
    aucs["cutout:size=0.9"] = 1.0
    records = [
        pretended_study.record("DAE", a, {"1": auc, "2": auc}, k)
        for a, auc in aucs.items()
        for k in (3, 4)
    ]
    text = said(records)["Obs. 4"]
    assert "geometric +0.200, color +0.050, elementwise \u22120.100" in text
    assert "best augmentation is Rotate, +0.300" in text
    without = [pretended_study.record("AP", a, {"1": auc}) for a, auc in aucs.items() if auc > 0.6]
    text = said(without)["Obs. 4"]
    assert "AP: mean AUC by family: geometric 0.800, color 0.650" in text
    assert "best augmentation is Rotate, 0.900" in text


def kept(records, kind, undoing):
    """Arrays of jobs that show four normal pictures and four anomalies.

    All are given back as they are, but the anomalies as they were by a DAE with an augmentation,
    if ``undoing``.
    """
    was = np.random.default_rng(0).integers(0, 256, (8, 1, 16, 16)).astype(np.uint8)
    is_now = was.copy()
    is_now[4:] = was[4:, :, ::-1] if kind == "flip" else 255 - was[4:]
    given = {
        record.key: was if undoing and record.config["augmentation"] == kind else is_now
        for record in records
    }
    labels, rows = np.repeat([0, 1], 10), np.r_[0:4, 10:14]
    return lambda key: {
        f"{what}/test/{kind}": array
        for what, array in dict(shown=is_now, rebuilt=given[key], rows=rows, labels=labels).items()
    }


@pytest.mark.parametrize("kind", ["flip", "invert"])
def test_observation_5_counts_anomalies_that_are_undone(kind):
    records = made({"flip": 0.2, "invert": 0.2}, kind)
    title = kind.title()
    text = said(records, arrays=kept(records, kind, True))["Obs. 5"]
    assert f"Anomalies by {title}: DAE with {title} gives" in text
    assert "for 24 of the 24 whose" in text and "AE for 0 of 24" in text
    assert "picture before is 0.0000 (AE 0." in text and "own reconstructions 0.0000" in text
    text = said(records, arrays=kept(records, kind, False))["Obs. 5"]
    assert "for 0 of the 24 whose" in text


def test_observation_5_cannot_be_told_without_reconstructions():
    def lost(key):
        raise InputError("no such file")

    records = made({"flip": 0.2})
    assert "cannot be told" in said(records, arrays=lost)["Obs. 5"]
    assert "cannot be told" in said(records, arrays=lambda key: {})["Obs. 5"]
    assert "Obs. 5" not in said(made({"noise": 0.2}), arrays=lost)  # nothing that is aligned
    assert "Obs. 5" not in said(made({"cutout": 0.2}, "cutout"), arrays=lost)  # nor undone


@pytest.mark.parametrize("sign", [1, -1])
def test_observation_6_correlates_errors_with_changes(sign):
    records = [
        pretended_study.record(
            "DAE", a, {"flip": 0.7}, change=change, tests={"normal": 5 + sign * change}
        )
        for a, change in {"identity": 0.0, "noise": 0.1, "flip": 0.2, "invert": 0.4}.items()
    ]
    text = said(records)["Obs. 6"]
    assert f"larger than AE's for {3 if sign > 0 else 0} of 3 augmentations" in text
    assert f"over 3 augmentations, is {'+' if sign > 0 else chr(0x2212)}1.000" in text


def test_observation_7_compares_global_with_local_augmentations():
    kinds = {"identity": 0.0, "flip": 0.6, "invert": 0.4, "cutout": 0.1, "noise": 0.9}
    records = [
        pretended_study.record(
            "DAE", a, {"flip": 0.7, "cutout": 0.7}, silhouette=s, tests={"silhouette": s / 2}
        )
        for a, s in kinds.items()
    ]
    text = said(records)["Obs. 7"]
    assert "training and augmented pictures: +0.500 for augmentations of the whole" in text
    assert "the augmentation made these: +0.300" in text
    assert "+0.050 for local ones" in text
