"""The validation loss on every backend: Eq. 2-3, Lemmas 1-2, invariances, digits and edges."""

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


@pytest.fixture(scope="module")
def loss(backend):
    return backend.mean_distance_loss


def loss_and_gradients(loss, *sets):
    leaves = [s.detach().clone().requires_grad_() for s in sets]
    value = loss(*leaves)
    return value.detach(), torch.cat(torch.autograd.grad(value, leaves))


def scalars(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("dimensions", [1, 6])
@pytest.mark.parametrize("counts", [(5, 3, 4), (1, 1, 1), (1, 2, 7)], ids=str)
def test_equals_the_equation(loss, counts, dimensions, assert_close):
    sets = draw(counts, dimensions)
    assert_close(loss(*sets), torch.tensor(literal(*sets), dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [1, 2, 7])
def test_lemma_1(loss, dimensions, assert_close):
    one, other = draw((1, 1), dimensions)
    value = loss(one, other, torch.cat([one, other]))
    assert_close(value, torch.ones_like(value))


@pytest.mark.large
@pytest.mark.parametrize("dimensions", [1, 2, 3, 16])
def test_lemma_2(loss, dimensions, generator):
    one, other = draw((1, 1), dimensions)
    test = torch.cat([one, other])
    reach = torch.linalg.vector_norm(other - one) / 2  # delta = 1 where they are 2 apart
    for radius in (1e-6, 1e-3, 0.1, 0.999):
        for _ in range(30):
            u = torch.randn(2, dimensions, generator=generator, dtype=torch.float64)
            u *= radius * reach / torch.linalg.vector_norm(u, dim=1).max()
            assert loss(one, other, test + u) > 1


@pytest.mark.large
def test_the_landscape_of_appendix_a(loss, generator, assert_close):
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
        value = loss(scalars(0.0), scalars(2.0), test)
        assert_close(value**2 - 1, scalars(excess / quadratic)[0, 0])
        (slope,) = torch.autograd.grad(value, test)
        assert (slope[:, 0] * torch.tensor([u1, u2])).sum() > 0  # descent leads to u = 0


@pytest.mark.parametrize("scale", [1e-9, 0.3, 1e9])
def test_scale_and_shift_do_not_matter(loss, scale, assert_close):
    sets = draw()
    assert_close(loss(*(scale * s + 5 * scale for s in sets)), loss(*sets))


@pytest.mark.parametrize(("normal", "balance"), [(4, -1), (8, 0), (12, 1)])
def test_aligned_clusters_are_at_rest_if_normal_test_rows_are_as_many_as_augmented(
    loss, normal, balance
):
    """docs/method.md: with fewer the loss drives the augmented ones outwards, with more inwards."""
    augmented = scalars(*[1] * 8).requires_grad_()
    train, test = scalars(*[0] * 5), scalars(*[0] * normal, *[1] * 3)
    (gradient,) = torch.autograd.grad(loss(train, augmented, test), augmented)
    assert np.sign(round(gradient.sum().item(), 12)) == balance


@pytest.mark.parametrize(("scatter", "ridge"), [(1.0, 11.25**0.5), (0.0, 3**0.5)])
def test_augmented_rows_fall_off_a_ridge_where_no_anomaly_is_told_apart(
    loss, scatter, ridge, assert_close
):
    """docs/method.md: towards the normal rows or away; which end is lower depends on scatter."""
    unit = torch.eye(4, dtype=torch.float64)
    train, test = torch.stack([unit[1], -unit[1]]), torch.stack([unit[2], -unit[2]])

    def at(distance):
        noise = scatter * torch.stack([unit[3], -unit[3]])
        return loss(train, distance * unit[0] + noise, test)

    def slope(distance):
        x = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(at(x), x)[0]

    for r in (0.0, 1.0, ridge, 10.0):
        spread = (2 + scatter**2) / 3 + 2 * r**2 / 9
        assert_close(at(r), scalars((1 + math.hypot(1, r)) / (2 * spread**0.5))[0, 0])
    assert slope(0.5 * ridge) > 1e-3
    assert slope(2 * ridge) < -1e-3
    assert abs(slope(ridge)) < 1e-12
    assert (at(0.0) < at(1e6)) == (scatter == 1)


def test_repeating_every_row_does_not_matter(loss, assert_close):
    sets = draw()
    assert_close(loss(*(s.repeat(3, 1) for s in sets)), loss(*sets))


@pytest.mark.parametrize("which", range(3))
def test_repeating_one_set_changes_the_common_factor_alone(loss, which, assert_close):
    """The mean distances of Eq. 3 keep; sqrt(N) / |Zc|_F of Eq. 2 weighs the sets anew."""

    def without_the_factor(sets):
        stacked = torch.cat(sets)
        norm = torch.linalg.vector_norm(stacked - stacked.mean(0))
        return loss(*sets) * norm / len(stacked) ** 0.5

    sets = draw()
    repeated = [s.repeat(3, 1) if i == which else s for i, s in enumerate(sets)]
    assert_close(without_the_factor(repeated), without_the_factor(sets))
    assert abs(loss(*repeated) - loss(*sets)) > 1e-3


@pytest.mark.parametrize("counts", [(32, 32, 32), (1, 1, 2000), (300, 5, 7)], ids=str)
def test_a_large_mean_keeps_the_digits(backend, counts, assert_close):
    """mathematics.md, 3: mean 1e4 and spread 1 agree with float64 to 1e-4; kernels to 1e-6."""
    single = [(s + 1e4).float() for s in draw(counts, 64)]
    found = loss_and_gradients(backend.mean_distance_loss, *single)
    expected = loss_and_gradients(reference.mean_distance_loss, *(s.double() for s in single))
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == torch.float32
        largest = e.abs().max().item()
        assert (f - e).abs().max() < 1e-4 * largest
        if backend.kernel:
            assert_close(f / largest, e / largest)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize(
    "distance", [*(pytest.param(d, marks=pytest.mark.large) for d in (30.0, 1e6)), 1e3]
)
def test_a_first_row_far_from_the_others(kernel, distance, which, assert_close):
    """Kernels measure rows from the first one of their set, which must cost no digits.

    Interpreted ones add the squares of a tile one after another in float32: 2e-6 for 1e6.
    """
    sets = draw((500, 500, 500), 16)
    sets[which][0] += distance
    sets = [s.float() for s in sets]
    found = loss_and_gradients(kernel.mean_distance_loss, *sets)
    expected = loss_and_gradients(reference.mean_distance_loss, *(s.double() for s in sets))
    for f, e in zip(found, expected, strict=True):
        largest = e.abs().max().item()
        assert_close(f / largest, e / largest)


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e160, 1e200])
def test_extreme_scales_in_float64(loss, scale, assert_close):
    """Where squares leave the range of float64."""
    sets = draw()
    value, gradient = loss_and_gradients(loss, *(s * scale for s in sets))
    exact, exact_gradient = loss_and_gradients(loss, *sets)
    assert_close(value, exact)
    assert_close(gradient * scale, exact_gradient)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales_in_float32(loss, scale, assert_close):
    single = [s.float() * scale for s in draw()]
    value, gradient = loss_and_gradients(loss, *single)
    exact, exact_gradient = loss_and_gradients(loss, *(s.double() for s in single))
    assert_close(value, exact)
    assert_close(gradient.double() * scale, (exact_gradient * scale).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4 / 3, 1e30])
