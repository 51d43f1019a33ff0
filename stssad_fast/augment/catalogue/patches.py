"""Augmentations that change a small part of the picture; its size too is drawn for each."""

import math

import torch
from torch import Tensor

from stssad_fast.augment.catalogue.base import (
    PictureAugmentation,
    kornia,
    tried,
    uniform,
    within,
)
from stssad_fast.augment.catalogue.colour import jittered
from stssad_fast.augment.local import corners, counted, inside, moved, picked
from stssad_fast.augment.modules import MAX_ASPECT
from stssad_fast.ops import cutdiff, patch_shape

JITTER = (0.1, 0.1, 0.1, 0.1)  # of a pasted patch: brightness, contrast, saturation, hue


class RandomCutOut(PictureAugmentation):
    """Blackens a rectangle at a random place (torchvision's RandomErasing with p = 1).

    The share of the area is uniform in (0.02, 0.33), the logarithm of height over width uniform
    between those of 0.3 and 3.3. A picture stays as it is if ten draws are all as high or as wide
    as itself, or more.

    Args:
        size: CutOut-c of the study: the sides of the rectangle as a share, in (0, 1], of those of
            the picture, rounded to whole pixels (the text's; the released code takes c for a share
            of the area). It is the same in all pictures, by default drawn.

    Raises:
        InputError: size is out of its range.
    """

    def __init__(self, size: float | None = None) -> None:
        super().__init__()
        self.size = None if size is None else within("size", size, 0, 1, above=True)

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        height, width = image.shape[2:]
        if self.size is None:
            smaller = (height - 1, width - 1)
            tall, wide, found = tried(image, (0.02, 0.33), (0.3, 3.3), smaller, generator)
            tall = tall * found
        else:
            sides = [max(1, round(self.size * side)) for side in (height, width)]
            tall, wide = torch.tensor(sides, device=image.device).float()[:, None]
        (corner,) = corners(image, (tall, wide), 1, generator)
        return image.masked_fill(inside(image, corner, (tall, wide)), 0)

    def describe(self) -> dict[str, float]:
        return {} if self.size is None else {"size": self.size}


class RandomCutPaste(PictureAugmentation):
    """Copies a rectangle to another place, with its colours changed a little (Li et al. 2021).

    The share of the area is uniform in (0.02, 0.15), width over height uniform in (0.3, 1) or in
    (1, 3.3), each with probability ½; lengths are rounded down to whole pixels, at least one. Both
    places are uniform. The colours change as in :func:`jittered`, with strengths of 0.1.

    Raises:
        InputError: kornia is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        kornia()

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        height, width = image.shape[2:]
        pixels = uniform(image, 0.02, 0.15, generator) * (height * width)
        narrow, broad = uniform(image, 0.3, 1, generator), uniform(image, 1, 3.3, generator)
        aspect = narrow.where(uniform(image, 0, 1, generator) < 0.5, broad)
        lengths = (
            (pixels / aspect).sqrt().floor().clamp(1, height),
            (pixels * aspect).sqrt().floor().clamp(1, width),
        )
        target, source = corners(image, lengths, 2, generator)
        coloured = jittered(image, JITTER, generator, inside(image, source, lengths))
        pasted = moved(coloured, source - target)
        return torch.where(inside(image, target, lengths), pasted, image)


class Scar(PictureAugmentation):
    """CutPaste-scar: copies a thin rectangle, turned and with its colours changed a little.

    On pictures of 32 by 32 pixels, the published scale, heights are uniform among 10 to 24 pixels
    and widths among 2 to 15; on others the ranges grow with the sides, and lengths are rounded
    down, at least one pixel. The copy is turned by an angle uniform in (−45, 45) degrees about its
    centre, with the nearest value for each pixel, and lies within the picture, at a place that is
    uniform. The colours change as in :func:`jittered`, with strengths of 0.1.

    Raises:
        InputError: kornia is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        kornia()

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        height, width = image.shape[2:]
        tall = (uniform(image, 10, 25, generator) * (height / 32)).floor().clamp(1, height)
        wide = (uniform(image, 2, 16, generator) * (width / 32)).floor().clamp(1, width)
        angle = uniform(image, -math.pi / 4, math.pi / 4, generator)
        cos, sin = angle.cos(), angle.sin()
        # The smallest box around the turned copy.
        box = (
            (tall * cos + wide * sin.abs()).ceil().clamp(1, height),
            (tall * sin.abs() + wide * cos).ceil().clamp(1, width),
        )
        (source,) = corners(image, (tall, wide), 1, generator)
        (target,) = corners(image, box, 1, generator)
        coloured = jittered(image, JITTER, generator, inside(image, source, (tall, wide)))
        # Of every pixel of the picture, where it lies in the patch before it was turned.
        down = counted(image, height) + 0.5 - (target[:, :1] + box[0][:, None] / 2)  # (B, H)
        across = counted(image, width) + 0.5 - (target[:, 1:] + box[1][:, None] / 2)  # (B, W)
        down, across = down[:, :, None], across[:, None, :]
        sin, cos, tall, wide = (value[:, None, None] for value in (sin, cos, tall, wide))
        row = (cos * down + sin * across + tall / 2).floor()  # (B, H, W)
        column = (cos * across - sin * down + wide / 2).floor()
        within_it = (row >= 0) & (row < tall) & (column >= 0) & (column < wide)
        begin = source.long()[:, :, None, None]
        pasted = picked(coloured, begin[:, 0] + row.long(), begin[:, 1] + column.long())
        return torch.where(within_it[:, None], pasted, image)


class SoftPatch(PictureAugmentation):
    """Subtracts a soft elliptical patch of one shape at a random place (CutDiff of ST-SSAD).

    Args:
        size, aspect, angle: as in :class:`stssad_fast.CutDiff`.

    Raises:
        InputError: one of them is out of its range.
    """

    def __init__(self, size: float = 0.01, aspect: float = 1.0, angle: float = 0.0) -> None:
        super().__init__()
        self.size = within("size", size, 0, 1, above=True)
        self.aspect = within("aspect", aspect, 0, MAX_ASPECT, above=True)
        self.angle = within("angle", angle, -360, 360)

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return cutdiff(image, patch_shape(self.size, self.aspect, self.angle), generator=generator)

    def describe(self) -> dict[str, float]:
        return {"size": self.size, "aspect": self.aspect, "angle": self.angle}
