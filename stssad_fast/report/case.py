"""What a report is written from: a fitted estimator and the pictures it saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
from torch import Tensor, nn

from stssad_fast.datasets import Pictures

Array = npt.NDArray[Any]


class FittedEstimator(Protocol):
    """The part of a fitted `STSSAD` that the report reads."""

    @property
    def augmentation(self) -> str:
        """Name of the augmentation."""

    @property
    def augmentation_(self) -> nn.Module:
        """The tuned augmentation; `forward(images, *, generator=None)`."""

    @property
    def starts_(self) -> Sequence[Mapping[str, Any]]:
        """What every start led to, with its history."""

    @property
    def chosen_start_(self) -> int:
        """Index of the start that was kept."""

    @property
    def threshold_(self) -> float:
        """Anomaly score above which a picture is called anomalous."""

    def get_params(self) -> dict[str, Any]:
        """The parameters as given."""

    def embed(self, images: Pictures, /) -> Array:
        """Embeddings, (N, D)."""

    def anomaly_scores(self, images: Pictures, /) -> Array:
        """Scores, (N,), higher for more anomalous."""


@dataclass(frozen=True)
class ReportCase:
    """One fitted estimator with the pictures it saw.

    Attributes:
        title: Heading of the case.
        estimator: A fitted `STSSAD`.
        train_images: Normal pictures, (N, C, H, W) in [0, 1], C 1 or 3.
        test_images: Unlabelled pictures, (M, C, H, W) in [0, 1].
        labels: M truths, 0 normal and 1 anomalous; only for evaluation.
        kinds: M names of what each test picture shows, e.g. the kind of defect.
        names: M file names.
        notes: Sentences to print under the heading.
    """

    title: str
    estimator: FittedEstimator
    train_images: Pictures
    test_images: Pictures
    labels: Sequence[int] | Array | Tensor | None = None
    kinds: Sequence[str] | None = None
    names: Sequence[str] | None = None
    notes: Sequence[str] = ()
