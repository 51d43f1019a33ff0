"""The mean-distance loss in Triton, interpreted: what the matrix of the ops does not have."""

import itertools

import pytest
import torch
import triton
import triton.language as tl
from stssad_fast.kernels import mean_distance as kernels

from stssad_fast.ops import reference

DTYPES = [torch.float32, torch.float64]
# Rows of the three sets, dimensions, mean, spread. A block has 32 columns.
CASES = {
    "small": ((5, 4, 3), 2, 0.0, 1.0),
    "as in the paper": ((64, 64, 40), 128, 0.5, 0.1),
    "many rows": ((300, 20, 270), 33, 0.0, 1.0),
    "many dimensions": ((6, 5, 4), 150, 0.0, 1.0),
    "large mean": ((40, 30, 50), 40, 1e4, 1.0),
    "large numbers": ((7, 5, 6), 40, 0.0, 1e36),
    "small numbers": ((7, 5, 6), 40, 0.0, 1e-36),
}


def problem(case, dtype):
    counts, dimensions, mean, spread = CASES[case]
    generator = torch.Generator().manual_seed(0)
    return [
        (mean + spread * torch.randn(n, dimensions, generator=generator, dtype=torch.float64)).to(
            dtype
        )
        for n in counts
    ]


def check(sets, assert_close):
    double = [rows.double() for rows in sets]
    loss, memo = kernels.mean_distance_loss(*sets)
    assert loss.dtype == sets[0].dtype and loss.shape == ()
    assert memo.shape == (8 * sets[0].shape[1] + 4,) and not memo.isnan().any()
    assert_close(loss, reference.mean_distance_loss(*double))
    grad = torch.tensor(1.7, dtype=sets[0].dtype)
    found = kernels.mean_distance_loss_backward(grad, memo, *sets, [True] * 3)
    expected = reference.mean_distance_loss_backward(grad.double(), *double)
    scale = max(part.abs().max().item() for part in expected) or 1.0
    for f, e in zip(found, expected, strict=True):
        assert_close(f.double() / scale, (e / scale).to(f.dtype))


@pytest.fixture(params=[2048, 64], ids=["one chunk", "chunks"])
def chunk(request, monkeypatch):
    """The rows of a chunk; 64 of them make many chunks of sets that the interpreter can bear."""
    monkeypatch.setattr(kernels, "CHUNK", request.param)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, dtype, chunk, assert_close):
    check(problem(case, dtype), assert_close)


def test_the_cases_have_one_chunk_and_more():
    assert max(max(counts) for counts, *_ in CASES.values()) < kernels.CHUNK
    assert kernels.plan(300, 33, False).chunks == 1
    assert kernels.plan(kernels.CHUNK + 1, 33, False).chunks == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("position", range(3))
def test_a_row_far_from_all_others(position, dtype, chunk, assert_close):
    sets = problem("as in the paper", dtype)
    sets[position][0] += 1e3
    double = [rows.double() for rows in sets]
    loss, memo = kernels.mean_distance_loss(*sets)
    assert_close(loss, reference.mean_distance_loss(*double))
    found = kernels.mean_distance_loss_backward(torch.ones_like(loss), memo, *sets, [True] * 3)
    expected = reference.mean_distance_loss_backward(torch.ones_like(loss).double(), *double)
    for f, e in zip(found, expected, strict=True):
        assert (f - e).norm() < 1e-6 * e.norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, 1e37])
def test_equal_rows(value, dtype, chunk):
    sets = [torch.full((n, 40), value, dtype=dtype) for n in (70, 3, 67)]
    loss, memo = kernels.mean_distance_loss(*sets)
    assert loss == 0
    grad = torch.full_like(loss, 1e3)  # overflows in the smallest unit
    for part in kernels.mean_distance_loss_backward(grad, memo, *sets, [True] * 3):
        assert not part.any()


def test_numbers_that_are_not_finite():
    for position, value in itertools.product(range(3), (torch.nan, torch.inf)):
        sets = problem("small", torch.float32)
        sets[position][1, 1] = value
        assert kernels.mean_distance_loss(*sets)[0].isnan()


@triton.jit
def _one_row(rows, result, row, D, COLUMNS: tl.constexpr):
    column = tl.arange(0, COLUMNS)
    numbers, _ = kernels._rows(rows, row, row + 1, column, D, 1)
    tl.store(result + column, tl.sum(numbers, 0), column < D)


def test_offsets_beyond_32_bits(tmp_path):
    step = 2**30 + 8
    file = tmp_path / "sparse"  # its pages do not exist until they are written
    rows = torch.from_file(str(file), shared=True, size=2 * step + 8, dtype=torch.float32)
    rows[2 * step : 2 * step + 4] = torch.arange(1.0, 5.0)
    result = torch.zeros(4)
    _one_row[(1,)](rows, result, 2, step, COLUMNS=4)
    assert result.tolist() == [1, 2, 3, 4]
