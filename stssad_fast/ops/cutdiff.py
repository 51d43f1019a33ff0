"""CutDiff: a soft elliptical patch subtracted from a picture."""

from typing import Any

import torch
from torch import Tensor

from stssad_fast.ops import reference
from stssad_fast.ops._operators import (
    Normalize,
    check_floating,
    differentiable,
    fold_batch,
    hyperparameter,
    normalization,
)

_cutdiff = differentiable(
    "cutdiff",
    ["image", "shape", "center"],
    reference.cutdiff,
    reference.cutdiff_backward,
    fold_batch,
    constants=["mean", "std"],
)


def cutdiff(
    image: Tensor,
    shape: Tensor,
    center: Tensor | None = None,
    *,
    normalize: Normalize | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Subtract a soft elliptical patch: ``clamp(image - p, 0, 1)`` (ST-SSAD, Alg. 2).

    ``p = exp(-|L^-1 (g - center)|^2)`` at pixel (i, j), 1-based, whose position is
    ``g = (i/H, j/W)``; the same for every channel. Differentiable to any order for image, shape
    and center. Where ``image - p`` is not strictly between 0 and 1 the gradient is 0.

    The clamp is to [0, 1] whatever range the pictures have: divide 8-bit ones by 255 before. Pixels
    that are NaN are not looked for.

    Args:
        image: (B, C, H, W), values in [0, 1]; float16 and bfloat16 are computed in float32.
        shape: (3,) for all pictures or (B, 3), one per picture: the entries ``l11, l21, l22`` of
            the lower triangle of ``L``, in units of the picture's height and width;
            :func:`stssad_fast.patch_shape` makes them from size, aspect and angle. Where ``L`` is
            singular there is no patch, and its gradient is 0.
        center: (2,) or (B, 2): row and column of the patch's centre as fractions of the picture.
            Default: one per picture, uniform on [0, 1]^2.
        normalize: ``(mean, std)``, each a number or one per channel: return
            ``(clamp(...) - mean) / std``, in the same pass over the picture. Constants to every
            derivative. A list of numbers is sent to the device of ``image`` at each call, tensors
            are not.
        generator: draws the default centres; on the device of ``image``.

    Returns:
        (B, C, H, W), dtype and device of ``image``.

    Raises:
        TypeError: an argument is not a floating-point tensor, or generator no torch.Generator.
        ValueError: shapes or devices do not fit, shape or center (on the CPU) is not finite, or
            std not positive.
    """
    check_floating(image, "image", "(B, C, H, W)")
    shape = hyperparameter(shape, image, (3,), "shape")
    if center is None:
        if not isinstance(generator, torch.Generator | None):
            raise TypeError(f"generator is {generator!r}; expected a torch.Generator or None")
        # With `generator=None` torch.compile refuses a batch size that changes.
        given: dict[str, Any] = {} if generator is None else {"generator": generator}
        center = torch.rand(image.shape[0], 2, device=image.device, dtype=shape.dtype, **given)
    center = hyperparameter(center, image, (2,), "center")
    return _cutdiff(image, shape, center, *normalization(normalize, image))
