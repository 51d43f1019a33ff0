"""From single runs to the numbers of a table: means, deviations and p-values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from stssad_fast.errors import InputError
from stssad_fast.experiments.paper import DEFECTS, OURS

MIN_PAIRS = 5  # with fewer, not even "better in every pair" has a p-value below 0.05
NONE = "\u2013"
CHANCE = 0.5  # the AUC that a detector counts with which diverged, and so tells nothing apart


@dataclass(frozen=True)
class Score:
    """What one run came to.

    Attributes:
        task: Name of the task, e.g. "cable/bent_wire".
        method: Name of the method, e.g. "ST-SSAD".
        seed: Seed of the run; runs of two methods on one task with one seed are a pair.
        auc: Area under the ROC curve on the test pictures, in [0, 1].
    """

    task: str
    method: str
    seed: int
    auc: float


@dataclass(frozen=True)
class Cell:
    """The runs behind one number of the table.

    Attributes:
        mean: Mean AUC; None without a run.
        std: Standard deviation over the seeds, with n - 1; None for fewer than two runs and for
            the mean of a column.
        runs: How many runs are in it.
        expected: How many there should be.
    """

    mean: float | None
    std: float | None
    runs: int
    expected: int

    def __str__(self) -> str:
        """For example "0.812 ± 0.010", and "0.812 ± 0.010 [3/5]" while runs are missing."""
        if self.mean is None:
            return NONE
        text = f"{self.mean:.3f}" + (f" ± {self.std:.3f}" if self.std is not None else "")
        return text if self.runs == self.expected else f"{text} [{self.runs}/{self.expected}]"


@dataclass(frozen=True)
class Comparison:
    """Whether our AUC is larger than that of another method.

    Attributes:
        p_value: One-sided, of the paired Wilcoxon signed-rank test; None with fewer than
            `MIN_PAIRS` pairs, and where no pair differs.
        pairs: How many (task, seed) both methods have a run of.
    """

    p_value: float | None
    pairs: int


@dataclass(frozen=True)
class Summary:
    """A table: tasks are its rows and methods its columns.

    Attributes:
        tasks, methods: Rows and columns, in order.
        seeds: Seeds that every cell should have.
        ours: The method that the others are compared with.
        runs: (task, method, seed) to AUC, of the runs there are.
        cells: (task, method) to the cell, for every pair of them.
        means: Method to the mean over the tasks, each task counting the same.
        comparisons: Every other method to its comparison with ours; empty without ours.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    ours: str
    runs: Mapping[tuple[str, str, int], float]
    cells: Mapping[tuple[str, str], Cell]
    means: Mapping[str, Cell]
    comparisons: Mapping[str, Comparison]

    def best(self, task: str | None = None) -> frozenset[str]:
        """Methods of the largest mean in a row, or in the row of means; equal if printed equal.

        A number that lacks runs is compared only where all do.
        """
        row = self.means if task is None else {m: self.cells[task, m] for m in self.methods}
        whole = {m: cell for m, cell in row.items() if cell.runs == cell.expected} or row
        means = {m: round(cell.mean, 3) for m, cell in whole.items() if cell.mean is not None}
        return frozenset(m for m, mean in means.items() if mean == max(means.values()))


def summarize(
    scores: Iterable[Score],
    *,
    ours: str = OURS,
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Summary:
    """Put runs, in whatever order they ended, into a table.

    Args:
        scores: The runs; some may be missing.
        ours: The method to compare the others with.
        tasks, methods: Rows and columns to show, in their order; runs of others are left out.
            Default: those that have a run, methods in the paper's order and tasks by name.
        seeds: Seeds that every cell should have. Default: those that occur.

    Raises:
        InputError: Two runs have the same task, method and seed, or an AUC is not in [0, 1].
    """
    runs: dict[tuple[str, str, int], float] = {}
    for score in scores:
        if (score.task, score.method, score.seed) in runs:
            raise InputError(
                f"two runs of {score.method} on {score.task} have seed {score.seed}; expected one. "
                "Give each run a seed of its own"
            )
        if not 0 <= score.auc <= 1:
            raise InputError(
                f"the AUC of {score.method} on {score.task}, seed {score.seed}, is {score.auc}; "
                "expected 0 to 1. Leave out runs that failed"
            )
        runs[score.task, score.method, score.seed] = score.auc
    if tasks is None:
        tasks = sorted({task for task, _, _ in runs}, key=_natural)
    if methods is None:
        methods = sorted({method for _, method, _ in runs}, key=_column)
    if seeds is None:
        seeds = sorted({seed for _, _, seed in runs})
    runs = {
        (t, m, s): runs[t, m, s] for t in tasks for m in methods for s in seeds if (t, m, s) in runs
    }
    cells = {
        (task, method): _cell(
            [runs[task, method, s] for s in seeds if (task, method, s) in runs], len(seeds)
        )
        for task in tasks
        for method in methods
    }
    return Summary(
        tuple(tasks),
        tuple(methods),
        tuple(seeds),
        ours,
        runs,
        cells,
        {method: _column_mean([cells[task, method] for task in tasks]) for method in methods},
        {m: compare(runs, ours, m) for m in methods if m != ours and ours in methods},
    )


def compare(runs: Mapping[tuple[str, str, int], float], ours: str, other: str) -> Comparison:
    """Test whether `ours` is better than `other` (Section 4, "Evaluation metrics").

    The one-sided paired Wilcoxon signed-rank test over all (task, seed) that both have. Pairs
    without a difference are left out (Wilcoxon's own way and the usual one, so most likely the
    paper's): that both are perfect on an easy task speaks for neither. Runs of one task are not
    independent of each other, so p-values are on the small side; the paper counts them as we do.
    """
    differences = [
        auc - runs[task, other, seed]
        for (task, method, seed), auc in runs.items()
        if method == ours and (task, other, seed) in runs
    ]
    return Comparison(p_value(differences), len(differences))


def p_value(differences: Sequence[float] | NDArray[np.float64]) -> float | None:
    """Of the one-sided Wilcoxon signed-rank test; None if fewer than `MIN_PAIRS` are not 0."""
    # Without the rounding, equal differences of AUCs would have unequal ranks.
    values = np.round(np.asarray(differences, dtype=float), 12)
    # The number of zeros would decide whether scipy counts or takes the normal approximation.
    values = values[values != 0]
    if len(values) < MIN_PAIRS:
        return None
    return float(wilcoxon(values, alternative="greater").pvalue)


def _cell(aucs: list[float], expected: int) -> Cell:
    mean = float(np.mean(aucs)) if aucs else None
    return Cell(mean, float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None, len(aucs), expected)


def _column_mean(column: list[Cell]) -> Cell:
    means = [cell.mean for cell in column if cell.mean is not None]
    runs, expected = sum(c.runs for c in column), sum(c.expected for c in column)
    return Cell(float(np.mean(means)) if means else None, None, runs, expected)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts "task 9" before "task 10"."""
    return [
        (int(part or 0), "") if i % 2 else (0, part)
        for i, part in enumerate(re.split(r"(\d+)", name))
    ]


def _column(method: str) -> tuple[int, list[tuple[int, str]]]:
    # RS-RO and RD-RO are not in Table 1, but stand where RS-CO and RD-CO do.
    known = [name.replace("-CO", "-RO") for name in DEFECTS.methods]
    order = [*dict.fromkeys(n for pair in zip(DEFECTS.methods, known, strict=True) for n in pair)]
    return (order.index(method) if method in order else len(order)), _natural(method)
