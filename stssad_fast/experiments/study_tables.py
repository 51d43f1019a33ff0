"""The tables of the study as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stssad_fast.experiments.scores import NONE
from stssad_fast.experiments.study_results import (
    VANILLA,
    Result,
    augmentations,
    detectors,
    generators,
    relatives,
    table,
)
from stssad_fast.experiments.tables import csv_text, p_text
from stssad_fast.experiments.testbeds import Augmentation, generator_title


def auc_table(found: Sequence[Result], of: Sequence[str] | None = None) -> str:
    """Table 1 in Markdown: rows are augmentations, columns detectors and generators.

    Args:
        found: results.
        of: augmentations to show; None: all.
    """
    cells, rows = table(found), augmentations(found) if of is None else of
    columns = [(d, g) for d in detectors(found) for g in generators(found)]
    columns = [c for c in columns if any((a, *c) in cells for a in rows)]
    best = {c: max(cells[a, *c].auc for a in rows if (a, *c) in cells) for c in columns}

    def text(augmentation: str, column: tuple[str, str]) -> str:
        mean = cells.get((augmentation, *column))
        if mean is None:
            return NONE
        number = f"{mean.auc:.3f}"
        number = f"**{number}**" if mean.auc == best[column] else number
        return number if mean.tasks == mean.expected else f"{number} [{mean.tasks}]"

    header = ["Augmentation", *(f"{d}, {generator_title(g)}" for d, g in columns)]
    lines = [[Augmentation.parse(a).title, *(text(a, c) for c in columns)] for a in rows]
    caption = (
        "Mean AUC over tasks; columns: detector and what made the anomalies (Sem.: they are of "
        "another class). The best of a column is bold. "
        "[n]: of n tasks only. Identity: AE, DeepSVDD."
    )
    return f"{caption}\n\n{_markdown(header, lines)}"


def relative_table(found: Sequence[Result]) -> str:
    """What is seen in Fig. 2, 5 and 10 to 12, in numbers; empty without a vanilla detector."""
    header = ["Detector", "Anomalies", "Augmentation", "Pseudo-median", "95 % interval", "p", ""]
    lines = [
        [
            detector,
            generator_title(kind),
            Augmentation.parse(augmentation).title,
            signed(row.median),
            NONE if row.interval is None else " to ".join(map(signed, row.interval)),
            p_text(row.p_value),
            row.verdict,
        ]
        for detector in detectors(found)
        for kind in generators(found)
        for augmentation, row in sorted(
            relatives(found, detector, kind).items(), key=lambda pair: -(pair[1].median or 0)
        )
    ]
    return _markdown(header, lines) if lines else ""


def distances_markdown(distances: Mapping[str, Mapping[str, float]], encoder: str) -> str:
    """Table 2 in Markdown, the nearest augmentation first.

    Args:
        distances: MMD by augmentation and generator.
        encoder: name of the network whose embeddings are compared.
    """
    kinds = list(dict.fromkeys(kind for row in distances.values() for kind in row))
    means = {a: float(np.mean(list(row.values()))) for a, row in distances.items()}
    header = ["Augmentation", *map(generator_title, kinds), "Mean"]
    order = sorted(means, key=lambda a: (a == VANILLA, means[a]))
    lines = [
        [
            Augmentation.parse(a).title,
            *(f"{distances[a][k]:.4f}" if k in distances[a] else NONE for k in kinds),
            f"{means[a]:.4f}",
        ]
        for a in order
    ]
    caption = f"MMD between augmented training pictures and anomalies; encoder: {encoder}."
    return f"{caption}\n\n{_markdown(header, lines)}"


def results_csv(found: Iterable[Result]) -> str:
    """One line for every task, detector, augmentation and seed."""
    header = ["detector", "augmentation", "anomalies", "task", "seed", "auc"]
    return csv_text(
        header,
        ([r.detector, r.augmentation, r.generator, r.task, r.seed, r.auc] for r in found),
    )


def relative_csv(found: Sequence[Result]) -> str:
    """One line for every detector, generator and augmentation."""
    header = ["detector", "anomalies", "augmentation", "tasks", "pseudo_median", "low", "high"]
    return csv_text(
        [*header, "p_value"],
        (
            [d, g, a, len(r.differences), r.median, *(r.interval or (None, None)), r.p_value]
            for d in detectors(found)
            for g in generators(found)
            for a, r in relatives(found, d, g).items()
        ),
    )


def signed(value: float | None) -> str:
    """Three decimals and a sign."""
    return NONE if value is None else f"{value:+.3f}".replace("-", "\u2212")


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
