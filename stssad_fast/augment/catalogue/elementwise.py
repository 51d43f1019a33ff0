"""Augmentations that change every value by itself or with its neighbours."""

import math

import torch
from torch import Tensor

from stssad_fast.augment.catalogue.base import PictureAugmentation, kornia, uniform, within


class Blur(PictureAugmentation):
    """A Gaussian blur (SimCLR's), of a width that is drawn for every picture.

    The standard deviation is uniform in (0.1, 2) pixels; the kernel is a tenth of the side, made
    odd, and at least 3 pixels, so that on small pictures it is much narrower than its Gaussian.
    Beyond its borders the picture is mirrored.

    Raises:
        InputError: kornia is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        kornia()

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        sigma = uniform(image, 0.1, 2, generator).to(image.dtype)
        sizes = tuple(_kernel(side) for side in image.shape[2:])
        blurred: Tensor = kornia().filters.gaussian_blur2d(
            image, sizes, sigma[:, None].expand(-1, 2), border_type="reflect"
        )
        return blurred.clamp(0, 1)


def _kernel(side: int) -> int:
    """Length of the kernel along an axis; one of a single pixel has nothing to blur."""
    return max(3, 2 * (side // 20) + 1) if side > 1 else 1


class Noise(PictureAugmentation):
    """Adds normal noise to every value; what leaves [0, 1] is clamped.

    Args:
        std: standard deviation of the noise, positive.

    Raises:
        InputError: std is out of its range.
    """

    def __init__(self, std: float = 0.1) -> None:
        super().__init__()
        self.std = within("std", std, 0, math.inf, above=True)

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        return (image + self.std * noise.to(image.dtype)).clamp(0, 1)

    def describe(self) -> dict[str, float]:
        return {"std": self.std}


class Mask(PictureAugmentation):
    """Blackens values at random, each channel of a pixel by itself, as the released code does.

    Args:
        probability: that a value becomes 0, in (0, 1]. 0.1 is what the released code has; the text
            of the study says 0.2.

    Raises:
        InputError: probability is out of its range.
    """

    def __init__(self, probability: float = 0.1) -> None:
        super().__init__()
        self.probability = within("probability", probability, 0, 1, above=True)

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(image.shape, generator=generator, device=image.device)
        return image.masked_fill(u < self.probability, 0)

    def describe(self) -> dict[str, float]:
        return {"probability": self.probability}
