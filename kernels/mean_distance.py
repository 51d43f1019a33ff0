"""The mean-distance loss in Triton: the loss, and its gradients for the three sets.

Forward: ``_squares`` gives a program a block of columns with all their rows, so that it knows its
part of the means and can measure the rows against them at once; ``_units`` puts the blocks
together. Sets with more than CHUNK rows are cut into chunks that go to programs of their own, and
sums over chunks come between the launches. Backward: one program for a few rows.

Rows are counted from the first training row and means kept in two parts, so that float32 keeps its
digits when the mean is large; squares are taken in a unit (a power of two) near the largest entry,
so that they stay in range. Sums of many rows are in float64.

``memo``, (8 D + 4,): high and low parts of the means of train, augmented and all rows; the sums of
the unit vectors from the first two means to the test rows; the loss, ``|Zc|_F`` in units, the unit.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _root(square):
    """The root, rounded; ``tl.sqrt`` of float32 is approximate and takes denormals for 0."""
    return tl.sqrt(square) if square.dtype == tl.float64 else tl.sqrt_rn(square)


@triton.jit
def _quotient(number, divisor):
    """The quotient, rounded; ``/`` of float32 is off by up to two units in the last place."""
    return number / divisor if divisor.dtype == tl.float64 else tl.div_rn(number, divisor)


@triton.jit
def _place(blocks):
    """Chunk of rows and block of columns of this program."""
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64), program % blocks


@triton.jit
def _rows(rows, row, stop, column, D, ROWS: tl.constexpr):
    """Numbers (ROWS, COLUMNS) of the set from ``row`` on, 0 where ``there`` is False."""
    row += tl.arange(0, ROWS)
    there = (row < stop)[:, None] & (column < D)[None, :]
    return tl.load(rows + row.to(tl.int64)[:, None] * D + column[None, :], there, 0.0), there


@triton.jit
def _sum(rows, start, stop, column, D, first, ROWS: tl.constexpr):
    """Sum and largest absolute value of ``rows - first`` for each column (COLUMNS,).

    In float64, because ``first`` may be far away from all other rows.
    """
    total = tl.zeros(column.shape, tl.float64)
    largest = tl.zeros_like(first)
    for row in range(start, stop, ROWS):
        numbers, there = _rows(rows, row, stop, column, D, ROWS)
        numbers = tl.where(there, numbers.to(tl.float64) - first.to(tl.float64)[None, :], 0.0)
        total += tl.sum(numbers, 0)
        largest = tl.maximum(largest, tl.max(tl.abs(numbers.to(first.dtype)), 0))
    return total, largest


@triton.jit
def _unit(largest):
    """The power of two at or below ``largest`` that has an exact inverse, and that inverse."""
    if largest.dtype == tl.float64:
        exponent = largest.to(tl.int64, bitcast=True) >> 52
        exponent = tl.minimum(tl.maximum(exponent, 1), 2045)
        unit = (exponent << 52).to(tl.float64, bitcast=True)
        inverse = ((2046 - exponent) << 52).to(tl.float64, bitcast=True)
    else:
        exponent = largest.to(tl.int32, bitcast=True) >> 23
        exponent = tl.minimum(tl.maximum(exponent, 1), 253)
        unit = (exponent << 23).to(tl.float32, bitcast=True)
        inverse = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    return unit, inverse


@triton.jit
def _parts(mean, first):
    """``first + mean`` as a number of the dtype of ``first`` and what that leaves of it."""
    absolute = first.to(tl.float64) + mean
    high = absolute.to(first.dtype)
    return high, ((first.to(tl.float64) - high.to(tl.float64)) + mean).to(first.dtype)


@triton.jit
def _from_mean(numbers, there, high, low, inverse):
    """``numbers`` from a mean in two parts, in units."""
    return tl.where(there, ((numbers - high[None, :]) - low[None, :]) * inverse, 0.0)


@triton.jit
def _spread(rows, start, stop, column, D, high, low, inverse, ROWS: tl.constexpr):
    """Sum of the squared distances of rows from a mean, over these columns."""
    total = tl.zeros(column.shape, tl.float64)
    for row in range(start, stop, ROWS):
        numbers, there = _rows(rows, row, stop, column, D, ROWS)
        away = _from_mean(numbers, there, high, low, inverse)
        total += tl.sum(away * away, 0).to(tl.float64)
    return tl.sum(total)


@triton.jit
def _sums(
    train,
    augmented,
    test,
    sums,
    largest,
    n_train,
    n_augmented,
    n_test,
    D,
    blocks,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums (chunks, 3, D) of the sets, and the largest entries (chunks, D), from the first row."""
    chunk, block = _place(blocks)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    start = chunk * CHUNK
    there = column < D
    first = tl.load(train + column, there, 0.0)
    sum1, most1 = _sum(train, start, min(start + CHUNK, n_train), column, D, first, ROWS)
    sum2, most2 = _sum(augmented, start, min(start + CHUNK, n_augmented), column, D, first, ROWS)
    sum3, most3 = _sum(test, start, min(start + CHUNK, n_test), column, D, first, ROWS)
    place = chunk * 3 * D + column
    tl.store(sums + place, sum1, there)
    tl.store(sums + place + D, sum2, there)
    tl.store(sums + place + 2 * D, sum3, there)
    tl.store(largest + chunk * D + column, tl.maximum(tl.maximum(most1, most2), most3), there)


