"""Augmentations that change colours and leave the pixels where they are."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stssad_fast.augment.catalogue.base import OnOff, PictureAugmentation, kornia, uniform, within


class Invert(OnOff):
    """The negative: every value ``x`` becomes ``1 − x``."""

    def changed(self, image: Tensor) -> Tensor:
        return 1 - image


class Color(PictureAugmentation):
    """Changes brightness, contrast, saturation and hue, as SimCLR does (see :func:`jittered`).

    Args:
        strength: ``s`` of SimCLR, in (0, 2.5]: 0.8 s for the first three, 0.2 s for the hue.

    Raises:
        InputError: strength is out of its range, or kornia is not installed.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = within("strength", strength, 0, 2.5, above=True)
        kornia()

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return jittered(image, simclr_strengths(self.strength), generator)

    def describe(self) -> dict[str, float]:
        return {"strength": self.strength}


def simclr_strengths(s: float) -> tuple[float, float, float, float]:
    """Those of brightness, contrast, saturation and hue."""
    return 0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s


def jittered(
    image: Tensor,
    strengths: Sequence[float],
    generator: torch.Generator | None,
    region: Tensor | None = None,
) -> Tensor:
    """Pictures after torchvision's ColorJitter, whose order too is drawn for every picture.

    Brightness, contrast and saturation are multiplied by numbers uniform in
    [max(0, 1 − strength), 1 + strength], the hue is turned by up to ± its strength in whole turns,
    and values are clamped after each of the four. Contrast is about the mean grey of the picture,
    or of a region (B, 1, H, W) of it. Only pictures of three channels (RGB) have saturation and
    hue; the grey of others is the mean of their channels.
    """
    *scales, turn = strengths
    factors = [uniform(image, max(0, 1 - s), 1 + s, generator) for s in scales]
    factors.append(uniform(image, -turn, turn, generator))
    order = torch.rand(len(image), 4, generator=generator, device=image.device).argsort(1)
    changes: list[Callable[[Tensor, Tensor, Tensor | None], Tensor]]
    changes = [_brightness, _contrast, _saturation, _hue]
    if image.shape[1] != 3:
        changes = changes[:2]
    for place in order.unbind(1):
        for which, change in enumerate(changes):
            if not strengths[which]:
                continue  # a hue that is turned by 0 is the same up to rounding only
            rows = (place == which).nonzero()[:, 0]
            factor = factors[which][rows, None, None, None].to(image.dtype)
            where = None if region is None else region[rows]
            image = image.index_copy(0, rows, change(image[rows], factor, where).clamp(0, 1))
    return image


def grey(image: Tensor) -> Tensor:
    """(B, 1, H, W): the luma of RGB pictures, else the mean of the channels."""
    if image.shape[1] != 3:
        return image.mean(1, keepdim=True)
    luma: Tensor = kornia().color.rgb_to_grayscale(image)
    return luma


def _brightness(image: Tensor, factor: Tensor, region: Tensor | None) -> Tensor:
    return image * factor


def _contrast(image: Tensor, factor: Tensor, region: Tensor | None) -> Tensor:
    weights = torch.ones_like(image[:, :1]) if region is None else region.to(image.dtype)
    sums = (grey(image) * weights).sum((2, 3), keepdim=True)
    return image * factor + sums / weights.sum((2, 3), keepdim=True) * (1 - factor)


def _saturation(image: Tensor, factor: Tensor, region: Tensor | None) -> Tensor:
    return image * factor + grey(image) * (1 - factor)


def _hue(image: Tensor, factor: Tensor, region: Tensor | None) -> Tensor:
    turned: Tensor = kornia().enhance.adjust_hue(image, 2 * math.pi * factor)
    return turned
