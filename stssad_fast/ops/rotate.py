"""Rotation about the picture's centre."""

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

_rotate = differentiable(
    "rotate",
    ["image", "angle"],
    reference.rotate,
    reference.rotate_backward,
    fold_batch,
    constants=["mean", "std"],
)


def rotate(image: Tensor, angle: Tensor | float, *, normalize: Normalize | None = None) -> Tensor:
    """Rotate counter-clockwise about the centre; bilinear, zeros outside (ST-SSAD, 3.2.2).

    Coordinates are in pixels, so a picture that is not square is not sheared; pixel centres are
    those of ``grid_sample(align_corners=False)``. Differentiable for image and angle; bilinear
    interpolation has kinks where a source coordinate is a whole pixel. Pixels that are NaN are not
    looked for.

    Args:
        image: (B, C, H, W); float16 and bfloat16 are computed in float32.
        angle: degrees; a number or () for all pictures, or (B,), one per picture.
        normalize: ``(mean, std)``, as for :func:`stssad_fast.cutdiff`: applied to the rotated
            picture, so that what comes from outside is ``-mean / std``.

    Returns:
        (B, C, H, W), dtype and device of ``image``.

    Raises:
        TypeError: an argument is not a floating-point tensor (or a number, for the angle).
        ValueError: shapes or devices do not fit, the angle (on the CPU) is not finite, or std not
            positive.
    """
    check_floating(image, "image", "(B, C, H, W)")
    angle = hyperparameter(angle, image, (), "angle")
    return _rotate(image, angle, *normalization(normalize, image))
