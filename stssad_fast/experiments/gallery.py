"""One picture under the three local augmentations, patch by patch larger (Appendix B.1, Fig. 8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stssad_fast.datasets import load_textures, read_image
from stssad_fast.errors import InputError
from stssad_fast.ops import cutdiff, patch_shape

SIZES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
CUTDIFF_SHAPES = ((1.0, 0.0), (2.0, 0.0), (2.0, 45.0))  # aspect and angle in degrees


@dataclass(frozen=True)
class Gallery:
    """Pictures in rows and columns.

    Attributes:
        rows: Names of the augmentations.
        columns: "none", then the sizes.
        pictures: (rows, columns, C, H, W) in [0, 1].
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    pictures: Tensor


def gallery(picture: Tensor) -> Gallery:
    """Every augmentation at every size, with the patch in the middle.

    Args:
        picture: (C, H, W) in [0, 1].

    Raises:
        InputError: `picture` is no (C, H, W) of floating-point numbers.
    """
    if picture.ndim != 3 or not picture.is_floating_point():
        raise InputError(
            f"picture is {picture.dtype} of shape {tuple(picture.shape)}; expected floating-point "
            "numbers of shape (C, H, W). Give a single picture in [0, 1]"
        )
    middle = picture.new_tensor([0.5, 0.5])
    rows = {
        "CutPaste": [cut_paste(picture, size) for size in SIZES],
        "CutOut": [cut_out(picture, size) for size in SIZES],
    }
    for aspect, angle in CUTDIFF_SHAPES:
        rows[f"CutDiff\naspect {aspect:g}, {angle:g}°"] = [
            cutdiff(picture[None], patch_shape(size, aspect, angle), middle)[0] for size in SIZES
        ]
    return Gallery(
        tuple(rows),
        ("none", *(f"{size:g}" for size in SIZES)),
        torch.stack([torch.stack([picture, *pictures]) for pictures in rows.values()]),
    )


def gallery_picture(file: str | Path | None = None, side: int = 160) -> Tensor:
    """The picture to show: (C, side, side) from `file`, or a crop of a photograph of bricks.

    Raises:
        InputError: `file` cannot be read, or `side` is too small or too large.
    """
    if file is not None:
        return read_image(file, image_size=side)
    return load_textures("brick", image_size=side, n_train=1, n_good=1, n_defect=1).train_images[0]


def cut_out(picture: Tensor, size: float) -> Tensor:
    """`picture` (C, H, W) with a black square of `size`, its area as a share of the picture's."""
    rows, columns = _square(picture, size)
    result = picture.clone()
    result[:, rows, columns] = 0
    return result


def cut_paste(picture: Tensor, size: float) -> Tensor:
    """`picture` (C, H, W) with its top left corner pasted over a square of `size`, likewise."""
    rows, columns = _square(picture, size)
    result = picture.clone()
    height, width = result[:, rows, columns].shape[1:]
    result[:, rows, columns] = picture[:, :height, :width]
    return result


def _square(picture: Tensor, size: float) -> tuple[slice, slice]:
    edge = math.sqrt(size) / 2
    rows, columns = (
        slice(round((0.5 - edge) * side), round((0.5 + edge) * side)) for side in picture.shape[1:]
    )
    return rows, columns
