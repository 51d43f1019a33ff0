"""The tables of the study as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stssad_fast.augment.catalogue import Named
from stssad_fast.experiments.findings import Finding
from stssad_fast.experiments.hyperparameters import varied
from stssad_fast.experiments.relative import Relative, signed
from stssad_fast.experiments.scores import NONE
from stssad_fast.experiments.study_results import (
    VANILLA,
    Mean,
    Result,
    augmentations,
    detectors,
    generators,
    relatives,
    table,
)
from stssad_fast.experiments.tables import Grid, csv_text, p_text
from stssad_fast.experiments.testbeds import generator_title


def auc_table(found: Sequence[Result], of: Sequence[str] | None = None) -> Grid:
    """Table 1: rows are augmentations, columns detectors and generators.

    Args:
        found: results.
        of: augmentations to show; None: all.
    """
    cells, rows = table(found), augmentations(found) if of is None else of
    columns = [(d, g) for d in detectors(found) for g in generators(found)]
    columns = [c for c in columns if any((a, *c) in cells for a in rows)]
    best = {c: _best({a: cells[a, *c] for a in rows if (a, *c) in cells}) for c in columns}

    def text(augmentation: str, column: tuple[str, str]) -> str:
        mean = cells.get((augmentation, *column))
        if mean is None:
            return NONE
        number = f"{mean.auc:.3f}"
        number = f"**{number}**" if augmentation in best[column] else number
        return number if mean.runs == mean.expected else f"{number} [{mean.runs}]"

    header = ["Augmentation", *(f"{d}, {generator_title(g)}" for d, g in columns)]
    lines = [[Named.parse(a).title, *(text(a, c) for c in columns)] for a in rows]
    caption = (
        "Mean AUC over tasks; columns: detector and what made the anomalies (Sem.: they are of "
        "another class). The best of a column is bold. "
        "[n]: of n tasks and seeds only, bold if all are. Identity: AE, DeepSVDD."
    )
    return Grid("auc", "AUC (Table 1)", caption, header, lines)


def _best(column: Mapping[str, Mean]) -> set[str]:
    """Rows of the largest mean, equal if printed equal; one that lacks runs only if all do."""
    whole = {a: mean for a, mean in column.items() if mean.runs == mean.expected}
    means = {a: round(mean.auc, 3) for a, mean in (whole or column).items()}
    return {a for a, mean in means.items() if mean == max(means.values())}


def relative_table(found: Sequence[Result]) -> Grid:
    """What is seen in Fig. 2, 5 and 10 to 12, in numbers; no rows without a vanilla detector."""
    header = ["Detector", "Anomalies", "Augmentation", *_WORTH]
    lines = [
        [
            detector,
            generator_title(kind),
            Named.parse(augmentation).title,
            *_worth(row),
        ]
        for detector in detectors(found)
        for kind in generators(found)
        for augmentation, row in sorted(
            relatives(found, detector, kind).items(), key=lambda pair: -(pair[1].median or 0)
        )
    ]
    caption = (
        "AUC minus that of AE or DeepSVDD on the same task (means over seeds): Hodges-Lehmann "
        "pseudo-median with its 95 % interval, and the p-value of the one-sided Wilcoxon "
        "signed-rank test that it is positive; below 0.05 helpful, above 0.95 harmful."
    )
    return Grid("relative", "Relative AUC (Fig. 2, 4, 5)", caption, header, lines)


_WORTH = ("Pseudo-median", "95 % interval", "p", "")


def _worth(row: Relative) -> list[str]:
    """Cells under these headings."""
    interval = NONE if row.interval is None else " to ".join(map(signed, row.interval))
    return [signed(row.median), interval, p_text(row.p_value), row.verdict]


def hyperparameter_table(found: Sequence[Result]) -> Grid:
    """What is seen in Fig. 4b, in numbers.

    Args:
        found: results of DAE with other hyperparameters than the preset's.
    """
    lines = [
        [
            generator_title(kind),
            Named.parse(augmentation).title,
            *_worth(row.pooled),
            f"{signed(min(row.medians.values()))} to {signed(max(row.medians.values()))}",
        ]
        for kind in generators(found)
        for augmentation, row in sorted(
            varied(found, kind).items(), key=lambda pair: -(pair[1].pooled.median or 0)
        )
    ]
    caption = (
        "AUC of DAE minus that of AE with the same hyperparameters, over all pairs of a task and a "
        "setting: pseudo-median, 95 % interval and one-sided Wilcoxon signed-rank test, which take "
        "the pairs of a task for independent, as the study does. Last: the lowest and the highest "
        "pseudo-median of a single setting."
    )
    header = ["Anomalies", "Augmentation", *_WORTH, "Lowest to highest"]
    return Grid("hyperparameters", "Other hyperparameters (Fig. 4b)", caption, header, lines)


def distance_grid(distances: Mapping[str, Mapping[str, float]], encoder: str) -> Grid:
    """Table 2, the nearest augmentation first.

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
            Named.parse(a).title,
            *(f"{distances[a][k]:.4f}" if k in distances[a] else NONE for k in kinds),
            f"{means[a]:.4f}",
        ]
        for a in order
    ]
    caption = f"MMD between augmented training pictures and anomalies; encoder: {encoder}."
    return Grid("mmd", "Distances (Table 2)", caption, header, lines)


def findings_table(found: Iterable[Finding]) -> Grid:
    """The study's claims, and the run's numbers."""
    lines = [[f"**{f.name}**", f.claim, " ".join(f.evidence)] for f in found]
    header = ["", "What the study says", "What this run says"]
    return Grid("findings", "Findings", "", header, lines)


def results_csv(found: Iterable[Result]) -> str:
    """One line for every task, detector, augmentation, seed and setting of hyperparameters."""
    header = ["detector", "augmentation", "anomalies", "task", "seed", "auc", "hyperparameters"]
    return csv_text(
        header,
        (
            [r.detector, r.augmentation, r.generator, r.task, r.seed, r.auc, r.hyperparameters]
            for r in found
        ),
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
