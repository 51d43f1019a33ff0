"""SVHN's cropped digits (format 2), MATLAB files."""

import os
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat

from stssad_fast.datasets.labelled import Labelled
from stssad_fast.errors import InputError


def read_svhn(path: str | os.PathLike[str]) -> Labelled:
    """Reads `train_32x32.mat`, `test_32x32.mat` or `extra_32x32.mat`.

    Returns:
        Images uint8 (N, 3, 32, 32), and digits 0 to 9 (the file writes 0 as 10).

    Raises:
        InputError: the file is missing, damaged, or holds no X (H, W, 3, N) and y (N, 1).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file. Check the path.")
    try:
        content = loadmat(path, appendmat=False, variable_names=("X", "y"))
    # A damaged file makes loadmat raise nearly anything.
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a MATLAB file ({error}). Download it again."
        ) from error
    images, labels = content.get("X"), content.get("y")
    if (
        images is None
        or labels is None
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[2] != 3
        or labels.size != images.shape[3]
    ):
        raise InputError(
            f"{path} is not SVHN's format 2: expected X of uint8 (32, 32, 3, N) and y of N digits. "
            "Download the cropped digits."
        )
    digits = labels.reshape(-1).astype(np.int64) % 10
    images = np.ascontiguousarray(images.transpose(3, 2, 0, 1))  # (N, 3, H, W)
    return Labelled(torch.from_numpy(images), digits)
