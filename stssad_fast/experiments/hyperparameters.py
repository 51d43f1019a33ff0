"""What an augmentation is worth to DAE whatever its other hyperparameters (the study, Obs. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stssad_fast.experiments.relative import Relative, relative
from stssad_fast.experiments.study_results import VANILLA, Result, relatives, task_means

DETECTOR = "DAE"
"""The only one that the study gives several settings."""


@dataclass(frozen=True)
class Varied:
    """An augmentation against AE, both with the same hyperparameters.

    Attributes:
        pooled: over all pairs of a task and a setting (Fig. 4b).
        medians: pseudo-median over the tasks, by setting.
    """

    pooled: Relative
    medians: Mapping[str, float]


def by_setting(found: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by their hyperparameters, as text, in the order in which they come."""
    groups: dict[str, list[Result]] = {}
    for result in found:
        groups.setdefault(result.hyperparameters, []).append(result)
    return groups


def varied(found: Sequence[Result], kind: str) -> dict[str, Varied]:
    """Every augmentation against AE; empty without AE.

    Args:
        found: results of DAE, with one setting or several.
        kind: a generator of the results.
    """
    rows: dict[str, dict[str, Relative]] = {}
    for setting, results in by_setting(found).items():
        for augmentation, row in relatives(results, DETECTOR, kind).items():
            rows.setdefault(augmentation, {})[setting] = row
    return {
        augmentation: Varied(
            relative(np.concatenate([row.differences for row in settings.values()])),
            {s: row.median for s, row in settings.items() if row.median is not None},
        )
        for augmentation, settings in rows.items()
    }


def vanilla_aucs(found: Sequence[Result], kind: str) -> dict[str, float]:
    """Mean AUC of AE over the tasks, by setting."""
    tasks = {s: task_means(r, DETECTOR, VANILLA, kind) for s, r in by_setting(found).items()}
    return {s: float(np.mean(list(aucs.values()))) for s, aucs in tasks.items() if aucs}
