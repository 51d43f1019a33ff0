"""The matrix: values and gradients against the float64 reference, and what is not computed."""

import contextlib
import itertools

import pytest
import torch

from stssad_fast.ops import reference

from .backends import OPS, PICTURE_OPS
from .cases import (
    CASES,
    compare,
    cotangent,
    cutdiff_case,
    exact,
    far_from_kinks,
    loss_case,
    prepared,
    rotate_case,
    run_backward,
    wanting,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

# Edges, primes, and pictures that are not square; one to five channels.
SMALL = [
    (0, 3, 4, 4),
    (2, 0, 4, 4),
    (2, 3, 0, 8),
    (2, 3, 8, 0),
    (1, 1, 1, 1),
    (3, 2, 1, 1),
    (2, 3, 1, 8),
    (2, 1, 8, 1),
    (3, 1, 7, 5),
    (2, 5, 5, 7),
    (2, 4, 6, 8),
    (1, 2, 2, 3),
]
# Where whole vectors, their remainders and several threads are at work.
LARGE = [(2, 3, 33, 17), (1, 1, 13, 257), (5, 1, 64, 64), (3, 2, 31, 67), (1, 2, 256, 256)]
FEW = [(1, 1, 1), (2, 1, 1), (5, 3, 4)]
MANY = [(1, 2000, 7), (2000, 1, 1), (1, 1, 2000)]


def large(values):
    return [pytest.param(value, marks=pytest.mark.large) for value in values]


@contextlib.contextmanager
def fresh_memory_is_nan():
    """Every ``empty`` is filled with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_cases_cross_the_clamp_and_keep_away_from_kinks():
    for name in ("cutdiff", "cutdiff each"):
        image, shape, center = CASES[name].inputs
        cut = image - reference._patch(shape, center, 3, 4)[0][:, None]
        assert (cut < 0).any() and (cut > 1).any() and ((cut > 0) & (cut < 1)).any()
    for case in CASES.values():
        if case.op != "mean_distance_loss":
            assert far_from_kinks(*case, margin=1e-3).all()
    for size in SMALL + LARGE:
        for case in (cutdiff_case(size), rotate_case(size)):
            smooth = far_from_kinks(*case)
            assert smooth.sum() >= 0.99 * smooth.numel()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [*SMALL[:5], *large(SMALL[5:8]), *SMALL[8:]], ids=str)
def test_cutdiff(backend, size, dtype, assert_close):
    for each in itertools.product((False, True), repeat=2):
        op, inputs = cutdiff_case(size, each)
        compare(backend, op, prepared(inputs, dtype, backend.device), assert_close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SMALL, ids=str)
def test_rotate(backend, size, dtype, assert_close):
    for each in (False, True):
        op, inputs = rotate_case(size, each)
        compare(backend, op, prepared(inputs, dtype, backend.device), assert_close)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("size", [*LARGE[:2], *large(LARGE[2:])], ids=str)
@pytest.mark.parametrize("op", PICTURE_OPS)
def test_large_pictures(kernel, op, size, dtype, assert_close):
    """Not in float64, where one rounding of a coordinate of 128 pixels is more than 1e-14."""
    both = {
        "cutdiff": [cutdiff_case(size), cutdiff_case(size, (True, True))],
        "rotate": [rotate_case(size), rotate_case(size, each=True)],
    }
    for _, inputs in both[op]:
        compare(kernel, op, prepared(inputs, dtype, kernel.device), assert_close)


@pytest.mark.parametrize("shape", [(0.02, -0.01, 0.03), (1e-3, 2e-3, -1e-3), (3.0, 40.0, 0.5)])
@pytest.mark.parametrize("center", [(0.25, 0.5), (0.3, 0.7), (0.0, 1.0), (1.2, -0.1)])
def test_small_and_slanted_patches(kernel, shape, center, assert_close):
    op, inputs = cutdiff_case((2, 3, 40, 48), shape=shape, center=center)
    inputs = prepared(inputs, torch.float32, kernel.device)
    if center == (0.25, 0.5):  # a pixel
        cut = exact(op, inputs, cotangent(op, inputs))[0]
        plain = inputs[0].double().clamp(0, 1).cpu()
        assert not torch.equal(cut, plain), "the patch must be seen"
    compare(kernel, op, inputs, assert_close)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("dimensions", [1, 2, 7, 37, *large([512])])
@pytest.mark.parametrize("counts", [*FEW, *large(MANY)], ids=str)
def test_mean_distance_loss(backend, counts, dimensions, dtype, assert_close):
    op, inputs = loss_case(counts, dimensions)
    compare(backend, op, prepared(inputs, dtype, backend.device), assert_close)


def test_the_formula_of_the_backward_is_the_derivative_of_the_forward(case, assert_close):
    inputs = wanting(case.inputs)
    grad = cotangent(*case)
    found = getattr(reference, case.op + "_backward")(grad, *inputs)
    for f, e in zip(found, exact(*case, grad)[1], strict=True):
        assert_close(f, e)


def test_only_what_is_wanted_is_differentiated(backend, case, assert_close):
    inputs = prepared(case.inputs, device=backend.device)
    grad = cotangent(case.op, inputs)
    full = exact(case.op, inputs, grad)[1]
    for which in itertools.product((False, True), repeat=len(inputs)):
        leaves = wanting(inputs, which)
        found = backend.op(case.op)(*leaves)
        assert found.requires_grad == any(which)
        if any(which):
            found.backward(grad)
        parts = run_backward(backend, case.op, inputs, grad, list(which))
        for leaf, part, wanted, expected in zip(leaves, parts, which, full, strict=True):
            assert (leaf.grad is not None) == wanted
            assert part.dtype == leaf.dtype
            assert part.shape == (leaf.shape if wanted else (0,))
            if wanted:
                assert_close(leaf.grad, expected)
                assert torch.equal(part, leaf.grad)


@pytest.mark.parametrize("op", OPS)
def test_every_number_of_the_results_is_written(backend, op):
    case = {
        "cutdiff": cutdiff_case((3, 3, 17, 19), each=(True, True)),
        "rotate": rotate_case((3, 3, 17, 19), each=True),
        "mean_distance_loss": loss_case((7, 5, 9), 37),
    }[op]
    for dtype in DTYPES[:2] if op == "mean_distance_loss" or backend.slow else DTYPES:
        for channels_last in (False, True) if op != "mean_distance_loss" else (False,):
            inputs = prepared(case.inputs, dtype, backend.device)
            if channels_last:
                inputs = (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
            grad = cotangent(op, inputs)
            every = [[True] * len(inputs), *torch.eye(len(inputs), dtype=torch.bool).tolist()]

            def results(needed, inputs=inputs, grad=grad):
                value = backend.forward(op)(*inputs)
                return (
                    *(value if isinstance(value, tuple) else (value,)),
                    *run_backward(backend, op, inputs, grad, needed),
                )

            for needed in every:
                plain = results(needed)
                with fresh_memory_is_nan():
                    poisoned = results(needed)
                for p, q in zip(plain, poisoned, strict=True):
                    assert torch.isfinite(q).all()
                    assert torch.equal(p, q)


THREADED = {
    "cutdiff": cutdiff_case((8, 3, 96, 96), each=(True, True)),
    "cutdiff, one shape": cutdiff_case((40, 3, 32, 32)),
    "cutdiff, one picture": cutdiff_case((1, 3, 256, 256)),
    "rotate": rotate_case((8, 3, 96, 96), each=True),
    "rotate, one picture": rotate_case((1, 3, 256, 256)),
    "rotate, one angle": rotate_case((40, 3, 32, 32)),
    "mean_distance_loss": loss_case((300, 200, 260), 128),
    "mean_distance_loss, few rows": loss_case((2, 3, 2), 20_000),
}


@pytest.mark.large
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("name", THREADED)
def test_the_number_of_threads_changes_no_bit(kernel, name, layout):
    op, inputs = THREADED[name]
    first, *rest = prepared(inputs, torch.float32, kernel.device)
    if layout == "channels last" and first.dim() == 4:
        first = first.contiguous(memory_format=torch.channels_last)
    inputs = (first, *rest)
    grad = cotangent(op, inputs)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 4, 4, 1, 3):
            torch.set_num_threads(threads)
            leaves = wanting(inputs)
            result = kernel.op(op)(*leaves)
            found.append((result, *torch.autograd.grad(result, leaves, grad)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for one, again in zip(found[0], other, strict=True):
            assert torch.equal(one, again)


@pytest.mark.parametrize("op", OPS)
def test_the_same_call_gives_the_same_bits(backend, op):
    inputs = prepared(next(c for c in CASES.values() if c.op == op).inputs, torch.float32)
    inputs = tuple(value.to(backend.device) for value in inputs)
    grad = cotangent(op, inputs)
    calls = [run_backward(backend, op, inputs, grad, [True] * len(inputs)) for _ in range(3)]
    for call in calls[1:]:
        assert all(map(torch.equal, call, calls[0]))
