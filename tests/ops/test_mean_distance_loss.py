"""The validation loss: Eq. 2-3, Lemmas 1-2, invariances, digits and edges."""

import math

import numpy as np
import pytest
import torch

from stssad_fast.ops import mean_distance_loss, reference


def literal(train, augmented, test):
    """Eq. 2-3 as they are written: Z' is built."""
    sets = [s.double().numpy() for s in (train, augmented, test)]
    stacked = np.concatenate(sets)
    centred = stacked - stacked.mean(0)
    normalised = math.sqrt(len(stacked)) / np.linalg.norm(centred) * centred
    train, augmented, test = np.split(normalised, np.cumsum([len(s) for s in sets])[:2])
    total = sum(
        np.linalg.norm(z - train.mean(0)) + np.linalg.norm(z - augmented.mean(0)) for z in test
    )
    return total / (2 * len(test))


def draw(counts=(5, 3, 4), dimensions=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n, dimensions, generator=generator, dtype=torch.float64) + i
        for i, n in enumerate(counts)
    ]


def loss_and_gradients(*sets):
    leaves = [s.detach().clone().requires_grad_() for s in sets]
    loss = mean_distance_loss(*leaves)
    return loss.detach(), torch.cat(torch.autograd.grad(loss, leaves))


def scalars(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("dimensions", [1, 6])
@pytest.mark.parametrize("counts", [(5, 3, 4), (1, 1, 1), (1, 2, 7)], ids=str)
def test_equals_the_equation(counts, dimensions, assert_close):
    sets = draw(counts, dimensions)
    for implementation in (mean_distance_loss, reference.mean_distance_loss):
        assert_close(implementation(*sets), torch.tensor(literal(*sets), dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [1, 2, 7])
def test_lemma_1(dimensions, assert_close):
    one, other = draw((1, 1), dimensions)
    loss = mean_distance_loss(one, other, torch.cat([one, other]))
    assert_close(loss, torch.ones_like(loss))


@pytest.mark.parametrize("dimensions", [1, 2, 3, 16])
def test_lemma_2(dimensions, generator):
    one, other = draw((1, 1), dimensions)
    test = torch.cat([one, other])
    reach = torch.linalg.vector_norm(other - one) / 2  # delta = 1 where they are 2 apart
    for radius in (1e-6, 1e-3, 0.1, 0.999):
        for _ in range(30):
            u = torch.randn(2, dimensions, generator=generator, dtype=torch.float64)
            u *= radius * reach / torch.linalg.vector_norm(u, dim=1).max()
            assert mean_distance_loss(one, other, test + u) > 1


def test_the_landscape_of_appendix_a(generator, assert_close):
    """train {0}, augmented {2}, test {u1, u2 + 2} (Fig. 7): closed forms, and slopes."""
    for u1, u2 in (2 * torch.rand(100, 2, generator=generator) - 1).double().tolist():
        quadratic = 3 * u1**2 + 3 * u2**2 - 8 * u1 + 8 * u2 - 2 * u1 * u2 + 16
        if u1 >= 0 and u2 >= 0:
            excess = -3 * u1**2 + u2**2 + 8 * u1 + 8 * u2 + 2 * u1 * u2
        elif u1 >= 0:
            excess = -3 * u1**2 - 3 * u2**2 + 8 * u1 - 8 * u2 + 2 * u1 * u2
        elif u2 >= 0:
            excess = u1**2 + u2**2 - 8 * u1 + 8 * u2 - 6 * u1 * u2
        else:
            excess = u1**2 - 3 * u2**2 - 8 * u1 - 8 * u2 + 2 * u1 * u2
        test = scalars(u1, u2 + 2).requires_grad_()
        loss = mean_distance_loss(scalars(0.0), scalars(2.0), test)
        assert_close(loss**2 - 1, scalars(excess / quadratic)[0, 0])
        (slope,) = torch.autograd.grad(loss, test)
        assert (slope[:, 0] * torch.tensor([u1, u2])).sum() > 0  # descent leads to u = 0


@pytest.mark.parametrize("scale", [1e-9, 0.3, 1e9])
def test_scale_and_shift_do_not_matter(scale, assert_close):
    sets = draw()
    assert_close(
        mean_distance_loss(*(scale * s + 5 * scale for s in sets)), mean_distance_loss(*sets)
    )


def test_repeating_every_row_does_not_matter(assert_close):
    sets = draw()
    assert_close(mean_distance_loss(*(s.repeat(3, 1) for s in sets)), mean_distance_loss(*sets))


@pytest.mark.parametrize("which", range(3))
def test_repeating_one_set_changes_the_common_factor_alone(which, assert_close):
    """The mean distances of Eq. 3 keep; sqrt(N) / |Zc|_F of Eq. 2 weighs the sets anew."""

    def without_the_factor(sets):
        stacked = torch.cat(sets)
        norm = torch.linalg.vector_norm(stacked - stacked.mean(0))
        return mean_distance_loss(*sets) * norm / len(stacked) ** 0.5

    sets = draw()
    repeated = [s.repeat(3, 1) if i == which else s for i, s in enumerate(sets)]
    assert_close(without_the_factor(repeated), without_the_factor(sets))
    assert abs(mean_distance_loss(*repeated) - mean_distance_loss(*sets)) > 1e-3


def test_a_large_mean_keeps_the_digits():
    """mathematics.md, 3: mean 1e4 and spread 1 agree with float64 to 1e-4."""
    single = [(s + 1e4).float() for s in draw((32, 32, 32), 64)]
    found = loss_and_gradients(*single)
    expected = loss_and_gradients(*(s.double() for s in single))
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == torch.float32
        assert (f - e).abs().max() < 1e-4 * e.abs().max()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales_in_float32(scale, assert_close):
    single = [s.float() * scale for s in draw()]
    loss, gradient = loss_and_gradients(*single)
    exact, exact_gradient = loss_and_gradients(*(s.double() for s in single))
    assert_close(loss, exact)
    assert_close(gradient.double() * scale, (exact_gradient * scale).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4 / 3, 1e30])
@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 5, 7), (300, 300, 400)], ids=str)
@pytest.mark.parametrize("dimensions", [0, 1, 50])
def test_equal_rows(dimensions, counts, value, dtype):
    row = value / torch.arange(1, dimensions + 1, dtype=dtype)  # which no mean of copies need be
    loss, gradient = loss_and_gradients(*(row.repeat(n, 1) for n in counts))
    assert loss == 0
    assert not gradient.any()


