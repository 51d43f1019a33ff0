"""The report: complete, self-contained, well-formed, whatever the estimator went through."""

from __future__ import annotations

import dataclasses
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stssad_fast.errors import InputError
from stssad_fast.report import ReportCase, render_case, write_combined, write_report
from stssad_fast.report.collect import area_under_roc
from stssad_fast.report.wording import duration, hyperparameters, number

SECTIONS = ["pictures", "starts", "tuning", "embeddings", "scores", "configuration"]
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and remembers what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, Any]] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        values = dict(attributes)
        self.tags.add(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.links += [v for k, v in values.items() if k in ("src", "href", "xlink:href") and v]
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def changed(case: ReportCase, **attributes: Any) -> ReportCase:
    """The case with another estimator, which differs in `attributes`."""
    return dataclasses.replace(case, estimator=dataclasses.replace(case.estimator, **attributes))


def test_page_is_whole_and_self_contained(
    digits: ReportCase, textures: ReportCase, tmp_path: Path
) -> None:
    path = write_combined(tmp_path / "deep" / "report.html", [digits, textures], "Two cases")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    for case in ("case-1", "case-2"):
        assert case in page.ids
        assert {f"{case}-{section}" for section in SECTIONS} <= set(page.ids)
        assert f"#{case}" in page.links
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
    assert not page.tags & {"script", "link", "iframe"}
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert len(page.images) == 4 * 8 + 3 * 8
    assert all(image["alt"] for image in page.images)
    assert os.listdir(path.parent) == ["report.html"]


def test_page_says_what_was_found(digits: ReportCase, tmp_path: Path) -> None:
    path = write_report(
        tmp_path / "report.html",
        digits.estimator,
        digits.train_images,
        digits.test_images,
        labels=torch.as_tensor(digits.labels),
        title="Sixes",
    )
    text = path.read_text(encoding="utf-8")
    assert "<title>Sixes</title>" in text
    for fact in ("180.2°", "0.998", "49 s", "no longer falling", "ROC curve", torch.__version__):
        assert fact in text
    assert text.count("chosen</em>") == 1


def test_same_input_same_page(digits: ReportCase) -> None:
    assert render_case(digits) == render_case(digits)


def test_without_labels_no_truth_is_shown(textures: ReportCase) -> None:
    text = re.sub(r"base64,[^\"]*", "", render_case(textures))
    for word in ("AUC", "ROC", "True anomalies", "truth"):
        assert word not in text
    for name in ("Size", "Aspect", "Angle"):
        assert f"<h3>{name}</h3>" in text


def test_kinds_get_an_auc_each(textures: ReportCase) -> None:
    labels = [0] * 30 + [1] * 20
    kinds = ["good"] * 30 + ["crack"] * 5 + ["blowhole"] * 15
    text = render_case(dataclasses.replace(textures, labels=labels, kinds=kinds))
    assert text.index('<th scope="row">blowhole</th>') < text.index('<th scope="row">crack</th>')


def test_everything_from_outside_is_escaped(textures: ReportCase, tmp_path: Path) -> None:
    evil = "<script>alert('&\"')</script>" + "long" * 80
    count = len(textures.test_images)
    raw = [dict(start, stopped=evil) for start in textures.estimator.starts_]
    case = changed(textures, starts_=raw, parameters={evil: evil}, augmentation=evil)
    case = dataclasses.replace(
        case,
        title=evil,
        labels=[0, 1] * (count // 2),
        kinds=[evil, evil + "2"] * (count // 2),
        names=[evil] * count,
        notes=[evil],
    )
    text = write_combined(tmp_path / "report.html", [case, case], evil).read_text("utf-8")
    assert "<script" not in text
    assert "script" not in Page(text).tags


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class_have_no_roc(digits: ReportCase, label: int) -> None:
    case = dataclasses.replace(digits, labels=np.full(len(digits.test_images), label))
    assert "All test pictures carry the same label" in render_case(case)


def test_one_start(digits: ReportCase) -> None:
    case = changed(digits, starts_=list(digits.estimator.starts_)[:1], chosen_start_=0)
    text = render_case(case)
    assert "begins anew at 1 value." in text


def test_all_starts_together(digits: ReportCase) -> None:
    alone, together = (render_case(changed(digits, members_=n * [None])) for n in (0, 4))
    assert "of all starts together" in together and "of all starts together" not in alone
    kept = digits.estimator.starts_[digits.estimator.chosen_start_]
    own = area_under_roc(digits.labels, np.array(kept["scores"]))
    for text, auc in ((alone, "0.998"), (together, f"{own:.3f}")):
        (row,) = re.findall(r"chosen</em>.*?</tr>", text, re.DOTALL)
        assert f">{auc}<" in row
    assert own is not None and round(own, 3) != 0.998


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("score_shift", "the one of largest <i>shift</i> is."),
        ("score_variance", "the one of largest <i>S</i> is."),
        ("loss", "the one of least sum of the losses is."),
    ],
)
def test_the_rule_that_keeps_a_start(digits: ReportCase, rule: str, words: str) -> None:
    assert words in render_case(changed(digits, parameters={"selection": rule}))


def test_many_starts(digits: ReportCase) -> None:
    starts = list(digits.estimator.starts_) * 4
    text = render_case(changed(digits, starts_=starts))
    Page(text)
    assert f"begins anew at {len(starts)} values." in text


@pytest.mark.parametrize(
    ("value", "threshold"), [(0.0, 0.5), (-1e30, float("inf")), (float("nan"), float("nan"))]
)
def test_scores_that_are_all_the_same(digits: ReportCase, value: float, threshold: float) -> None:
    case = changed(digits, score=lambda images: np.full(len(images), value), threshold_=threshold)
    text = render_case(case)
    Page(text)
    assert ("The scores are not finite" in text) == np.isnan(value)


def test_a_long_tail_of_scores_is_gathered_and_said(textures: ReportCase) -> None:
    tail = [*np.linspace(0, 1, len(textures.test_images) - 2), 1e6, 1e7]
    case = changed(textures, score=lambda images: np.array(tail), threshold_=0.9)
    assert "The last bar gathers 2 pictures" in render_case(case)


@pytest.mark.parametrize("hole", [None, float("inf")])
def test_losses_that_were_never_finite(digits: ReportCase, hole: float | None) -> None:
    starts = []
    for raw in digits.estimator.starts_:
        history = dict(raw["history"])
        history["train_loss"] = [hole] * len(history["train_loss"])
        history["angle"] = [hole, *history["angle"][1:]]
        starts.append(
            dict(raw, history=history, train_loss=hole, validation_loss=hole, score_variance=hole)
        )
    text = render_case(changed(digits, starts_=starts))
    assert "no finite values" in text


def test_start_that_never_moved(digits: ReportCase) -> None:
    empty = {"iteration": [], "train_loss": [], "validation_loss": [], "angle": []}
    one = {"iteration": [0], "train_loss": [0.5], "validation_loss": [1.0], "angle": [45.0]}
    first, second, *_ = digits.estimator.starts_
    starts = [dict(first, history=empty, iteration=0), dict(second, history=one, iteration=0)]
    text = render_case(changed(digits, starts_=starts, chosen_start_=0))
    Page(text)
    assert "begins anew at 2 values." in text
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", text), re.IGNORECASE)


def test_tiny_sets_of_large_colour_pictures() -> None:
    class Identity(torch.nn.Module):
        def forward(self, images: torch.Tensor, *, generator: Any = None) -> torch.Tensor:
            return images

    class Estimator:
        augmentation = "identity"
        augmentation_ = Identity()
        chosen_start_ = 0
        threshold_ = 1.0
        starts_ = ({"initial": {"size": 0.0}, "final": {"size": 0.0}, "history": {"size": [0.0]}},)

        def get_params(self) -> dict[str, Any]:
            return {}

        def embed(self, images: torch.Tensor) -> np.ndarray:
            return np.full((len(images), 1), np.nan)

        def anomaly_scores(self, images: torch.Tensor) -> np.ndarray:
            return np.arange(len(images), dtype=float)

    pictures = torch.rand(2, 3, 300, 500)
    page = Page(render_case(ReportCase("", Estimator(), pictures[:1], pictures, labels=[0, 1])))
    assert len(page.images) == 1 + 1 + 2 + 1


@pytest.mark.parametrize("wrong", [{"labels": [0]}, {"names": ["a"]}, {"kinds": []}])
def test_facts_that_do_not_fit_the_pictures(digits: ReportCase, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="were given for 261 test pictures"):
        render_case(dataclasses.replace(digits, **wrong))


def test_labels_other_than_0_and_1(digits: ReportCase) -> None:
    with pytest.raises(ValueError, match=r"0 \(normal\) or 1"):
        render_case(dataclasses.replace(digits, labels=[2] * len(digits.test_images)))


def test_a_failing_write_leaves_the_old_report(
    textures: ReportCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="disk full"):
        write_combined(path, [textures], "new")
    assert os.listdir(tmp_path) == ["report.html"] and path.read_text() == "old"


def test_no_case(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one case"):
        write_combined(tmp_path / "report.html", [], "none")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0031, "0.0031"),
        (0.00001, "1.00\u00d710⁻⁵"),
        (-5.0, "\u22125"),
        (999.7, "1000"),
        (123456.0, "1.23\u00d710⁵"),
        (0.0, "0"),
        (None, "\u2013"),
        (float("nan"), "\u2013"),
        (float("-inf"), "\u2212∞"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_wording() -> None:
    assert hyperparameters({"size": 0.0031, "aspect": 1.2, "angle": -0.01}) == "0.0031 · 1.2 · 0.0°"
    assert [duration(s) for s in (3.21, 48, 185, 7800)] == [
        "3.2 s",
        "48 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