@triton.jit
def _squares(
    train,
    augmented,
    test,
    sums,
    largest,
    memo,
    squares,
    spreads,
    units,
    n_train,
    n_augmented,
    n_test,
    D,
    blocks,
    CHUNKED: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Means, and what a block of columns adds to squared distances, in units of its own.

    ``squares`` (2, n_test, blocks) from the means of train and augmented; ``spreads`` (chunks,
    blocks) in float64, of all rows from the mean of all; ``units`` (blocks,). With CHUNKED,
    ``sums`` (3, D) and ``largest`` (1,) are given.
    """
    chunk, block = _place(blocks)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    start = chunk * CHUNK
    there = column < D
    first = tl.load(train + column, there, 0.0)
    stop_train = min(start + CHUNK, n_train)
    stop_augmented = min(start + CHUNK, n_augmented)
    stop_test = min(start + CHUNK, n_test)
    if CHUNKED:
        sum1 = tl.load(sums + column, there, 0.0)
        sum2 = tl.load(sums + D + column, there, 0.0)
        sum3 = tl.load(sums + 2 * D + column, there, 0.0)
        unit, inverse = _unit(tl.load(largest))
    else:
        sum1, most1 = _sum(train, start, stop_train, column, D, first, ROWS)
        sum2, most2 = _sum(augmented, start, stop_augmented, column, D, first, ROWS)
        sum3, most3 = _sum(test, start, stop_test, column, D, first, ROWS)
        unit, inverse = _unit(tl.max(tl.maximum(tl.maximum(most1, most2), most3)))
    high1, low1 = _parts(sum1 / n_train, first)
    high2, low2 = _parts(sum2 / n_augmented, first)
    high, low = _parts((sum1 + sum2 + sum3) / (n_train + n_augmented + n_test), first)
    if chunk == 0:
        tl.store(memo + column, high1, there)
        tl.store(memo + D + column, low1, there)
        tl.store(memo + 2 * D + column, high2, there)
        tl.store(memo + 3 * D + column, low2, there)
        tl.store(memo + 4 * D + column, high, there)
        tl.store(memo + 5 * D + column, low, there)
        tl.store(units + block, unit)

    spread = _spread(train, start, stop_train, column, D, high, low, inverse, ROWS)
    spread += _spread(augmented, start, stop_augmented, column, D, high, low, inverse, ROWS)
    spread += _spread(test, start, stop_test, column, D, high, low, inverse, ROWS)
    tl.store(spreads + chunk * blocks + block, spread)

    squares += block
    for row in range(start, stop_test, ROWS):
        numbers, inside = _rows(test, row, stop_test, column, D, ROWS)
        u = _from_mean(numbers, inside, high1, low1, inverse)
        v = _from_mean(numbers, inside, high2, low2, inverse)
        place = (row + tl.arange(0, ROWS)).to(tl.int64)
        tl.store(squares + place * blocks, tl.sum(u * u, 1), place < stop_test)
        place_v = (place + n_test) * blocks
        tl.store(squares + place_v, tl.sum(v * v, 1), place < stop_test)


@triton.jit
def _distances(
    squares, units, inverse, row, n_test, terms, ROWS: tl.constexpr, TERMS: tl.constexpr
):
    """Distances (ROWS,) of test rows in the common unit, from their squares in the blocks' own."""
    place = (row + tl.arange(0, ROWS))[:, None]
    total = tl.zeros((ROWS, TERMS), squares.dtype.element_ty)
    for first in range(0, terms, TERMS):
        term = (first + tl.arange(0, TERMS))[None, :]
        scale = tl.load(units + term, term < terms, 0.0) * inverse
        there = (place < n_test) & (term < terms)
        total += tl.load(squares + place.to(tl.int64) * terms + term, there, 0.0) * scale * scale
    return _root(tl.sum(total, 1))


@triton.jit
def _largest_unit(units, terms, TERMS: tl.constexpr):
    """The largest of the blocks' units."""
    unit = tl.zeros((TERMS,), units.dtype.element_ty)
    for first in range(0, terms, TERMS):
        term = first + tl.arange(0, TERMS)
        unit = tl.maximum(unit, tl.load(units + term, term < terms, 0.0))
    return tl.max(unit)


@triton.jit
def _units(
    test,
    squares,
    spreads,
    units,
    memo,
    sums,
    loss,
    rows,
    n_test,
    D,
    blocks,
    terms,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TERMS: tl.constexpr,
    LOSS_ROWS: tl.constexpr,
):
    """Sums (chunks, 2, D) of the unit vectors to the test rows; and, in one program, the loss.

    ``squares`` (2, n_test, terms), ``spreads`` (terms,) and ``units`` (terms,) are to be summed.
    """
    unit, inverse = _unit(_largest_unit(units, terms, TERMS))
    chunk, block = _place(blocks + 1)
    if block == blocks:
        if chunk == 0:
            total = tl.zeros((LOSS_ROWS,), tl.float64)
            for row in range(0, n_test, LOSS_ROWS):
                d1 = _distances(squares, units, inverse, row, n_test, terms, LOSS_ROWS, TERMS)
                other = squares + tl.cast(n_test, tl.int64) * terms
                d2 = _distances(other, units, inverse, row, n_test, terms, LOSS_ROWS, TERMS)
                total += d1.to(tl.float64) + d2.to(tl.float64)
            spread = tl.zeros((TERMS,), tl.float64)
            for first in range(0, terms, TERMS):
                term = first + tl.arange(0, TERMS)
                scale = (tl.load(units + term, term < terms, 0.0) * inverse).to(tl.float64)
                spread += tl.load(spreads + term, term < terms, 0.0) * scale * scale
            norm = tl.sqrt(tl.sum(spread))
            safe = tl.where(norm == 0, 1.0, norm)
            value = tl.sum(total) / (2.0 * n_test) * tl.sqrt(tl.cast(rows, tl.float64)) / safe
            tl.store(loss, value)
            tl.store(memo + 8 * D, value)
            tl.store(memo + 8 * D + 1, norm)
            tl.store(memo + 8 * D + 2, unit)
            tl.store(memo + 8 * D + 3, 0.0)
    else:
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        there = column < D
        high1 = tl.load(memo + column, there, 0.0)
        low1 = tl.load(memo + D + column, there, 0.0)
        high2 = tl.load(memo + 2 * D + column, there, 0.0)
        low2 = tl.load(memo + 3 * D + column, there, 0.0)
        total1 = tl.zeros((COLUMNS,), tl.float64)
        total2 = tl.zeros((COLUMNS,), tl.float64)
        start = chunk * CHUNK
        stop = min(start + CHUNK, n_test)
        for row in range(start, stop, ROWS):
            d1 = _distances(squares, units, inverse, row, n_test, terms, ROWS, TERMS)
            other = squares + tl.cast(n_test, tl.int64) * terms
            d2 = _distances(other, units, inverse, row, n_test, terms, ROWS, TERMS)
            numbers, inside = _rows(test, row, stop, column, D, ROWS)
            u = _from_mean(numbers, inside, high1, low1, inverse)
            v = _from_mean(numbers, inside, high2, low2, inverse)
            unit1 = _quotient(u, tl.where(d1 == 0, 1.0, d1)[:, None])
            total1 += tl.sum(unit1, 0).to(tl.float64)
            unit2 = _quotient(v, tl.where(d2 == 0, 1.0, d2)[:, None])
            total2 += tl.sum(unit2, 0).to(tl.float64)
        place = chunk * 2 * D + column
        tl.store(sums + place, total1, there)
        tl.store(sums + place + D, total2, there)


@triton.jit
def _pull(
    rows,
    result,
    first_row,
    n,
    memo,
    grad,
    total_rows,
    n_test,
    D,
    sum_of_units,
    IS_TEST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradients of a few rows; ``sum_of_units`` points at what pulls at the mean of their set."""
    loss = tl.load(memo + 8 * D)
    norm = tl.load(memo + 8 * D + 1)
    _, inverse = _unit(tl.load(memo + 8 * D + 2))
    equal = norm == 0
    safe = tl.where(equal, 1.0, norm)
    share = tl.sqrt(tl.cast(total_rows, tl.float64)) / (2.0 * n_test * safe.to(tl.float64))
    share = share.to(norm.dtype)
    scale = tl.load(grad) * inverse
    inward = _quotient(_quotient(loss, safe), safe)
    if IS_TEST:
        square1 = tl.zeros((ROWS, COLUMNS), norm.dtype)
        square2 = tl.zeros((ROWS, COLUMNS), norm.dtype)
        for first in range(0, D, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            numbers, inside = _rows(rows, first_row, n, column, D, ROWS)
            high = tl.load(memo + column, column < D, 0.0)
            low = tl.load(memo + D + column, column < D, 0.0)
            away = _from_mean(numbers, inside, high, low, inverse)
            square1 += away * away
            high = tl.load(memo + 2 * D + column, column < D, 0.0)
            low = tl.load(memo + 3 * D + column, column < D, 0.0)
            away = _from_mean(numbers, inside, high, low, inverse)
            square2 += away * away
        d1, d2 = _root(tl.sum(square1, 1)), _root(tl.sum(square2, 1))
        per1 = _quotient(share, tl.where(d1 == 0, 1.0, d1))[:, None]
        per2 = _quotient(share, tl.where(d2 == 0, 1.0, d2))[:, None]
    for first in range(0, D, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        numbers, inside = _rows(rows, first_row, n, column, D, ROWS)
        high = tl.load(memo + 4 * D + column, column < D, 0.0)
        low = tl.load(memo + 5 * D + column, column < D, 0.0)
        pull = -inward * _from_mean(numbers, inside, high, low, inverse)
        if IS_TEST:
            high = tl.load(memo + column, column < D, 0.0)
            low = tl.load(memo + D + column, column < D, 0.0)
            pull += _from_mean(numbers, inside, high, low, inverse) * per1
            high = tl.load(memo + 2 * D + column, column < D, 0.0)
            low = tl.load(memo + 3 * D + column, column < D, 0.0)
            pull += _from_mean(numbers, inside, high, low, inverse) * per2
        else:
            pull -= (tl.load(sum_of_units + column, column < D, 0.0) * (share / n))[None, :]
        place = (first_row + tl.arange(0, ROWS)).to(tl.int64)[:, None] * D + column[None, :]
        tl.store(result + place, tl.where(equal, 0.0, pull * scale), inside)


@triton.jit
def _backward(
    grad,
    memo,
    train,
    augmented,
    test,
    grad_train,
    grad_augmented,
    grad_test,
    n_train,
    n_augmented,
    n_test,
    D,
    train_programs,
    augmented_programs,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradients of the three sets; programs for train come first, then augmented, then test."""
    total = n_train + n_augmented + n_test
    i = tl.program_id(0)
    j = i - train_programs
    k = j - augmented_programs
    if j < 0:
        _pull(
            train, grad_train, i * ROWS, n_train, memo, grad, total, n_test, D,
            memo + 6 * D, False, ROWS, COLUMNS,
        )  # fmt: skip
    elif k < 0:
        _pull(
            augmented, grad_augmented, j * ROWS, n_augmented, memo, grad, total, n_test, D,
            memo + 7 * D, False, ROWS, COLUMNS,
        )  # fmt: skip
    else:
        _pull(
            test, grad_test, k * ROWS, n_test, memo, grad, total, n_test, D,
            memo, True, ROWS, COLUMNS,
        )  # fmt: skip


CHUNK = 2048  # rows that one program takes of each set
COLUMNS = 32  # of a block


class Plan(NamedTuple):
    """How the forward divides sets into blocks of columns and chunks of rows."""

    blocks: int
    chunks: int
    rows: int  # of a tile
    warps: int


def plan(rows: int, dimensions: int, double: bool) -> Plan:
    """For sets of up to ``rows`` rows.

    16 numbers for each thread, 8 in float64. One chunk is a matter of latency: tall tiles then.
    """
    blocks, chunks = triton.cdiv(dimensions, COLUMNS), triton.cdiv(rows, CHUNK)
    if double or dimensions == 1:  # what a thread's registers hold
        return Plan(blocks, chunks, 32, 4)
    return Plan(blocks, chunks, *((256, 16) if chunks == 1 else (128, 8)))


def mean_distance_loss(train: Tensor, augmented: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """The loss (), and the ``memo`` (8 D + 4,) for the backward. Two launches for up to CHUNK rows.

    Args:
        train, augmented, test: (N_trn, D), (N_aug, D), (N_test, D), contiguous, each N >= 1;
            float32 or float64.
    """
    counts, dimensions = [len(train), len(augmented), len(test)], train.shape[1]
    loss, memo = train.new_empty(()), train.new_empty(8 * dimensions + 4)
    if dimensions == 0:
        return loss.zero_(), memo.zero_()
    blocks, chunks, rows, warps = plan(max(counts), dimensions, train.dtype == torch.float64)
    squares = train.new_empty(2, counts[2], blocks)
    spreads = train.new_empty((chunks, blocks), dtype=torch.float64)
    units = train.new_empty(blocks)
    sums = train.new_empty((chunks, 3, dimensions), dtype=torch.float64)
    largest = train.new_empty(chunks, dimensions)
    tile = {"CHUNK": CHUNK, "ROWS": rows, "COLUMNS": COLUMNS, "num_warps": warps}
    if chunks > 1:
        _sums[(blocks * chunks,)](
            train, augmented, test, sums, largest, *counts, dimensions, blocks, **tile
        )
        sums, largest = sums.sum(0), largest.amax()
    _squares[(blocks * chunks,)](
        train, augmented, test, sums, largest, memo, squares, spreads, units, *counts, dimensions,
        blocks, CHUNKED=chunks > 1, **tile,
    )  # fmt: skip
    pulls = memo[6 * dimensions : 8 * dimensions]
    terms, parts, test_chunks = blocks, pulls, triton.cdiv(counts[2], CHUNK)
    if chunks > 1:  # all units are the same then
        terms, parts = 1, train.new_empty(test_chunks, 2 * dimensions)
        squares, spreads = squares.sum(2), spreads.sum()
    block = min(triton.next_power_of_2(terms), 16)
    _units[((blocks + 1) * test_chunks,)](
        test, squares, spreads, units, memo, parts, loss, sum(counts), counts[2], dimensions,
        blocks, terms, TERMS=block, LOSS_ROWS=16 * rows // block, **tile,
    )  # fmt: skip
    if chunks > 1:
        torch.sum(parts, 0, out=pulls)
    return loss, memo


def mean_distance_loss_backward(
    grad: Tensor,
    memo: Tensor,
    train: Tensor,
    augmented: Tensor,
    test: Tensor,
    needed: list[bool],
) -> tuple[Tensor, ...]:
    """Gradients of the sets that are ``needed``; the others are empty. One launch.

    Args:
        grad: ().
        memo: of the forward, (8 D + 4,).
        train, augmented, test: as for :func:`mean_distance_loss`.
        needed: whether they need a gradient.
    """
    sets, dimensions = (train, augmented, test), train.shape[1]
    grads = tuple(
        torch.empty_like(rows) if wanted else rows.new_empty(0)
        for rows, wanted in zip(sets, needed, strict=True)
    )
    if not dimensions or not any(needed):
        return grads
    columns = min(triton.next_power_of_2(dimensions), 512)
    rows = min(2048 // columns, 64)
    programs = [triton.cdiv(len(s), rows) if w else 0 for s, w in zip(sets, needed, strict=True)]
    _backward[(sum(programs),)](
        grad, memo, *sets, *grads, *(len(s) for s in sets), dimensions, *programs[:2],
        ROWS=rows, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return grads
