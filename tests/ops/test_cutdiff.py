"""CutDiff on every backend: its formula and its edges."""

import itertools
import math

import numpy as np
import pytest
import torch

from stssad_fast.ops import cutdiff

FLOATS = [torch.float32, torch.float64]


def formula(image, shape, center):
    """Alg. 2, pixel by pixel, in float64."""
    out = np.empty(image.shape)
    batch, _, height, width = image.shape
    for b in range(batch):
        lower = np.array([[shape[b][0], 0.0], [shape[b][1], shape[b][2]]], dtype=np.float64)
        for i, j in itertools.product(range(height), range(width)):
            d = np.array([(i + 1) / height, (j + 1) / width]) - np.array(center[b], np.float64)
            w = np.linalg.solve(lower, d)
            out[b, :, i, j] = np.clip(image[b, :, i, j] - math.exp(-w @ w), 0, 1)
    return out


def draw(size, dtype=torch.float64):
    image = torch.rand(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = torch.arange(size[0], dtype=torch.float64)[:, None]
    shape = torch.tensor([0.3, -0.2, 0.15], dtype=torch.float64) * (1 + rows)
    center = torch.tensor([0.35, 0.6], dtype=torch.float64) / (1 + rows)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    return image.to(dtype), shape.to(arithmetic), center.to(arithmetic)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "size", [(2, 3, 7, 5), (1, 1, 1, 1), (2, 1, 1, 9), (1, 2, 9, 1), (0, 3, 4, 4)], ids=str
)
def test_equals_the_formula(backend, size, dtype, assert_close):
    image, shape, center = draw(size, dtype)
    out = backend.cutdiff(image, shape, center)
    assert out.dtype == dtype
    expected = formula(image.double().numpy(), shape.double().numpy(), center.double().numpy())
    assert_close(out, expected)


def test_shared_and_per_picture_hyperparameters_agree(backend):
    image = draw((3, 2, 6, 5), torch.float32)[0]
    shape, center = torch.tensor([[0.3, -0.2, 0.15]]), torch.tensor([[0.35, 0.6]])
    one = backend.cutdiff(image, shape, center)
    for s, c in itertools.product((1, 3), repeat=2):
        assert torch.equal(backend.cutdiff(image, shape.expand(s, 3), center.expand(c, 2)), one)


