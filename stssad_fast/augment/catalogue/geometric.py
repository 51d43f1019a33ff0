"""Augmentations that move pixels."""

import torch
from torch import Tensor

from stssad_fast.augment.catalogue.base import (
    OnOff,
    PictureAugmentation,
    sometimes,
    square,
    tried,
    uniform,
    within,
)
from stssad_fast.augment.local import corners, counted, inside, moved


class Crop(PictureAugmentation):
    """A part of the picture, enlarged to its size (torchvision's RandomResizedCrop).

    The share of the area is uniform, the logarithm of the aspect is uniform between those of 3/4
    and 4/3, and the place is uniform. If none of ten draws fits, it is the largest part in the
    middle with such an aspect. Values between pixels are bilinear.

    Args:
        min_area: least share of the area, in (0, 1]; the largest is 1.

    Raises:
        InputError: min_area is out of its range.
    """

    def __init__(self, min_area: float = 0.08) -> None:
        super().__init__()
        self.min_area = within("min_area", min_area, 0, 1, above=True)

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        height, width = image.shape[2:]
        area, aspect = (self.min_area, 1), (3 / 4, 4 / 3)
        tall, wide, found = tried(image, area, aspect, (height, width), generator)
        tall = tall.where(found, min(height, round(width * aspect[1])))
        wide = wide.where(found, min(width, round(height * aspect[1])))
        (corner,) = corners(image, (tall, wide), 1, generator)
        middle = (torch.stack([height - tall, width - wide], 1) / 2).floor()
        corner = corner.where(found[:, None], middle)
        rows = _between(image, 2, corner[:, 0], tall)
        columns = _between(image, 3, corner[:, 1], wide)
        return (rows @ image @ columns.mT).clamp(0, 1)

    def describe(self) -> dict[str, float]:
        return {"min_area": self.min_area}


class Flip(OnOff):
    """Turns pictures upside down."""

    def changed(self, image: Tensor) -> Tensor:
        return image.flip(2)


class Rotate(PictureAugmentation):
    """Turns pictures by 0, 90, 180 or 270 degrees; class ``k`` by ``90 k``, counter-clockwise.

    Raises:
        InputError: the pictures are not square.
    """

    classes = 4
    needs_square = True

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        square(image, "Rotate")
        return turned(image, uniform(image, 0, 4, generator).long())

    def of_class(
        self, image: Tensor, k: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        self._check(image, k)
        square(image, "Rotate")
        return torch.rot90(image, k, (2, 3))


class Geom(PictureAugmentation):
    """GEOM (Golan and El-Yaniv 2018): flips, shifts and turns.

    A horizontal flip (or none), then a shift by 0 or ±¼ of the side along each axis, which brings
    in black, then a rotation by 0, 90, 180 or 270 degrees, as the released code does: 72 classes,
    of which a picture gets any with the same probability. Class ``k`` is
    ``(9 · flip + 3 · down + across) · 4 + quarters``, where ``down`` and ``across`` are 0 for no
    shift, 1 for one down or to the right, and 2 for one up or to the left.

    Raises:
        InputError: the pictures are not square.
    """

    classes = 72
    needs_square = True

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        square(image, "GEOM")
        image = sometimes(image, image.flip(3), 0.5, generator)
        steps = uniform(image, 0, 3, generator, 2).long().T
        quarters = uniform(image, 0, 4, generator).long()
        return turned(_shifted(image, steps), quarters)

    def of_class(
        self, image: Tensor, k: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        self._check(image, k)
        square(image, "GEOM")
        flip, down, across, quarters = k // 36, k // 12 % 3, k // 4 % 3, k % 4
        steps = torch.tensor([[down, across]], device=image.device).expand(len(image), 2)
        return torch.rot90(_shifted(image.flip(3) if flip else image, steps), quarters, (2, 3))


def _between(image: Tensor, axis: int, begin: Tensor, length: Tensor) -> Tensor:
    """(B, 1, side, side): the weights with which an axis is resampled from a part of it.

    Row ``t`` has the weights of pixel ``t`` of the enlarged part: those of linear interpolation,
    within the part, where a picture's corners stay at its corners.
    """
    dtype = torch.promote_types(image.dtype, torch.float32)
    side = image.shape[axis]
    at = counted(image, side).to(dtype)
    begin, length = begin[:, None].to(dtype), length[:, None].to(dtype)
    source = begin + ((at + 0.5) * length / side - 0.5).clamp(min=0).minimum(
        length - 1
    )  # (B, side)
    weights = (1 - (source[:, :, None] - at).abs()).clamp(min=0)
    return weights[:, None].to(image.dtype)


def turned(image: Tensor, quarters: Tensor) -> Tensor:
    """Square pictures, each turned by its number (B,) of quarters of a turn, in {0, 1, 2, 3}."""
    ways = torch.stack([torch.rot90(image, k, (2, 3)) for k in range(4)])
    return ways[quarters, torch.arange(len(image), device=image.device)]


def _shifted(image: Tensor, steps: Tensor) -> Tensor:
    """Pictures moved by a quarter of the side along each axis, by steps (B, 2) in {0, 1, 2}."""
    side = image.shape[3]
    by = round(side / 4)
    offset = torch.tensor([0, by, -by], device=image.device)[steps]
    full = torch.full((1,), side, device=image.device)
    return moved(image, -offset).masked_fill(~inside(image, offset, (full, full)), 0)
