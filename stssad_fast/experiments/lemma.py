"""Lemma 2 in numbers (Appendix A.2, Fig. 7): the validation loss of four points on a line."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stssad_fast.errors import InputError
from stssad_fast.ops import mean_distance_loss


@dataclass(frozen=True)
class LossGrid:
    """The validation loss for Z_trn = {0}, Z_aug = {2} and Z_test = {u1, 2 + u2}.

    Attributes:
        u: (N,), values of u1 and of u2, ascending from -1 to 1 with 0 in the middle.
        loss: (N, N), L_val at (u1, u2) = (u[i], u[j]).
        descent: (N, N, 2), the negative gradient of L_val with respect to (u1, u2).
    """

    u: Tensor
    loss: Tensor
    descent: Tensor

    @property
    def minimum(self) -> tuple[float, float, float]:
        """u1, u2 and L_val where L_val is smallest; (0, 0, 1) by Lemma 2."""
        i, j = divmod(int(self.loss.argmin()), len(self.u))
        return self.u[i].item(), self.u[j].item(), self.loss[i, j].item()

    @property
    def inward(self) -> float:
        """Share of the points beside (0, 0) where the descent leads towards it.

        All but (1, -1), where both test points lie halfway and the gradient is 0.
        """
        u1, u2 = torch.meshgrid(self.u, self.u, indexing="ij")
        towards = -(u1 * self.descent[..., 0] + u2 * self.descent[..., 1])
        return (towards > 0).sum().item() / (towards.numel() - 1)


def loss_grid(points: int = 41) -> LossGrid:
    """L_val and its negative gradient, by autograd, on a grid of `points` x `points`.

    Raises:
        InputError: `points` is even, so that (0, 0) would not be on the grid, or below 3.
    """
    if points < 3 or points % 2 == 0:
        raise InputError(f"points is {points}, expected an odd number from 3: 0 is in the middle.")
    half = points // 2
    u = torch.arange(-half, half + 1, dtype=torch.float64) / half
    train, augmented = u.new_tensor([[0.0]]), u.new_tensor([[2.0]])
    loss = u.new_empty(points, points)
    descent = u.new_empty(points, points, 2)
    for i in range(points):
        for j in range(points):
            shift = torch.stack([u[i], u[j]]).requires_grad_()
            test = torch.stack([shift[0], 2 + shift[1]])[:, None]
            value = mean_distance_loss(train, augmented, test)
            (gradient,) = torch.autograd.grad(value, shift)
            loss[i, j], descent[i, j] = value.detach(), -gradient
    return LossGrid(u, loss, descent)
