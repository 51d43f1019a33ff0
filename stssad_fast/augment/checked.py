"""What augmentations of pictures refuse."""

from numbers import Real
from typing import Any

from torch import Tensor, nn

from stssad_fast.errors import InputError


class Checked(nn.Module):
    """A module that is called with pictures, and looks whether they are.

    Their range is not looked at: to go through all values takes up to a quarter of the time of a
    simple augmentation.
    """

    def __call__(self, image: Tensor, *args: Any, **kwargs: Any) -> Any:
        check_pictures(image)
        return super().__call__(image, *args, **kwargs)


def check_pictures(image: Any) -> None:
    """Refuse what is no floating-point tensor (B, C, H, W).

    Raises:
        InputError: it is none.
    """
    if isinstance(image, Tensor) and image.is_floating_point() and image.dim() == 4:
        return
    found = type(image).__name__
    if isinstance(image, Tensor):
        found = f"{tuple(image.shape)} of {image.dtype}"
    raise InputError(
        f"image is {found}, expected a floating-point tensor (B, C, H, W) with values in [0, 1]. "
        "Divide 8-bit pictures by 255, and give a single one as image[None]"
    )


def is_number(value: object) -> bool:
    """Whether a setting can be compared with the ends of its range."""
    return isinstance(value, Real)
