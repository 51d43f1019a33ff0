"""How much better one detector is than another, over the tasks that both have (the study, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from stssad_fast.experiments.scores import NONE, p_value

HELPFUL, HARMFUL = 0.05, 0.95
"""One-sided p-values below and above which an augmentation helps and harms."""

EXACT_BELOW = 50  # differences; from there on the signed-rank statistic is close to normal


@dataclass(frozen=True)
class Relative:
    """Differences of AUCs, one for each task.

    Attributes:
        differences: (n,) AUC minus that of the vanilla detector.
        median: the pseudo-median; None without differences.
        interval: that the pseudo-median lies in, with 95 % confidence; None for fewer than 6
            differences, of which no such interval can be told.
        p_value: of the one-sided Wilcoxon signed-rank test that the differences are positive;
            None where fewer than 5 are not 0: no p-value could then be below 0.05.
    """

    differences: NDArray[np.float64]
    median: float | None
    interval: tuple[float, float] | None
    p_value: float | None

    @property
    def verdict(self) -> str:
        """ "helpful", "harmful" or "", by the p-value alone."""
        if self.p_value is None:
            return ""
        return "helpful" * (self.p_value < HELPFUL) + "harmful" * (self.p_value > HARMFUL)


def relative(differences: Sequence[float] | NDArray[np.float64]) -> Relative:
    """What can be said of differences of AUCs.

    Differences of 0 count for the pseudo-median and its interval, but not for the test
    (Wilcoxon's own way, which the paper most likely took).
    """
    values = np.round(np.asarray(differences, dtype=float), 12)  # as p_value does
    return Relative(values, pseudo_median(values), interval(values), p_value(values))


def walsh_averages(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of all pairs of (n,) values, each with itself included: (n (n + 1) / 2,), ascending."""
    first, second = np.triu_indices(len(values))
    return np.sort((values[first] + values[second]) / 2)


def pseudo_median(values: NDArray[np.float64]) -> float | None:
    """Hodges–Lehmann estimate: the median of the Walsh averages; None without values."""
    return float(np.median(walsh_averages(values))) if len(values) else None


def interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of the pseudo-median, from the Wilcoxon signed-rank statistic.

    All numbers that the two-sided test does not reject as the centre of (n,) ``values``. Its
    coverage is at least ``level``, in (0, 1): exact below 50 values, the normal approximation
    from there on. None if there are too few values for that level.
    """
    lowest = _lower_rank(len(values), (1 - level) / 2)
    if lowest < 1:
        return None
    averages = walsh_averages(values)
    return float(averages[lowest - 1]), float(averages[-lowest])


def _lower_rank(count: int, tail: float) -> int:
    """The largest k with P(T < k) <= tail, T the signed-rank statistic of ``count`` values."""
    most = count * (count + 1) // 2
    if count >= EXACT_BELOW:
        deviation = (most * (2 * count + 1) / 12) ** 0.5
        return int(most / 2 + NormalDist().inv_cdf(tail) * deviation)
    ways = np.ones(1)  # how many subsets of the ranks have each sum
    for rank in range(1, count + 1):
        ways = np.convolve(ways, np.eye(1, rank + 1)[0] + np.eye(1, rank + 1, rank)[0])
    return int(np.searchsorted(np.cumsum(ways) / 2.0**count, tail, side="right"))


def signed(value: float | None) -> str:
    """A difference with three decimals and a sign, a dash for none."""
    if value is None:
        return NONE
    text = f"{value:+.3f}".replace("-", "\u2212")
    return text[1:] if float(f"{value:.3f}") == 0 else text
