"""Patches with a hard edge, which no gradient can tune: for the random baselines (paper, 4)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stssad_fast.augment.checked import Checked, is_number
from stssad_fast.augment.modules import Augmentation
from stssad_fast.errors import InputError


class Patch(Checked, Augmentation):
    """A rectangle of one size for all pictures, at a place of its own in each.

    In units of the picture's height and width, as CutDiff's, it is ``sqrt(size / aspect)`` high and
    ``sqrt(size * aspect)`` wide, each rounded to whole pixels, at least one and at most the
    picture's: ``size`` is its area. The 1/e contour of CutDiff's patch is an ellipse of the same
    proportions, whose area is ``pi * size``. Places are uniform among those within the picture.

    Values do not depend smoothly on size and aspect, so these are parameters that ask for no
    gradient: strategies that tune refuse them, random ones draw them.

    Pictures are floating-point tensors (B, C, H, W) with values in [0, 1]; all but the range is
    checked.

    Args:
        size: share of the picture's area, in (0, 1].
        aspect: width over height, in units of the picture, positive.

    Raises:
        InputError: size or aspect is out of its range; on a call, the pictures are not of this
            kind.
    """

    def __init__(self, size: float = 0.01, aspect: float = 1.0) -> None:
        super().__init__()
        if not (is_number(size) and 0 < size <= 1):
            raise InputError(f"size is {size!r}, expected a share of the picture's area in (0, 1]")
        if not (is_number(aspect) and 0 < aspect < math.inf):
            raise InputError(f"aspect is {aspect!r}, expected width over height, a positive number")
        self.shape = nn.Parameter(torch.tensor([size, aspect]), requires_grad=False)

    def describe(self) -> dict[str, float]:
        size, aspect = self.shape.tolist()
        return {"size": size, "aspect": aspect}

    def draw_(self, generator: torch.Generator) -> None:
        u = torch.rand(2, generator=generator, device=generator.device)
        self.shape.data.copy_(torch.stack([10 ** (-4 + 3 * u[0]), 4 ** (2 * u[1] - 1)]))

    @classmethod
    def starts(cls) -> Sequence[dict[str, float]]:
        return [{"size": size} for size in (1e-4, 1e-3, 1e-2, 1e-1)]

    def _lengths(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Height and width of the rectangle in pixels, (1,) each."""
        size, aspect = self.shape[:1], self.shape[1:]
        height, width = image.shape[2:]
        return (
            ((size / aspect).sqrt() * height).round().clamp(1, height),
            ((size * aspect).sqrt() * width).round().clamp(1, width),
        )


class CutOut(Patch):
    """Blackens a rectangle at a random place (DeVries and Taylor 2017; see :class:`Patch`)."""

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        lengths = self._lengths(image)
        (corner,) = corners(image, lengths, 1, generator)
        return image.masked_fill(inside(image, corner, lengths), 0)


class CutPaste(Patch):
    """Copies a rectangle from one random place to another (Li et al. 2021; see :class:`Patch`).

    Neither place depends on the other, and the colours stay as they are.
    """

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        lengths = self._lengths(image)
        corner, source = corners(image, lengths, 2, generator)
        return torch.where(inside(image, corner, lengths), moved(image, source - corner), image)


def counted(image: Tensor, count: int) -> Tensor:
    """0, 1, ..., ``count`` − 1 on the device of the pictures."""
    return torch.arange(count, device=image.device)


def corners(
    image: Tensor, lengths: tuple[Tensor, Tensor], count: int, generator: torch.Generator | None
) -> Tensor:
    """First rows and columns (count, B, 2) of rectangles that lie within the picture.

    ``lengths`` are the heights and the widths in pixels, (B,) each, or (1,) for all pictures.
    """
    u = torch.rand(count, image.shape[0], 2, generator=generator, device=image.device)
    both = zip(image.shape[2:], lengths, strict=True)
    last = torch.stack([side - length for side, length in both], 1)
    return torch.minimum((u * (last + 1)).floor(), last)  # u * (last + 1) may round up


def inside(image: Tensor, corner: Tensor, lengths: tuple[Tensor, Tensor]) -> Tensor:
    """(B, 1, H, W): which pixels lie in the rectangle with first row and column (B, 2)."""
    along = []
    for axis, length in enumerate(lengths):
        begin = corner[:, axis, None]
        at = counted(image, image.shape[2 + axis])
        along.append((at >= begin) & (at < begin + length[:, None]))
    return along[0][:, None, :, None] & along[1][:, None, None, :]


def moved(image: Tensor, by: Tensor) -> Tensor:
    """Pictures whose pixels come from ``by`` (B, 2) rows below and columns to the right.

    Where that leaves the picture, its nearest pixel is taken.
    """
    rows, columns = (counted(image, side) for side in image.shape[2:])
    by = by.long()
    return picked(image, (rows + by[:, :1])[:, :, None], (columns + by[:, 1:])[:, None, :])


def picked(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pictures whose pixels are those at rows and columns that broadcast to (B, H, W).

    Rows and columns outside of the picture mean its nearest one.
    """
    height, width = image.shape[2:]
    at = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    values = image.flatten(2).gather(2, at.flatten(1)[:, None].expand(-1, image.shape[1], -1))
    return values.unflatten(2, at.shape[1:])
