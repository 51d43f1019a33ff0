"""Whatever the user gives as pictures becomes rows of pictures, or one clear sentence."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stssad_fast.datasets.folder import read_files, read_folder
from stssad_fast.datasets.images import MIN_SIDE
from stssad_fast.datasets.pictures import ConvertedPictures, PictureFiles, Pictures, batches
from stssad_fast.datasets.validate import as_images
from stssad_fast.errors import InputError

Images = NDArray[Any] | Tensor | Pictures | str | os.PathLike[str] | Sequence[str | Path]
"""An array, a folder, files, or an object with shape, length and rows (see `Pictures`)."""


def as_pictures(
    x: Images,
    *,
    name: str = "images",
    split: Literal["train", "test"] | None = None,
    min_side: int = MIN_SIDE,
    min_count: int = 1,
) -> Pictures:
    """Checks pictures of any kind, a batch at a time where they do not lie in memory.

    Args:
        x: an array or tensor, which `as_images` checks and converts as a whole; a `numpy.memmap`
            or an object like `Pictures`, which stays where it is; a folder or a list of files, all
            of one size, which stay there too if they are too large (`read_folder`).
        name: what a message calls it.
        split: of a folder, as for `read_folder`.
        min_side: fewest pixels along each side.
        min_count: fewest pictures.

    Raises:
        InputError: with one sentence on the first thing found wrong.
    """
    pictures: Pictures
    if isinstance(x, Tensor) or (isinstance(x, np.ndarray) and not isinstance(x, np.memmap)):
        return as_images(x, name=name, min_side=min_side, min_count=min_count)
    if isinstance(x, str | os.PathLike):
        pictures = read_folder(x, image_size=None, split=split).images
    elif isinstance(x, Sequence) and x and all(isinstance(f, str | os.PathLike) for f in x):
        pictures = read_files(x)
    elif isinstance(x, PictureFiles):
        pictures = x
    else:
        pictures = ConvertedPictures(x, name, min_side)
        for _ in batches(pictures):  # each is checked when it is read: now, not after an hour
            pass
    count, _, height, width = pictures.shape
    if count < min_count:
        raise InputError(
            f"{name} holds {count} picture(s), expected at least {min_count}. Give more."
        )
    if min(height, width) < min_side:
        raise InputError(
            f"{name} has pictures of {height} x {width} pixels; both sides need at least "
            f"{min_side}. Use larger pictures."
        )
    return pictures


def as_train(train: Images, *, min_side: int = MIN_SIDE) -> Pictures:
    """Checks training pictures as `as_pictures` does.

    Raises:
        InputError: they are fewer than two, or all of one colour.
    """
    train = as_pictures(train, name="train_images", split="train", min_side=min_side, min_count=2)
    color = next(batches(train))[:1, :, :1, :1]
    if all(bool((images == color).all()) for images in batches(train)):
        raise InputError(
            f"train_images is all of one colour ({', '.join(f'{v:g}' for v in color.flatten())}), "
            "expected pictures to learn from; floats in [0, 1] that were cast to integers look so."
        )
    return train


def as_train_test(
    train: Images, test: Images, *, min_side: int = MIN_SIDE
) -> tuple[Pictures, Pictures]:
    """Checks training and test pictures, each as `as_pictures` does, and against each other.

    Raises:
        InputError: either holds fewer than two pictures, the training ones are all of one colour,
            or their channels or sizes differ.
    """
    train = as_train(train, min_side=min_side)
    test = as_pictures(test, name="test_images", split="test", min_side=min_side, min_count=2)
    if train.shape[1] != test.shape[1]:
        raise InputError(
            f"train_images has {train.shape[1]} channel(s) and test_images {test.shape[1]}, "
            "expected the same. Convert both to grey or both to RGB."
        )
    if tuple(train.shape[2:]) != tuple(test.shape[2:]):
        raise InputError(
            f"train_images is {train.shape[2]} x {train.shape[3]} pixels and test_images "
            f"{test.shape[2]} x {test.shape[3]}, expected the same. Resize one of them."
        )
    return train, test
