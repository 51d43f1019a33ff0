"""All starts together, instead of the one that is kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def members(results: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the starts that did not diverge."""
    return [index for index, result in enumerate(results) if result["scores"] is not None]


def weights(results: Sequence[Mapping[str, Any]]) -> Array:
    """A weight for each of :func:`members`, in all 1.

    Their ``score_shift``, where it is positive: how much farther than the training pictures the
    test pictures lie, in the eyes of that start. If none is positive, all weigh the same.
    """
    shifts = np.array([max(results[index]["score_shift"], 0.0) for index in members(results)])
    return shifts / shifts.sum() if shifts.any() else np.full(len(shifts), 1 / len(shifts))


def combine(scores: Sequence[Array], references: Sequence[Array], weight: Array) -> Array:
    """Weighted mean (N,) of the places that pictures have among the test pictures, in [0, 1].

    Scores of different starts have no common scale; places have.

    Args:
        scores: of the pictures, (N,) by each start.
        references: of the test pictures, (M,) by each start.
        weight: (number of starts,), in all 1.
    """
    parts = [places(*pair) for pair in zip(scores, references, strict=True)]
    mean: Array = np.average(parts, axis=0, weights=weight)
    return mean


def places(scores: Array, reference: Array) -> Array:
    """Where scores (N,) lie among others (M,), in [0, 1], a larger one farther up.

    Of one of the others its rank, as a share: (rank - 1/2) / M, the mean of equal ones. Between two
    of them in proportion; beyond all of them the rest is divided, half of it at as great a distance
    as they have from each other, so that what lies farther out is never level with the last one.
    """
    values, counts = np.unique(reference, return_counts=True)
    up_to = np.cumsum(counts)
    ranks = (2 * up_to - counts) / (2 * len(reference))
    width = values[-1] - values[0] or 1.0
    over = np.maximum(scores - values[-1], 0.0) / width
    under = np.maximum(values[0] - scores, 0.0) / width
    inside = np.interp(scores, values, ranks)
    found: Array = np.where(over > 0, 1 - (1 - ranks[-1]) / (1 + over), inside / (1 + under))
    return found
