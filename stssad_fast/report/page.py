"""The HTML page: one section per case, everything inside the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from stssad_fast.checkpoint import write_text
from stssad_fast.datasets import Pictures
from stssad_fast.devices import versions
from stssad_fast.estimator import STSSAD
from stssad_fast.report import figures, pictures, wording
from stssad_fast.report.case import Array, ReportCase
from stssad_fast.report.collect import Facts, collect


def write_report(
    path: str | Path,
    estimator: STSSAD,
    train_images: Pictures,
    test_images: Pictures,
    *,
    labels: Sequence[int] | Array | Tensor | None = None,
    title: str = "A self-tuned anomaly detector",
    kinds: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the report of one fitted estimator as a single self-contained HTML file.

    Args:
        path: The file; it appears complete or not at all.
        estimator: A fitted `STSSAD`.
        train_images: Normal pictures, (N, C, H, W) in [0, 1], C 1 or 3.
        test_images: Test pictures, (M, C, H, W) in [0, 1].
        labels: M truths, 0 normal and 1 anomalous; only for evaluation.
        title: Heading of the page.
        kinds: M names of what each test picture shows.
        names: M file names.
        notes: Sentences to print under the heading.

    Returns:
        The path written.

    Raises:
        ValueError: `labels`, `kinds` or `names` do not match the test pictures.
    """
    case = ReportCase(title, estimator, train_images, test_images, labels, kinds, names, notes)
    return write_combined(path, [case], title)


def write_combined(path: str | Path, cases: Sequence[ReportCase], title: str) -> Path:
    """Write several cases on one page, with a navigation at its top.

    Raises:
        ValueError: There is no case, or one is inconsistent (see `write_report`).
    """
    if not cases:
        raise ValueError("a report needs at least one case")
    anchors = [f"case-{number}" for number in range(1, len(cases) + 1)]
    html = (
        environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            navigation=[(case.title, anchor) for case, anchor in zip(cases, anchors, strict=True)],
            sections=[
                render_case(case, anchor) for case, anchor in zip(cases, anchors, strict=True)
            ],
            versions=versions(),
        )
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, html)
    return path


def render_case(case: ReportCase, anchor: str = "case-1") -> Markup:
    """One case as an HTML <section>; `anchor` starts every id in it."""
    facts = collect(case)
    names = facts.hyperparameters
    bars, beyond = figures.histogram(facts, f"{anchor}-histogram")
    html = (
        environment()
        .get_template("case.html.j2")
        .render(
            anchor=anchor,
            case=case,
            facts=facts,
            trajectories=[(n, figures.trajectory(facts, n, f"{anchor}-{n}")) for n in names],
            losses=[
                (
                    label,
                    explanation,
                    figures.trajectory(facts, name, f"{anchor}-{name}", wide=len(names) > 1),
                )
                for name, label, explanation in _LOSSES
            ],
            smoothed=any(len(s.history["iteration"]) >= figures.SMOOTH_FROM for s in facts.starts),
            styles=figures.start_styles(facts.starts),
            rows=pictures.rows(facts),
            embeddings=figures.embeddings(facts, f"{anchor}-embeddings"),
            histogram=bars,
            beyond=beyond,
            roc=figures.roc(facts, f"{anchor}-roc"),
            verdict=_verdict(facts),
            parameters=sorted(case.estimator.get_params().items()),
        )
    )
    return Markup(html)


_LOSSES = [
    (
        "train_loss",
        "Training loss",
        "how badly the network tells normal from augmented pictures: near 0.69 it cannot, "
        "so the augmentation does too little",
    ),
    (
        "validation_loss",
        "Validation loss",
        "how far, in the embedding, the test pictures lie from the normal and the augmented ones: "
        "the tuning follows it downhill",
    ),
]


def _verdict(facts: Facts) -> str:
    """What the threshold does on the test set, in a sentence; nothing without a threshold."""
    if not np.isfinite(facts.threshold):
        return ""
    flagged = facts.scores > facts.threshold
    sentence = f"The threshold flags {flagged.sum()} of {len(flagged)} test pictures"
    if facts.labels is None or not facts.both_classes:
        return sentence + "."
    found, false = flagged[facts.labels == 1], flagged[facts.labels == 0]
    return (
        f"{sentence}: {found.sum()} of {len(found)} anomalies ({np.mean(found):.0%}) "
        f"and {false.sum()} of {len(false)} normal ones ({np.mean(false):.0%})."
    )


def environment() -> Environment:
    """The templates beside this module, with the formats of numbers as filters."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats: dict[str, Any] = {
        "number": wording.number,
        "hyperparameter": wording.hyperparameter,
        "hyperparameters": wording.hyperparameters,
        "duration": wording.duration,
    }
    environment.filters.update(formats)
    return environment
