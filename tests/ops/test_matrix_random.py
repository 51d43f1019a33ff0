"""The matrix: sizes, strides, dtypes, patches and embeddings drawn at random."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .cases import compare, cotangent, magnitudes, numbers, placed, prepared

pytestmark = pytest.mark.filterwarnings(  # torch's own: forward mode loads its decompositions
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)

# Every row in float64, where two orders of rounding differ by less than 1e-14; kernels, which place
# pixels in float64 whatever the picture is stored in, also on larger pictures and extreme patches.
NARROW = [torch.float32, torch.float16, torch.bfloat16]
seeds = st.integers(0, 10**6)


def lay_out(draw, value):
    """``value`` with strides of any kind."""
    order = draw(st.permutations(range(value.dim())))
    steps = draw(st.tuples(*[st.integers(1, 2)] * value.dim()))
    return placed(value, order, steps, draw(st.integers(0, 2)))


def draw_picture(draw, largest, dtype, low, high):
    side = st.integers(1, largest)
    size = draw(st.tuples(st.integers(0, 3), st.integers(1, 5), side, side))
    image = lay_out(draw, numbers(*size, low=low, high=high, seed=draw(seeds)).to(dtype))
    if draw(st.integers(0, 4)) == 0:
        dim = draw(st.integers(0, 3))
        image = image[(slice(None),) * dim + (slice(0, 1),)].expand_as(image)
    return image


def draw_rows(draw, batch, *columns):
    """One row for all pictures, or one for each."""
    count = batch if draw(st.booleans()) else 1
    rows = [draw(st.tuples(*columns)) for _ in range(count)]
    return torch.tensor(rows, dtype=torch.float64).reshape(count, len(columns))


def either_sign(low, high):
    """10^low to 10^high, either sign."""
    return st.builds(lambda s, p: s * 10.0**p, st.sampled_from([-1.0, 1.0]), st.floats(low, high))


@st.composite
def cutdiff_inputs(draw, largest, dtypes, smallest):
    """``smallest``: exponent of the smallest diagonal of L."""
    image = draw_picture(draw, largest, draw(st.sampled_from(dtypes)), -0.2, 1.4)
    diagonal = either_sign(smallest, 2)
    slant = st.one_of(st.floats(-1, 1), either_sign(smallest, -smallest / 3))
    places = st.one_of(st.sampled_from([0.25, 0.5, 1.0]), st.floats(-0.5, 1.5))
    shape = draw_rows(draw, len(image), diagonal, slant, diagonal)
    center = draw_rows(draw, len(image), places, places)
    return prepared((image, shape, center), image.dtype)


@st.composite
def rotate_inputs(draw, largest, dtypes):
    image = draw_picture(draw, largest, draw(st.sampled_from(dtypes)), 0.0, 1.0)
    return prepared((image, draw_rows(draw, len(image), st.floats(-400, 400))[:, 0]), image.dtype)


@st.composite
def embeddings(draw, dtype, means):
    dimensions = draw(st.one_of(st.integers(2, 70), st.sampled_from([128, 300])))
    few, many = st.integers(1, 9), st.integers(10, 60)
    counts = draw(st.permutations([draw(few), draw(few), draw(st.one_of(few, many))]))
    mean, seed = draw(st.sampled_from(means)), draw(seeds)
    return tuple(
        lay_out(draw, mean + numbers(n, dimensions, low=-1, high=1 + i, seed=seed + i).to(dtype))
        for i, n in enumerate(counts)
    )


def agrees(row, op, drawn, assert_close):
    @settings(max_examples=5 if row.slow else 30, derandomize=row.slow)
    @given(inputs=drawn, data=st.data())
    def check(inputs, data):
        inputs = tuple(value.to(row.device) for value in inputs)
        grad, units = cotangent(op, inputs), None
        if op != "mean_distance_loss":
            units = magnitudes(op, inputs, grad)
            grad = lay_out(data.draw, grad)
        compare(row, op, inputs, assert_close, grad, units)

    check()


def test_cutdiff(backend, assert_close):
    agrees(backend, "cutdiff", cutdiff_inputs(12, [torch.float64], smallest=-1), assert_close)


def test_cutdiff_in_kernels(kernel, assert_close):
    agrees(kernel, "cutdiff", cutdiff_inputs(40, NARROW, smallest=-6), assert_close)


def test_rotate(backend, assert_close):
    agrees(backend, "rotate", rotate_inputs(10, [torch.float64]), assert_close)


def test_rotate_in_kernels(kernel, assert_close):
    agrees(kernel, "rotate", rotate_inputs(40, NARROW), assert_close)


def test_mean_distance_loss(backend, assert_close):
    drawn = embeddings(torch.float64, [0.0, 1.0])
    agrees(backend, "mean_distance_loss", drawn, assert_close)


def test_mean_distance_loss_in_kernels(kernel, assert_close):
    drawn = embeddings(torch.float32, [0.0, -1e2, 1e4])
    agrees(kernel, "mean_distance_loss", drawn, assert_close)


magnitude = st.floats(-38, 38).map(lambda exponent: 10.0**exponent)
extreme = st.one_of(
    st.just(0.0), magnitude, magnitude.map(lambda v: -v), st.floats(-2, 2), st.floats(0, 1e-38)
)
place = st.one_of(st.sampled_from([0.25, 0.5, 1.0]), st.floats(0.499999, 0.500001), extreme)


def test_finite_input_never_gives_nan_or_inf_in_cutdiff(backend):
    @settings(max_examples=10 if backend.slow else 100, derandomize=backend.slow)
    @given(
        shape=st.tuples(extreme, extreme, extreme),
        center=st.tuples(place, place),
        values=st.lists(
            st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-1, 2)), min_size=4, max_size=4
        ),
        dtype=st.sampled_from([torch.float32, torch.float64]),
    )
    def check(shape, center, values, dtype):
        leaves = [
            torch.tensor(values, dtype=dtype).reshape(1, 1, 2, 2).repeat(2, 1, 2, 9),
            torch.tensor([shape], dtype=dtype),
            torch.tensor([center], dtype=dtype),
        ]
        out = backend.cutdiff(*(leaf.requires_grad_() for leaf in leaves))
        assert torch.isfinite(out).all()
        out.sum().backward()
        for leaf in leaves:
            assert torch.isfinite(leaf.grad).all()

    check()