@pytest.mark.parametrize(
    "counts",
    [(1, 1, 1), (3, 5, 7), pytest.param((300, 300, 400), marks=pytest.mark.large)],
    ids=str,
)
@pytest.mark.parametrize("dimensions", [0, 1, 50])
def test_equal_rows(loss, dimensions, counts, value, dtype):
    row = value / torch.arange(1, dimensions + 1, dtype=dtype)  # which no mean of copies need be
    value, gradient = loss_and_gradients(loss, *(row.repeat(n, 1) for n in counts))
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("where", range(3))
@pytest.mark.parametrize("column", [0, 36])
def test_rows_that_differ_in_one_number(loss, where, column, assert_close):
    """The smallest difference is not taken for none."""
    sets = [torch.full((n, 37), 1.0) for n in (3, 5, 2)]
    sets[where][1, column] += 2**-20
    value, gradient = loss_and_gradients(loss, *sets)
    assert value > 0
    assert_close(value, loss(*(s.double() for s in sets)))
    assert torch.isfinite(gradient).all() and gradient.any()


def test_a_distance_of_zero_has_subgradient_zero(loss, assert_close):
    # Lemma 1: two distances are 2 and two are 0. The former and the normalisation cancel.
    value, gradient = loss_and_gradients(loss, scalars(0.0), scalars(2.0), scalars(0.0, 2.0))
    assert value == 1
    assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("copies", [3, 7, 17])
@pytest.mark.parametrize("graph", [False, True])
def test_equal_rows_where_the_test_rows_are(backend, copies, graph, assert_close):
    """Their mean is that row, and no row a rounding error away, which would have a direction."""
    ones = torch.ones(2, 8)
    sets = [torch.zeros(copies, 8), torch.cat([ones, -3 * ones]), torch.zeros(2, 8)]
    _, expected = loss_and_gradients(reference.mean_distance_loss, *(s.double() for s in sets))
    for point in torch.randn(5, 8, generator=torch.Generator().manual_seed(0)):
        leaves = [(s + point).requires_grad_() for s in sets]
        value = backend.mean_distance_loss(*leaves)
        found = torch.cat(torch.autograd.grad(value, leaves, create_graph=graph))
        assert_close(found.detach(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(dtype, assert_close):
    sets = [s.to(dtype) for s in draw()]
    value, gradient = loss_and_gradients(mean_distance_loss, *sets)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    exact, exact_gradient = loss_and_gradients(mean_distance_loss, *(s.double() for s in sets))
    assert_close(value, exact)
    assert_close(gradient, exact_gradient)
