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


def gallery(picture: Tensor, center: tuple[float, float] = (0.5, 0.5)) -> Gallery:
    """Every augmentation at every size, with the patch at the same place.

    Args:
        picture: (C, H, W) in [0, 1].
        center: Row and column of the patch's centre, as fractions of the picture.

    Raises:
        InputError: `picture` is no (C, H, W) of floating-point numbers, or `center` not in it.
    """
    if picture.ndim != 3 or not picture.is_floating_point():
        raise InputError(
            f"picture is {picture.dtype} of shape {tuple(picture.shape)}; expected floating-point "
            "numbers of shape (C, H, W). Give a single picture in [0, 1]"
        )
    if not all(0 <= place <= 1 for place in center):
        raise InputError(f"center is {center}; expected a row and a column between 0 and 1.")
    rows = {
        "CutPaste": [cut_paste(picture, size, center) for size in SIZES],
        "CutOut": [cut_out(picture, size, center) for size in SIZES],
    }
    for aspect, angle in CUTDIFF_SHAPES:
        rows[f"CutDiff\naspect {aspect:g}, {angle:g}°"] = [
            cutdiff(picture[None], patch_shape(size, aspect, angle), picture.new_tensor(center))[0]
            for size in SIZES
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


def cut_out(picture: Tensor, size: float, center: tuple[float, float]) -> Tensor:
    """`picture` (C, H, W) with a black square of `size`, its area as a share of the picture's."""
    rows, columns = _square(picture, size, center)
    result = picture.clone()
    result[:, rows, columns] = 0
    return result


def cut_paste(picture: Tensor, size: float, center: tuple[float, float]) -> Tensor:
    """`picture` (C, H, W) with its top left corner pasted over a square of `size`, likewise."""
    rows, columns = _square(picture, size, center)
    result = picture.clone()
    height, width = result[:, rows, columns].shape[1:]
    result[:, rows, columns] = picture[:, :height, :width]
    return result


def _square(picture: Tensor, size: float, center: tuple[float, float]) -> tuple[slice, slice]:
    rows, columns = (
        slice(max(round((place - edge) * side), 0), round((place + edge) * side))
        for place, side in zip(center, picture.shape[1:], strict=True)
        for edge in [math.sqrt(size) / 2]
    )
    return rows, columns
