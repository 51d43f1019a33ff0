"""The validation loss: mean distance after total-distance normalisation."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stssad_fast.ops import reference
from stssad_fast.ops._operators import (
    arithmetic_dtype,
    check_finite,
    check_floating,
    differentiable,
    holds,
)


def _batched(
    size: int, dims: Sequence[int | None], *sets: Tensor, apply: Callable[..., Tensor]
) -> Tensor:
    mapped: Tensor = torch.func.vmap(reference.mean_distance_loss, tuple(dims))(*sets)
    return mapped


def _memo(train: Tensor, augmented: Tensor, test: Tensor) -> Tensor:
    # Each mean in two parts, the two sums of unit vectors, and four numbers: `Memo` in
    # csrc/cpu/mean_distance_loss.cpp.
    return train.new_zeros(8 * train.shape[1] + 4)


_mean_distance_loss = differentiable(
    "mean_distance_loss",
    ["train", "augmented", "test"],
    reference.mean_distance_loss,
    reference.mean_distance_loss_backward,
    _batched,
    _memo,
)


def mean_distance_loss(train: Tensor, augmented: Tensor, test: Tensor) -> Tensor:
    """How far test embeddings lie from the means of training and augmented ones (Eq. 2-3).

    ``sqrt(N) / |Zc|_F * mean_i(|z_i - mean(train)| + |z_i - mean(augmented)|) / 2`` over the rows
    ``z_i`` of ``test``; ``Zc`` holds all N rows about their common mean. It does not change when
    all embeddings are scaled or shifted, nor when every row of all sets is repeated; repeating
    those of one set changes the common factor alone. It is 1 when the test set is the union of a
    training and an augmented point (Lemma 1). If all rows are equal, loss and gradient are 0.
    Differentiable to any order.

    Args:
        train, augmented, test: embeddings (N_trn, D), (N_aug, D), (N_test, D), each N >= 1.

    Returns:
        a scalar, float64 for float64 embeddings, else float32.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: a set is empty, dimensions or devices differ, or (on the CPU) not finite.
    """
    sets = {"train": train, "augmented": augmented, "test": test}
    for name, rows in sets.items():
        check_floating(rows, name, "(N, D)")
    dimensions, device = train.shape[1], train.device
    for name, rows in sets.items():
        count, columns = rows.shape
        if count == 0:
            raise ValueError(f"{name} has no rows; expected at least one embedding")
        if columns != dimensions:
            raise ValueError(
                f"{name} has {columns} dimensions, train {dimensions}; expected the same"
            )
        if rows.device != device:
            raise ValueError(f"{name} is on {rows.device}, train on {device}; move one")
    dtype = arithmetic_dtype(
        torch.promote_types(torch.promote_types(train.dtype, augmented.dtype), test.dtype)
    )
    loss = _mean_distance_loss(train.to(dtype), augmented.to(dtype), test.to(dtype))
    # Finite embeddings have a finite loss, which is quicker to look at than all of them. Under vmap
    # there are several.
    if holds(loss, lambda n: not math.isfinite(n.sum().item() if n.dim() else n.item())):
        for name, rows in sets.items():
            check_finite(rows, name)
        raise ValueError(
            f"the differences between embeddings overflow {dtype}; expected smaller numbers"
        )
    return loss
