"""Labelled sets, and the one-against-others split that makes an anomaly problem of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stssad_fast.datasets.folder import GOOD
from stssad_fast.datasets.images import Size, resize
from stssad_fast.datasets.validate import as_images
from stssad_fast.errors import InputError


@dataclass(frozen=True)
class Labelled:
    """Pictures with class numbers, as a benchmark's files hold them.

    Attributes:
        images: (N, C, H, W), uint8 from a file (a quarter of float's memory) or float in [0, 1].
        labels: (N,) int64, class numbers.
    """

    images: Tensor
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """An anomaly problem: normal pictures to train on, normal and anomalous ones to find.

    Attributes:
        train_images: (N, C, H, W) float32 in [0, 1], all normal.
        test_images: (M, C, H, W) float32 in [0, 1].
        test_labels: (M,) int64, 0 normal and 1 anomalous; only to report with.
        test_kinds: M names, "good" for normal.
    """

    train_images: Tensor
    test_images: Tensor
    test_labels: NDArray[np.int64]
    test_kinds: list[str]


def one_vs(
    train: Labelled,
    test: Labelled,
    normal: int,
    anomalies: int | Sequence[int] | None = None,
    *,
    image_size: Size | None = None,
) -> Split:
    """Makes one class normal and others anomalous.

    Args:
        train: set whose pictures of class `normal` are trained on.
        test: set whose pictures of `normal` and `anomalies` are tested on, in its order.
        normal: class number of the normal pictures.
        anomalies: class number or numbers of the anomalies; None takes all other classes.
        image_size: side or (height, width) to resize to; None keeps the size.

    Raises:
        InputError: a class has no pictures, or is both normal and anomalous.
    """
    if anomalies is None:
        others = [int(label) for label in np.unique(test.labels) if label != normal]
    else:
        others = [anomalies] if isinstance(anomalies, int) else list(anomalies)
    if normal in others or not others:
        raise InputError(
            f"normal is {normal} and anomalies {others}; expected at least one anomalous class, "
            "other than the normal one."
        )
    for name, labels, needed in (("train", train.labels, [normal]), ("test", test.labels, others)):
        missing = sorted(set(needed) - set(labels.tolist()))
        if missing:
            raise InputError(
                f"The {name} set has no pictures of class {missing[0]}; "
                f"its classes are {np.unique(labels).tolist()}. Choose from these."
            )
    test_rows = np.flatnonzero(np.isin(test.labels, [normal, *others]))
    classes = test.labels[test_rows]
    return Split(
        train_images=_pick(train, np.flatnonzero(train.labels == normal), image_size),
        test_images=_pick(test, test_rows, image_size),
        test_labels=(classes != normal).astype(np.int64),
        test_kinds=[GOOD if label == normal else str(label) for label in classes],
    )


def _pick(data: Labelled, rows: NDArray[np.intp], image_size: Size | None) -> Tensor:
    images = as_images(data.images[torch.from_numpy(rows)], name="images")
    return images if image_size is None else resize(images, image_size)
