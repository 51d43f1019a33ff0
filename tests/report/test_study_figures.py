"""The study's figures are drawn of what they are given, and the cases are the right ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from stssad_fast.experiments.relative import relative
from stssad_fast.experiments.store import Record
from stssad_fast.experiments.study_results import results
from stssad_fast.experiments.tables import Grid
from stssad_fast.report import study_figures
from stssad_fast.report.experiment import ExperimentPage, write_page
from stssad_fast.report.study_cases import cases
from stssad_fast.report.svg import STYLE, to_svg


def svg(figure: Figure) -> str:
    with matplotlib.rc_context(STYLE):
        return str(to_svg(figure, "what it shows", "salt"))


def test_rows_are_ordered_and_coloured_by_family() -> None:
    rng = np.random.default_rng(0)
    rows = {
        "flip": relative(rng.normal(-0.1, 0.02, 9)),
        "cutout:size=0.2": relative(rng.normal(0.1, 0.02, 9)),
        "noise": relative([0.01]),
    }
    panels = {"DAE": rows, "DeepSAD": {"flip": relative([0.0, 0.0])}}
    vanilla = {"DAE": "AE", "DeepSAD": "DeepSVDD"}
    figure = study_figures.relative_auc(panels, vanilla)
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["CutOut-0.2", "Noise", "Flip"]
    colours = study_figures.ROLES
    expected = [colours[role] for role in ("anomaly", "start-a", "train")]
    assert [label.get_color() for label in labels] == expected
    text = svg(figure)
    for each in ("0.0020", "1.0000", "AUC of DeepSAD minus AUC of DeepSVDD", "geometric"):
        assert each in text, each
    kept = study_figures.relative_auc(panels, vanilla, ordered=False)
    assert [t.get_text() for t in kept.axes[0].get_yticklabels()] == ["Flip", "CutOut-0.2", "Noise"]


@pytest.mark.parametrize("detectors", [["DAE"], ["DAE", "DeepSAD"]])
def test_the_families_are_all_in_the_figure(detectors: list[str]) -> None:
    rows = {a: relative([0.1, 0.2]) for a in ("flip", "cutout", "noise", "invert", "simclr")}
    figure = study_figures.relative_auc(
        dict.fromkeys(detectors, rows), dict.fromkeys(detectors, "AE")
    )
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1


def test_bars_for_every_class_and_the_mean() -> None:
    values = np.array([0.6, 0.9]), np.array([0.8, 0.7])
    figure = study_figures.class_bias({"DAE": ("AE", "DAE", ["1", "7"], *values)})
    heights = sorted(round(float(bar.get_height()), 6) for bar in figure.axes[0].patches)  # type: ignore[attr-defined]
    assert heights == [0.6, 0.7, 0.75, 0.75, 0.8, 0.9]
    assert "anomalous class" in svg(figure)


def test_histograms_hold_every_picture() -> None:
    scores = {"normal": np.array([0.1, 0.2]), "anomalous": np.array([0.3, 9.0])}
    figure = study_figures.error_histograms({"AE": scores, "Flip": scores, "GEOM": scores})
    assert len(figure.axes) == 3
    text = svg(figure)
    assert "reconstruction error" in text and ">augmented<" not in text
    same = {"normal": np.full(3, 0.5)}
    assert "AE" in svg(study_figures.error_histograms({"AE": same}))


@pytest.mark.parametrize(("by_score", "axes"), [(True, 6), (False, 2)])
def test_a_plane_by_kind_and_by_score(by_score: bool, axes: int) -> None:
    points = {k: np.random.default_rng(0).normal(size=(4, 2)) for k in study_figures.KIND_ROLES}
    scores = {kind: np.arange(4.0) for kind in points}
    panels = {"Flip": (points, scores), "CutOut": (points, scores)}
    figure = study_figures.embedding_plane(panels, by_score)
    assert len(figure.axes) == axes  # with a colour bar for each
    assert ("highest" in svg(figure)) == by_score


def record(augmentation: str, aucs: dict[str, float], normal: int = 0) -> Record:
    options = {"normal": normal, "generators": [test for test in aucs if not test.isdigit()]}
    config: dict[str, Any] = {
        "data": {"reader": "testbeds", "options": options},
        "tasks": {test: f"{normal}/{test}" for test in aucs},
        "detector": "DAE",
        "augmentation": augmentation,
        "seed": 0,
    }
    values = {"tests": {test: {"auc": auc} for test, auc in aucs.items()}, "change": 0.1}
    return Record("", config, "", "DAE", "done", values, None, 1.0, "2026-05-01", {})


def test_cases_are_of_the_aligned_augmentation() -> None:
    found = results(
        [
            record("identity", {"flip": 0.5, "mask": 0.5}),
            record("flip", {"flip": 0.6, "mask": 0.5}),
            record("cutout:size=0.2", {"flip": 0.9, "mask": 0.5}),
            record("identity", {"1": 0.5, "2": 0.8}),
            record("noise", {"1": 0.9, "2": 0.9}),
            record("flip", {"1": 0.5, "2": 0.95}),
        ]
    )
    chosen = cases(found)
    assert [(case.name, case.aligned) for case in chosen] == [
        ("flip", "flip"),
        ("semantic", "noise"),
    ]
    assert chosen[1].title == "normal/anomalous: 0/1"  # 0.4 better, and 0/2 no more than 0.15


def test_a_page_has_further_tables(tmp_path: Path) -> None:
    grid = Grid("mine", "Mine & yours", "What it is", ["a", "b"], [["**1**", "x" * 50], ["<", "3"]])
    empty = Grid("none", "Nothing", "", ["a"], [])
    page = ExperimentPage("Title", "command", 1, grids=[grid, empty], footer="The end.")
    text = write_page(tmp_path / "index.html", page).read_text(encoding="utf-8")
    assert "<h2>Mine &amp; yours</h2>" in text and "Nothing" not in text
    assert "<td><b>1</b></td>" in text and f'<td class="prose">{"x" * 50}</td>' in text
    assert "<td>&lt;</td>" in text and "The end." in text
