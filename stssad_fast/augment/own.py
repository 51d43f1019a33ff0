"""What an augmentation that a user has written must do."""

from numbers import Real
from typing import cast

import torch
from torch import Tensor

from stssad_fast.augment.modules import Augmentation
from stssad_fast.errors import InputError


@torch.random.fork_rng(devices=[])
def check_own(augmentation: Augmentation, images: Tensor, tunes: bool) -> None:
    """Raise what is wrong with it before anything is trained.

    Args:
        images: pictures (B, C, H, W) to try it on.
        tunes: whether its parameters need gradients.

    Raises:
        InputError: it lacks a method, does not keep the pictures' shape and dtype, or gives them
            no gradient.
    """
    name = f"augmentation is {type(augmentation).__name__}"
    generator = torch.Generator(images.device).manual_seed(0)
    try:
        described = cast(dict[str, object], augmentation.describe())
        found = augmentation(images, generator=generator)
    except (TypeError, NotImplementedError) as error:
        raise InputError(
            f"{name}, which lacks forward(image, *, generator=None) or describe(), or fails in "
            f"them: {error!r}"
        ) from error
    if not all(isinstance(value, Real) for value in described.values()):
        raise InputError(f"{name}, whose describe() gives {described}; expected plain numbers")
    if not isinstance(found, Tensor):
        raise InputError(f"{name}, which gives a {type(found).__name__}; expected a tensor")
    if found.shape != images.shape or found.dtype != images.dtype:
        raise InputError(
            f"{name}, which gives {tuple(found.shape)} of {found.dtype} for pictures "
            f"{tuple(images.shape)} of {images.dtype}; give one that keeps both"
        )
    if tunes and not found.requires_grad:
        raise InputError(
            f"{name}, whose pictures have no gradient for its parameters; make them from these by "
            "differentiable operations, or choose a strategy without tuning"
        )
