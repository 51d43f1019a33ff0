"""How far the test set lies from the training set as a validation loss; ours, not the paper's."""

import torch
from torch import Tensor


def shift_loss(train: Tensor, test: Tensor) -> Tensor:
    """Minus the logarithm of how many times farther than the training rows the test rows lie.

    With ``m`` the mean of the training embeddings::

        L = mean_i log |z_i - m|^2 - mean_j log |z_j - m|^2      i training, j test rows

    It is :func:`stssad_fast.tuning.selection.score_shift` of a batch, negated, with means for
    medians and a sphere for the Gaussian, so that it has a gradient. Augmented embeddings do not
    occur in it: the augmentation is judged by what a detector that was trained with it sees. The
    hypergradient comes through that detector (second order, Eq. 5) and through the joint statistics
    of batch norm, which augmented pictures share. Differentiable to any order; neither scale, nor
    shift, nor repeating the rows of a set changes it. A distance of 0 counts as the smallest normal
    number, with gradient 0.

    Args:
        train, test: embeddings (N_trn, D), (N_test, D), each N >= 1.

    Returns:
        a scalar; negative where the test rows lie farther out.
    """
    centre = train.mean(0)
    near, far = (_log_square(rows - centre).mean() for rows in (train, test))
    return near - far


def _log_square(rows: Tensor) -> Tensor:
    square: Tensor = rows.square().sum(1)
    return square.clamp_min(torch.finfo(square.dtype).tiny).log()
