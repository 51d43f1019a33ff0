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
    parts = []
    for found, reference in zip(scores, references, strict=True):
        ordered = np.sort(reference)
        below, up_to = (np.searchsorted(ordered, found, side) for side in ("left", "right"))
        parts.append((below + up_to) / (2 * len(ordered)))
    mean: Array = np.average(parts, axis=0, weights=weight)
    return mean
