"""MMD as a validation loss (MMD1, MMD2 of the paper)."""

import pytest
import torch

from stssad_fast.tuning.mmd import mmd_loss


@pytest.fixture
def sets(generator):
    return [
        torch.randn(n, 3, dtype=torch.float64, generator=generator) + shift
        for n, shift in ((4, 0.0), (5, 2.0), (6, 1.0))
    ]


def kernel(x, y):
    return (float(x @ y) / len(x) + 1) ** 3


@pytest.mark.parametrize("normalize", [False, True])
def test_it_is_the_mean_of_the_kernel_over_all_pairs(sets, normalize):
    rows = torch.cat(sets)
    if normalize:
        rows = rows - rows.mean(0)
        rows = rows * len(rows) ** 0.5 / rows.square().sum().sqrt()
    ours, theirs = rows[:9], rows[9:]

    def mean(first, second):
        return sum(kernel(x, y) for x in first for y in second) / (len(first) * len(second))

    expected = mean(ours, ours) + mean(theirs, theirs) - 2 * mean(ours, theirs)
    assert mmd_loss(*sets, normalize=normalize).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("normalize", [False, True])
def test_it_is_zero_for_equal_sets_and_can_be_differentiated_twice(sets, normalize):
    train, augmented, test = sets
    same = mmd_loss(train, augmented, torch.cat([train, augmented]), normalize=normalize)
    assert abs(same.item()) < 1e-12
    assert mmd_loss(train, augmented, test, normalize=normalize) > 1e-3
    inputs = tuple(rows.requires_grad_() for rows in sets)
    assert torch.autograd.gradcheck(lambda *s: mmd_loss(*s, normalize=normalize), inputs)
    assert torch.autograd.gradgradcheck(lambda *s: mmd_loss(*s, normalize=normalize), inputs)


def test_normalised_it_ignores_shift_and_scale(sets):
    moved = [7 * rows + 3 for rows in sets]
    expected = mmd_loss(*sets, normalize=True).item()
    assert mmd_loss(*moved, normalize=True).item() == pytest.approx(expected, rel=1e-10)
    assert mmd_loss(*moved, normalize=False).item() != pytest.approx(expected, rel=0.1)


def test_equal_rows_have_loss_and_gradient_zero():
    sets = [torch.ones(n, 2, dtype=torch.float64, requires_grad=True) for n in (2, 3, 4)]
    loss = mmd_loss(*sets, normalize=True)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, sets):
        assert gradient.abs().max() == 0