@pytest.mark.parametrize("signs", [(1, 1, -1), (-1, -1, 1), (-1, -1, -1)])
def test_the_sign_of_a_column_does_not_matter(backend, signs, assert_close):
    image, shape, center = draw((1, 1, 6, 5))
    plain = backend.cutdiff(image, shape, center)
    assert_close(backend.cutdiff(image, shape * torch.tensor(signs), center), plain)
    shape[0, 1] = 0  # then neither does that of l11 alone
    flipped = shape * torch.tensor([signs[0], 1, signs[2]])
    assert_close(backend.cutdiff(image, flipped, center), backend.cutdiff(image, shape, center))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("entries", [(0,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("power", [None, 1.01, 0.5, 0.26])  # None: exactly 0
def test_a_singular_shape_has_no_patch_and_no_gradient(backend, entries, power, dtype):
    image = draw((2, 1, 4, 4), dtype)[0] * 3 - 1
    value = 0.0 if power is None else torch.finfo(dtype).tiny ** power  # 1.01: denormal
    shape = torch.tensor([[0.3, -0.2, 0.15]], dtype=dtype)
    shape[0, list(entries)] = value
    shape.requires_grad_()
    center = torch.tensor([[0.5, 0.75]], dtype=dtype, requires_grad=True)  # on a pixel
    out = backend.cutdiff(image, shape, center)
    assert torch.equal(out, image.clamp(0, 1))
    out.sum().backward()
    assert not shape.grad.any()
    assert not center.grad.any()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_just_regular_just_singular(backend, dtype):
    image = draw((1, 1, 8, 8), dtype)[0]
    center = torch.tensor([[0.5, 0.5]], dtype=dtype)  # on pixel (3, 3): d = 0 there, whatever L
    edge = torch.finfo(dtype).tiny ** 0.25
    for factor, cut in [(1.1, True), (-1.1, True), (0.9, False), (-0.9, False)]:
        for other in (1.1, 1e3):
            for shape in ([factor, 0.0, other], [other, 0.0, factor]):
                out = backend.cutdiff(image, edge * torch.tensor([shape], dtype=dtype), center)
                assert (out[0, 0, 3, 3] == 0) == cut
                out[0, 0, 3, 3] = image[0, 0, 3, 3]
                assert torch.equal(out, image)
    for shape in ([math.nan, 0.0, 1.0], [1.0, 0.0, math.nan]):  # a check came too late
        out = backend.cutdiff(image, torch.tensor([shape], dtype=dtype), center)
        assert torch.equal(out, image)


def test_l21_of_zero_is_regular(backend, assert_close):
    inputs = draw((1, 1, 5, 5))
    inputs[1][0, 1] = 0
    assert_close(backend.cutdiff(*inputs), formula(*(value.numpy() for value in inputs)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_no_patch_below_the_square_of_epsilon(backend, dtype):
    smallest = torch.finfo(dtype).eps ** 2
    image = torch.full((1, 1, 1, 1), 4 * smallest, dtype=dtype)
    shape = torch.tensor([[1.0, 0.0, 1.0]], dtype=dtype)  # and the only pixel lies at (1, 1)
    for excess, expected in [(-0.1, 4 - math.exp(0.1)), (0.1, 4.0)]:
        distance = math.sqrt(-math.log(smallest) + excess)
        for center in ([1 + distance, 1.0], [1.0, 1 - distance]):
            out = backend.cutdiff(image, shape, torch.tensor([center], dtype=dtype))
            assert out.item() / smallest == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("each", [False, True])
def test_a_gradient_that_would_overflow_is_the_largest_number(backend, each):
    rows = 3 if each else 1
    shape = torch.tensor([[1e-3, 1e38, 1e-6]]).repeat(rows, 1).requires_grad_()
    center = torch.tensor([[0.5, 0.5 + 1e-6]]).repeat(rows, 1).requires_grad_()
    backend.cutdiff(torch.full((3, 1, 2, 2), 0.95), shape, center).sum().backward()
    assert (center.grad[:, 0] == -torch.finfo(torch.float32).max).all()
    assert torch.isfinite(shape.grad).all()
    assert torch.isfinite(center.grad).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_far_from_the_centre_nothing_happens(backend, dtype):
    image = draw((1, 1, 8, 8), dtype)[0]
    shape = torch.tensor([[1e-3, 0.0, 1e-3]], dtype=dtype, requires_grad=True)
    center = torch.tensor([[0.03, 0.03]], dtype=dtype, requires_grad=True)
    out = backend.cutdiff(image, shape, center)
    assert torch.equal(out, image)
    out.sum().backward()
    assert not shape.grad.any()
    assert not center.grad.any()


@pytest.mark.parametrize(
    ("value", "patch", "slope"),
    [
        (0.0, 0.0, 0),
        (1.0, 0.0, 0),
        (1.0, 1.0, 0),
        (2.0, 1.0, 0),
        (1.5, 1.0, 1),
        (0.5, 0.0, 1),
        (-3.0, 0.0, 0),
        (7.0, 0.0, 0),
        (0.2, 1.0, 0),
    ],
)
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16, torch.bfloat16], ids=str)
def test_gradient_at_the_edges_of_the_clamp(backend, value, patch, slope, dtype, assert_close):
    # On the centre p is exactly 1, and out of reach it is exactly 0: in all columns, so that
    # whole vectors see it. 1e30: so that no column is off the centre in float32.
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    row = 1.0 if patch else 0.0
    center = torch.tensor([[row, 0.5]], dtype=arithmetic)
    shape = torch.tensor([[0.01, 0.0, 1e30]], dtype=arithmetic, requires_grad=True)
    image = torch.full((1, 2, 1, 37), value, dtype=dtype, requires_grad=True)
    out = backend.cutdiff(image, shape, center)
    assert_close(out, torch.full_like(out, min(max(value - patch, 0.0), 1.0)))
    out.sum().backward()
    assert (image.grad == slope).all()
    assert slope or not shape.grad.any()


def test_default_centres_are_uniform_one_per_picture_and_reproducible():
    image = torch.ones(400, 1, 32, 32)
    shape = torch.tensor([0.03, 0.0, 0.03])
    seeded = [torch.Generator().manual_seed(seed) for seed in (3, 3, 4)]
    first, again, other = (cutdiff(image, shape, generator=g) for g in seeded)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    darkest = first.flatten(1).argmin(1)
    rows, columns = (darkest // 32).numpy(), (darkest % 32).numpy()
    for place in (rows, columns):  # 4 bins of 100 +- 9
        counts = np.histogram(place, bins=4, range=(0, 32))[0]
        assert counts.sum() == 400
        assert abs(counts - 100).max() < 40
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2
