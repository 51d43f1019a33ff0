"""What DAE makes of an anomaly: the picture that it was made of, or itself (the study, Obs. 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stssad_fast.augment import catalogue
from stssad_fast.augment.catalogue.base import OnOff
from stssad_fast.errors import InputError
from stssad_fast.experiments.study_results import Result


@dataclass(frozen=True)
class Rebuilt:
    """Over the few pictures whose reconstructions jobs have kept.

    Attributes:
        anomalies: their number.
        undone: of how many the reconstruction is nearer to the picture that the anomaly was made of
            than to the anomaly.
        distance: mean squared distance to that picture, over pixels and anomalies.
        error: mean reconstruction error of normal pictures, likewise.
    """

    anomalies: int
    undone: int
    distance: float
    error: float


def can_be_undone(generator: str) -> bool:
    """Whether the picture that an anomaly was made of can be had from it: Flip and Invert."""
    return isinstance(catalogue.make(generator), OnOff)


def rebuilt(
    found: Iterable[Result], arrays: Callable[[str], Mapping[str, NDArray[Any]]]
) -> Rebuilt | None:
    """What the reconstructions of some results come to; None if none has been kept.

    Args:
        found: results of DAE whose generator :func:`can_be_undone`.
        arrays: what a job has kept, by its key; raises :class:`InputError` if that is lost.
    """
    to_before, to_anomaly, to_normal = [], [], []
    for result in found:
        try:
            kept = arrays(result.record.key)
            shown, made, rows, labels = (
                kept[f"{what}/test/{result.test}"]
                for what in ("shown", "rebuilt", "rows", "labels")
            )
        except (InputError, KeyError):
            continue
        undo = catalogue.make(result.generator)
        assert isinstance(undo, OnOff)
        pictures = torch.from_numpy(shown / np.float32(255))
        before = undo.changed(pictures).numpy()  # twice, it is undone
        anomalous = labels[rows] == 1
        to_before += [_distances(made / 255, before)[anomalous]]
        errors = _distances(made / 255, pictures.numpy())
        to_anomaly += [errors[anomalous]]
        to_normal += [errors[~anomalous]]
    if not to_normal:
        return None
    distances = np.concatenate(to_before)
    return Rebuilt(
        len(distances),
        int((distances < np.concatenate(to_anomaly)).sum()),
        float(distances.mean()),
        float(np.concatenate(to_normal).mean()),
    )


def _distances(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Mean squared differences (n,) of pictures (n, C, H, W)."""
    squares: NDArray[np.float64] = ((first - second) ** 2).mean((1, 2, 3))
    return squares
