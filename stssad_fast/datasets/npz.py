"""Labelled sets in one NumPy file, and the reader that finds out what a path holds."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stssad_fast.datasets.cifar10 import read_cifar10
from stssad_fast.datasets.idx import read_mnist
from stssad_fast.datasets.labelled import Labelled
from stssad_fast.datasets.svhn import read_svhn
from stssad_fast.errors import InputError

# As NumPy users name them, and as Keras does.
_NAMES = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}


def read_labelled(path: str | os.PathLike[str]) -> tuple[Labelled, Labelled]:
    """Reads a labelled set in any of the formats known here; the content of `path` decides.

    Args:
        path: an `.npz` file (see `read_npz`), or a folder with MNIST's four files, SVHN's
            `train_32x32.mat` and `test_32x32.mat`, or CIFAR-10's batches.

    Returns:
        Train and test set.

    Raises:
        InputError: the path is missing or holds none of these, or a file is damaged.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return read_npz(path)
    if not path.is_dir():
        raise InputError(f"{path} does not exist, or is no folder and no .npz file.")
    if (path / "train_32x32.mat").exists():
        return read_svhn(path / "train_32x32.mat"), read_svhn(path / "test_32x32.mat")
    if any(path.glob("*train-images*")):
        return read_mnist(path)
    if (path / "data_batch_1").exists():
        return read_cifar10(path)
    raise InputError(
        f"{path} holds no labelled set that is known here; expected MNIST's four files, SVHN's "
        "train_32x32.mat and test_32x32.mat, or CIFAR-10's batches."
    )


def read_npz(path: str | os.PathLike[str]) -> tuple[Labelled, Labelled]:
    """Reads a NumPy file of four arrays.

    Args:
        path: holds `train_images`, `train_labels`, `test_images`, `test_labels` (or Keras's
            `x_train` and so on): pictures uint8 (N, H, W), (N, H, W, 3) or (N, C, H, W), and class
            numbers (N,).

    Returns:
        Train and test set, images uint8 (N, C, H, W).

    Raises:
        InputError: the file is missing or damaged, an array is missing, or its shape or type is
            another, or train and test differ in their channels.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:  # which np.load leaves open where it is no archive
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise ValueError("a single array without a name")
            with content:
                arrays: dict[str, NDArray[Any]] = dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read as a NumPy file ({error}); expected what numpy.savez writes."
        ) from error
    train, test = (_part(path, arrays, part) for part in ("train", "test"))
    if train.images.shape[1] != test.images.shape[1]:
        raise InputError(
            f"{path} has training pictures of {train.images.shape[1]} channels and test pictures "
            f"of {test.images.shape[1]}; expected as many."
        )
    return train, test


def _part(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> Labelled:
    for images_name, labels_name in _NAMES[part]:
        if images_name in arrays and labels_name in arrays:
            break
    else:
        raise InputError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}, expected {part}_images and "
            f"{part}_labels."
        )
    images, labels = arrays[images_name], arrays[labels_name].reshape(-1)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"{images_name} in {path} is {images.dtype} of shape {arrays[images_name].shape}; "
            "expected uint8 (N, H, W), (N, H, W, 3) or (N, C, H, W)."
        )
    if not len(images):
        raise InputError(f"{images_name} in {path} holds no pictures; expected at least one.")
    if len(labels) != len(images) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{labels_name} in {path} is {labels.dtype} of shape {arrays[labels_name].shape}; "
            f"expected {len(images)} class numbers."
        )
    return Labelled(torch.from_numpy(np.ascontiguousarray(images)), labels.astype(np.int64))