def test_a_distance_of_zero_has_subgradient_zero(assert_close):
    # Lemma 1: two distances are 2 and two are 0. The former and the normalisation cancel.
    loss, gradient = loss_and_gradients(scalars(0.0), scalars(2.0), scalars(0.0, 2.0))
    assert loss == 1
    assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(dtype, assert_close):
    sets = [s.to(dtype) for s in draw()]
    loss, gradient = loss_and_gradients(*sets)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    exact, exact_gradient = loss_and_gradients(*(s.double() for s in sets))
    assert_close(loss, exact)
    assert_close(gradient, exact_gradient)


@pytest.mark.parametrize(
    ("position", "value", "error", "words"),
    [
        (0, torch.zeros(0, 2), ValueError, "train has no rows"),
        (2, torch.zeros(0, 2), ValueError, "test has no rows"),
        (1, torch.zeros(3, 4), ValueError, "augmented has 4 dimensions, train 2"),
        (1, torch.zeros(2), ValueError, r"expected \(N, D\)"),
        (0, torch.zeros(3, 2, dtype=torch.int64), TypeError, "train is torch.int64"),
        (0, np.zeros((3, 2)), TypeError, "train is ndarray"),
        (2, torch.tensor([[0.0, math.nan]]), ValueError, "test has NaN or infinite"),
        (1, torch.zeros(3, 2, device="meta"), ValueError, "augmented is on meta, train on cpu"),
    ],
)
def test_wrong_arguments(position, value, error, words):
    sets = [torch.rand(3, 2) for _ in range(3)]
    sets[position] = value
    with pytest.raises(error, match=words):
        mean_distance_loss(*sets)
