"""Handwritten digits that come with scikit-learn."""

import numpy as np
import torch
from sklearn.datasets import load_digits as load_sklearn_digits

from stssad_fast.datasets.images import Size
from stssad_fast.datasets.labelled import Labelled, Split, one_vs
from stssad_fast.errors import InputError


def load_digits(
    normal: int = 6,
    anomaly: int = 9,
    *,
    image_size: Size | None = 16,
    train_fraction: float = 0.6,
    seed: int | np.random.Generator = 0,
) -> Split:
    """Loads two of the ten digits, about 180 grey pictures of 8 x 8 each, without a network.

    Args:
        normal: the digit to train on.
        anomaly: the digit to find; all its pictures are in the test set.
        image_size: side or (height, width) to resize to; None keeps 8 x 8.
        train_fraction: share of the normal pictures to train on, in (0, 1); the others are tested.
        seed: of the division.

    Returns:
        Split with kinds "good" and the anomaly's digit.

    Raises:
        InputError: an argument is out of its range.
    """
    if not {normal, anomaly} <= set(range(10)):
        raise InputError(f"normal is {normal!r} and anomaly {anomaly!r}, expected digits 0 to 9.")
    if not 0 < train_fraction < 1:
        raise InputError(f"train_fraction is {train_fraction!r}, expected a number in (0, 1).")
    bunch = load_sklearn_digits()
    images = torch.from_numpy(bunch.images / 16).to(torch.float32)[:, None]  # (1797, 1, 8, 8)
    labels = bunch.target.astype(np.int64)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(labels == normal))
    train = np.isin(np.arange(len(labels)), rows[: round(train_fraction * len(rows))])
    return one_vs(
        Labelled(images[torch.from_numpy(train)], labels[train]),
        Labelled(images[torch.from_numpy(~train)], labels[~train]),
        normal,
        anomaly,
        image_size=image_size,
    )
