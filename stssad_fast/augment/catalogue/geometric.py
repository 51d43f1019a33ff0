"""Augmentations that move pixels."""

import torch
from torch import Tensor

from stssad_fast.augment.catalogue.base import (
    OnOff,
    PictureAugmentation,
    sometimes,
    square,
    uniform,
)


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

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        square(image, "Rotate")
        return turned(image, uniform(image, 0, 4, generator).long())

    def of_class(
        self, image: Tensor, k: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        self._check_class(k)
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

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        square(image, "GEOM")
        image = sometimes(image, image.flip(3), 0.5, generator)
        steps = uniform(image, 0, 3, generator, 2).long()
        quarters = uniform(image, 0, 4, generator).long()
        return turned(_shifted(image, steps), quarters)

    def of_class(
        self, image: Tensor, k: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        self._check_class(k)
        square(image, "GEOM")
        flip, down, across, quarters = k // 36, k // 12 % 3, k // 4 % 3, k % 4
        steps = torch.tensor([[down], [across]], device=image.device).expand(2, len(image))
        return torch.rot90(_shifted(image.flip(3) if flip else image, steps), quarters, (2, 3))


def turned(image: Tensor, quarters: Tensor) -> Tensor:
    """Square pictures, each turned by its number (B,) of quarters of a turn, in {0, 1, 2, 3}."""
    ways = torch.stack([torch.rot90(image, k, (2, 3)) for k in range(4)])
    return ways[quarters, torch.arange(len(image), device=image.device)]


def _shifted(image: Tensor, steps: Tensor) -> Tensor:
    """Pictures moved by a quarter of the side along each axis, by steps (2, B) in {0, 1, 2}."""
    side = image.shape[3]
    by = round(side / 4)
    offset = torch.tensor([0, by, -by], device=image.device)[steps]
    at = torch.arange(side, device=image.device) - offset[..., None]  # (2, B, side)
    hidden = (at < 0) | (at >= side)
    rows, columns = at.clamp(0, side - 1).unbind()
    image = image.gather(2, rows[:, None, :, None].expand_as(image))
    image = image.gather(3, columns[:, None, None, :].expand_as(image))
    return image.masked_fill(hidden[0, :, None, :, None] | hidden[1, :, None, None, :], 0)
