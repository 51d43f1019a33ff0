"""Fig. 7: the validation loss of four points, against the formula of Appendix A.1."""

from __future__ import annotations

import pytest
import torch

from stssad_fast.errors import InputError
from stssad_fast.experiments.lemma import loss_grid


def formula(u1: torch.Tensor, u2: torch.Tensor) -> torch.Tensor:
    """L_val as the proof of Lemma 2 writes it."""
    distances = u1.abs() + (u1 - 2).abs() + u2.abs() + (u2 + 2).abs()
    return distances / (3 * u1**2 + 3 * u2**2 - 8 * u1 + 8 * u2 - 2 * u1 * u2 + 16).sqrt()


def test_values_are_the_formulas() -> None:
    grid = loss_grid(9)
    u1, u2 = torch.meshgrid(grid.u, grid.u, indexing="ij")
    torch.testing.assert_close(grid.loss, formula(u1, u2), rtol=0, atol=1e-13)
    assert grid.u.tolist() == [i / 4 for i in range(-4, 5)]


def test_descent_is_the_negative_gradient_of_the_formula() -> None:
    grid = loss_grid(9)
    u1, u2 = (u.requires_grad_() for u in torch.meshgrid(grid.u, grid.u, indexing="ij"))
    gradients = torch.autograd.grad(formula(u1, u2).sum(), (u1, u2))
    torch.testing.assert_close(grid.descent, -torch.stack(gradients, -1), rtol=0, atol=1e-13)


def test_minimum_is_one_at_the_perfect_alignment() -> None:
    assert loss_grid(21).minimum == pytest.approx((0.0, 0.0, 1.0), abs=1e-13)


def test_descent_leads_to_the_minimum_from_everywhere_but_a_corner() -> None:
    grid = loss_grid(21)
    assert grid.inward == pytest.approx(1 - 1 / (21 * 21 - 1))
    assert grid.descent[-1, 0].tolist() == pytest.approx([0.0, 0.0], abs=1e-13)  # u = (1, -1)


@pytest.mark.parametrize("points", [2, 1, 0, 20])
def test_a_grid_without_its_middle_is_refused(points: int) -> None:
    with pytest.raises(InputError, match="odd number"):
        loss_grid(points)
