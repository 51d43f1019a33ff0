"""The shift of a batch as a validation loss."""

import math

import pytest
import torch

from stssad_fast.tuning.shift import shift_loss


@pytest.fixture
def sets(generator):
    return [
        torch.randn(n, 3, dtype=torch.float64, generator=generator) + shift
        for n, shift in ((4, 0.0), (6, 1.0))
    ]


def test_it_compares_mean_log_distances_to_the_training_centre(sets):
    train, test = sets
    centre = train.mean(0)

    def mean(rows):
        return sum(math.log(float((z - centre) @ (z - centre))) for z in rows) / len(rows)

    expected = mean(train) - mean(test)
    assert expected < -0.5
    assert shift_loss(train, test).item() == pytest.approx(expected, rel=1e-12)


def test_test_rows_twice_as_far_out_lower_it_by_log_4(sets):
    train, test = sets
    farther = train.mean(0) + 2 * (test - train.mean(0))
    lower = shift_loss(train, test) - shift_loss(train, farther)
    assert lower.item() == pytest.approx(math.log(4), rel=1e-12)


def test_it_can_be_differentiated_twice(sets):
    inputs = tuple(rows.requires_grad_() for rows in sets)
    assert torch.autograd.gradcheck(shift_loss, inputs)
    assert torch.autograd.gradgradcheck(shift_loss, inputs)


def test_it_ignores_shift_and_scale_and_repeated_rows(sets):
    train, test = sets
    expected = pytest.approx(shift_loss(train, test).item(), rel=1e-10)
    assert shift_loss(7 * train + 3, 7 * test + 3).item() == expected
    assert shift_loss(train.repeat(3, 1), test).item() == expected
    assert shift_loss(train, test.repeat(2, 1)).item() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_have_loss_and_gradient_zero(dtype):
    sets = [torch.ones(n, 2, dtype=dtype, requires_grad=True) for n in (2, 4)]
    loss = shift_loss(*sets)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, sets):
        assert gradient.abs().max() == 0


def test_one_test_row_at_the_centre_gives_numbers():
    train = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    test = torch.tensor([[0.0, 0.0], [0.0, 2.0]], requires_grad=True)
    loss = shift_loss(train, test)
    assert torch.isfinite(loss)
    for gradient in torch.autograd.grad(loss, (train, test)):
        assert torch.isfinite(gradient).all()
