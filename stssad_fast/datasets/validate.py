"""Arrays from outside become image tensors, or one clear sentence."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stssad_fast.datasets.images import MIN_SIDE
from stssad_fast.errors import InputError

_ROUNDING = 1e-5  # how far resizing in float16 or float32 may leave [0, 1]; clamped away
_WHITE = {"uint8": 255, "uint16": 65535}
_FLOATS = {"float16", "bfloat16", "float32", "float64"}


def as_images(
    x: NDArray[Any] | Tensor,
    *,
    name: str = "images",
    channels: int | None = None,
    min_side: int = MIN_SIDE,
    min_count: int = 1,
) -> Tensor:
    """Checks an array of pictures and makes it float32 (N, C, H, W) in [0, 1].

    Args:
        x: array or tensor of shape (N, H, W) (grey) or (N, C, H, W) with C of 1 or 3. uint8 is
            divided by 255, uint16 by 65535; floats must lie in [0, 1].
        name: what a message calls it.
        channels: the C that is expected, or None for either.
        min_side: fewest pixels along each side.
        min_count: fewest pictures.

    Returns:
        A contiguous tensor, detached, on the device of `x`; it may share the memory of `x`.

    Raises:
        InputError: with one sentence on the first thing found wrong.
    """
    if not isinstance(x, np.ndarray | Tensor):
        raise InputError(
            f"{name} is a {type(x).__name__}, expected a NumPy array or a tensor of shape "
            "(N, C, H, W). Stack the pictures first."
        )
    dtype = x.dtype.name if isinstance(x, np.ndarray) else str(x.dtype).removeprefix("torch.")
    if dtype not in _WHITE and dtype not in _FLOATS:
        raise InputError(
            f"{name} has dtype {dtype}, expected uint8, uint16, or floats in [0, 1]. Convert it."
        )
    shape = tuple(x.shape)
    if len(shape) not in (3, 4):
        raise InputError(
            f"{name} has shape {shape}, expected (N, H, W) or (N, C, H, W). "
            "Stack pictures along a new first axis."
        )
    if len(shape) == 3:
        shape = (shape[0], 1, *shape[1:])
    if shape[1] not in (1, 3):
        advice = (
            "Move the channels to the front: x.transpose(0, 3, 1, 2) in NumPy, "
            "x.permute(0, 3, 1, 2) in PyTorch."
            if shape[3] in (1, 3)
            else "Keep one channel or three."
        )
        raise InputError(
            f"{name} has shape {shape}, expected (N, C, H, W) with C of 1 or 3. {advice}"
        )
    if channels is not None and shape[1] != channels:
        raise InputError(
            f"{name} has {shape[1]} channel(s), expected {channels}. Convert between grey and RGB."
        )
    if shape[0] < min_count:
        raise InputError(
            f"{name} holds {shape[0]} picture(s), expected at least {min_count}. Give more."
        )
    if min(shape[2:]) < min_side:
        raise InputError(
            f"{name} has pictures of {shape[2]} x {shape[3]} pixels; both sides need at least "
            f"{min_side}. Use larger pictures."
        )
    if isinstance(x, np.ndarray):  # astype also takes strides and byte orders that torch refuses
        images = torch.from_numpy(np.ascontiguousarray(x.astype(np.float32, copy=False)))
    else:
        images = x.detach().to(torch.float32).contiguous()
    images = images.reshape(shape)
    if dtype in _WHITE:
        return images / _WHITE[dtype]
    return _checked_range(images, name)


def _checked_range(images: Tensor, name: str) -> Tensor:
    if images.numel() == 0:
        return images
    low, high = (float(bound) for bound in torch.aminmax(images))  # NaN, if there is one
    if not np.isfinite([low, high]).all():
        bad = int((~torch.isfinite(images)).flatten(1).any(1).sum())
        raise InputError(
            f"{name} holds NaN or infinite values in {bad} of {len(images)} pictures, expected "
            "numbers in [0, 1]. Remove or mend these pictures."
        )
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        advice = (
            "Divide by 255." if low >= 0 and 2 < high <= 255 else "Scale it; do not standardise."
        )
        raise InputError(f"{name} ranges from {low:g} to {high:g}, expected [0, 1]. {advice}")
    return images.clamp(0, 1) if low < 0 or high > 1 else images
