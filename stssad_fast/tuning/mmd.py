"""Maximum mean discrepancy as a validation loss: the ablations MMD1 and MMD2 of the paper, 4."""

import torch
from torch import Tensor


def mmd_loss(train: Tensor, augmented: Tensor, test: Tensor, *, normalize: bool) -> Tensor:
    """Squared MMD between training and augmented embeddings together, and test embeddings.

    The kernel is the cubic polynomial ``k(x, y) = (x.y / D + 1)^3`` of the study that the paper
    grew from; the paper names none. Means go over all pairs, a row with itself included, so the
    result is at least 0, and 0 where the two sets are equal. Differentiable to any order.

    Args:
        train, augmented, test: embeddings (N_trn, D), (N_aug, D), (N_test, D), each N >= 1.
        normalize: total distance normalisation of all rows first (Eq. 2): MMD1; without: MMD2.

    Returns:
        a scalar.
    """
    rows = torch.cat([train, augmented, test])
    if normalize:
        centered = rows - rows.mean(0)
        norm = centered.norm()
        rows = centered * (len(rows) ** 0.5 / torch.where(norm > 0, norm, 1.0))
    return mmd(*rows.split([len(train) + len(augmented), len(test)]))


def mmd(first: Tensor, second: Tensor) -> Tensor:
    """Squared MMD between embeddings (N, D) and (M, D), with the kernel of :func:`mmd_loss`."""
    return _kernel(first, first) + _kernel(second, second) - 2 * _kernel(first, second)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1).pow(3).mean()
