"""What a report is written from: a fitted estimator and the pictures it saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from torch import Tensor

from stssad_fast.datasets import Pictures
from stssad_fast.estimator import STSSAD

Array = npt.NDArray[Any]


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
    estimator: STSSAD
    train_images: Pictures
    test_images: Pictures
    labels: Sequence[int] | Array | Tensor | None = None
    kinds: Sequence[str] | None = None
    names: Sequence[str] | None = None
    notes: Sequence[str] = ()
