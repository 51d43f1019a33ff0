"""ELPV: electroluminescence pictures of solar cells, from the package `elpv-dataset`."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stssad_fast.datasets.folder import GOOD
from stssad_fast.datasets.images import Size, read_image
from stssad_fast.datasets.installed import package_folder
from stssad_fast.datasets.labelled import Split
from stssad_fast.errors import InputError


def load_elpv(
    module: Literal["mono", "poly"] | None = "mono",
    *,
    image_size: Size | None = 64,
    test_fraction: float = 0.2,
    seed: int | np.random.Generator = 0,
) -> Split:
    """Loads the solar cells on whose state the raters were sure.

    A cell with defect probability 0 is good, one with 1 is defective; those between are left out.
    The good ones are divided at random, the defective ones are all in the test set.

    Args:
        module: mono- or polycrystalline cells, None for both.
        image_size: side or (height, width) to resize to; None keeps 300 x 300.
        test_fraction: share of the good cells that goes to the test set, in (0, 1).
        seed: of the division.

    Returns:
        Grey pictures; the kind of an anomaly is "defective".

    Raises:
        InputError: `elpv-dataset` is not installed or not in its usual form.
    """
    if module not in ("mono", "poly", None):
        raise InputError(f'module is {module!r}, expected "mono", "poly" or None.')
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction is {test_fraction!r}, expected a number in (0, 1).")
    folder = package_folder("elpv_dataset", "'stssad-fast[elpv]'") / "data"
    good: list[Path] = []
    defective: list[Path] = []
    try:
        for line in (folder / "labels.csv").read_text().splitlines():
            name, probability, kind = line.split()
            if module in (kind, None) and float(probability) in (0, 1):
                (defective if float(probability) == 1 else good).append(folder / name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / 'labels.csv'} cannot be read ({error}). Install elpv-dataset again."
        ) from error
    order = np.random.default_rng(seed).permutation(len(good))
    shuffled = [good[index] for index in order]
    n_test = round(test_fraction * len(good))
    train, test_good = sorted(shuffled[n_test:]), sorted(shuffled[:n_test])
    if not (train and test_good and defective):
        raise InputError(
            f"elpv-dataset holds {len(good)} good and {len(defective)} defective cells of this "
            "kind, too few to divide. Install it again."
        )
    train_images, test_images = (
        torch.stack([read_image(file, channels=1, image_size=image_size) for file in files])
        for files in (train, test_good + defective)
    )
    labels = np.repeat(np.array([0, 1], np.int64), [len(test_good), len(defective)])
    kinds = [GOOD] * len(test_good) + ["defective"] * len(defective)
    return Split(train_images, test_images, labels, kinds)
