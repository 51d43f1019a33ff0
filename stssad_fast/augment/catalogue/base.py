"""What the augmentations of the catalogue share."""

import importlib
import math
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from stssad_fast.augment.checked import Checked, check_pictures, is_number
from stssad_fast.errors import InputError


class PictureAugmentation(Checked):
    """Changes every picture of a batch in a way of its own.

    It has no parameters: what it draws comes from the generator alone, or from torch's default one
    if there is none. The generator has to be on the device of the pictures. Drawn are float32
    numbers whatever the dtype of the pictures, so that the same seed does the same to all dtypes.

    Attributes:
        classes: K of the augmentation predictor: into how many separable classes the augmentation
            falls. Class 0 leaves pictures as they are.
        needs_square: whether it refuses pictures whose height and width differ.

    Raises:
        InputError: on a call, the pictures are no floating-point tensor (B, C, H, W). That their
            values are in [0, 1] is not checked.
    """

    classes: ClassVar[int] = 2
    needs_square: ClassVar[bool] = False

    def __init__(self) -> None:  # make() asks it for the names of the settings
        super().__init__()

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Pictures (B, C, H, W) with values in [0, 1], changed; of the same shape, dtype and range.

        A picture that is not changed need not be copied.
        """
        raise NotImplementedError

    def of_class(
        self, image: Tensor, k: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """``aug_k``: all pictures (B, C, H, W) changed as class ``k`` is, 0 ≤ k < ``classes``.

        Of an augmentation with two classes the second is the augmentation itself.

        Raises:
            InputError: there is no such class, or the pictures cannot be used.
        """
        self._check(image, k)
        return self(image, generator=generator) if k else image

    def describe(self) -> dict[str, float]:
        """Settings by name; a setting that is left to chance is not among them."""
        return {}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value:g}" for name, value in self.describe().items())

    def _check(self, image: Tensor, k: int) -> None:
        check_pictures(image)
        if not 0 <= k < self.classes:
            raise InputError(f"class {k!r} of {type(self).__name__}, which has {self.classes}")


class Identity(PictureAugmentation):
    """Leaves pictures as they are."""

    classes = 1

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return image


class OnOff(PictureAugmentation):
    """One change without chance, which a picture undergoes or not; class 1 always does.

    The study trains with a probability of ½ and makes its anomalies with 1 (released code).

    Args:
        probability: of the change, in [0, 1], for every picture by itself.

    Raises:
        InputError: probability is out of its range.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.probability = within("probability", probability, 0, 1)

    def changed(self, image: Tensor) -> Tensor:
        """All pictures, changed."""
        raise NotImplementedError

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return sometimes(image, self.changed(image), self.probability, generator)

    def of_class(
        self, image: Tensor, k: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        self._check(image, k)
        return self.changed(image) if k else image

    def describe(self) -> dict[str, float]:
        return {"probability": self.probability}


def within(name: str, value: float, low: float, high: float, *, above: bool = False) -> float:
    """``value`` as a float if it lies in [low, high], or (low, high] with ``above``.

    Raises:
        InputError: it does not.
    """
    if not is_number(value) or not (low < value <= high or (value == low and not above)):
        bracket = "(" if above else "["
        raise InputError(f"{name} is {value!r}, expected a number in {bracket}{low:g}, {high:g}]")
    return float(value)


def square(image: Tensor, what: str) -> None:
    """Refuse pictures that a quarter turn would give another shape.

    Raises:
        InputError: height and width differ.
    """
    height, width = image.shape[2:]
    if height != width:
        raise InputError(
            f"{what} turns pictures by 90 degrees, which needs square ones; these are "
            f"{height} by {width}: crop or pad them, or choose another augmentation"
        )


def uniform(
    image: Tensor, low: float, high: float, generator: torch.Generator | None, *more: int
) -> Tensor:
    """Numbers (B,) or (*more, B), uniform in [low, high), one for each picture."""
    u = torch.rand(*more, image.shape[0], generator=generator, device=image.device)
    return low + (high - low) * u


def sometimes(
    image: Tensor, changed: Tensor, probability: float, generator: torch.Generator | None
) -> Tensor:
    """``changed`` with a probability, else ``image``; drawn for every picture."""
    chosen = uniform(image, 0, 1, generator) < probability
    return torch.where(chosen[:, None, None, None], changed, image)


def tried(
    image: Tensor,
    area: tuple[float, float],
    aspect: tuple[float, float],
    largest: tuple[int, int],
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rectangles as torchvision draws them: the first of ten that fits.

    Args:
        image: pictures (B, C, H, W).
        area: range of the share of the picture's area, which is uniform.
        aspect: range of height over width, whose logarithm is uniform.
        largest: height and width that a rectangle may have.

    Returns:
        Heights and widths (B,) in whole pixels, and whether one of the ten fitted (B,).
    """
    height, width = image.shape[2:]
    pixels = uniform(image, *area, generator, 10) * (height * width)
    ratio = uniform(image, math.log(aspect[0]), math.log(aspect[1]), generator, 10).exp()
    heights, widths = (pixels * ratio).sqrt().round(), (pixels / ratio).sqrt().round()
    fits = (heights >= 1) & (heights <= largest[0]) & (widths >= 1) & (widths <= largest[1])
    first = fits.int().argmax(0, keepdim=True)
    return heights.gather(0, first)[0], widths.gather(0, first)[0], fits.any(0)


def kornia() -> ModuleType:
    """The package kornia, which takes a second to import.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("kornia")
    except ImportError as error:
        raise InputError(
            "colours and blurs need kornia, which is missing: pip install stssad-fast[study]"
        ) from error
