"""Launch plans: functions of sizes alone, for sizes that no machine here could hold too."""

import pytest
from stssad_fast.kernels import cutdiff, mean_distance

AXES = (2**31 - 1, 65535)  # the most programs that CUDA starts along each axis of a grid

SIZES = [  # pictures, height, elements of a row
    (1, 1, 1),
    (256, 256, 256),
    (64, 32, 96),
    (3, 33, 225),
    (70_000, 512, 512),
    (2**20, 4096, 4096),
    (1, 2**20, 2**22),
    (1, 1, 2**40),
    (1, 2**40, 1),
    (2**31 - 1, 1, 1),
    (2**31, 1, 1),
    (2**31 + 12345, 2, 3),
    (2**33, 33, 3),
]


@pytest.mark.parametrize("largest", [cutdiff.FORWARD, cutdiff.BACKWARD, cutdiff.DOUBLE])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tiles_of_pictures(size, largest):
    pictures, height, elements = size
    plan = cutdiff.plan(*size, largest)
    assert all(0 < n <= most for n, most in zip(plan.grid, AXES, strict=True))
    needed = pictures * plan.row_tiles * plan.column_tiles
    assert needed <= plan.grid[0] * plan.grid[1] < needed + plan.grid[1]
    assert plan.row_tiles * plan.rows >= height > (plan.row_tiles - 1) * plan.rows
    assert plan.column_tiles * plan.columns >= elements > (plan.column_tiles - 1) * plan.columns
    assert plan.rows * plan.columns <= largest
    assert plan.columns == 128 or plan.column_tiles == 1
    for side in (plan.rows, plan.columns, plan.warps):
        assert side & (side - 1) == 0


@pytest.mark.parametrize("groups", [1, 2, 256, 70_000, 2**31, 2**33])
@pytest.mark.parametrize("length", [1, 3, 16, 1000, 5000, 2**33])
def test_sums_of_parts(groups, length):
    programs, block, parts = cutdiff.plan_sum(groups, length)
    if groups * length < 2**40:  # tiles of up to 2048 elements each
        assert 0 < programs <= AXES[0]
    assert programs * block >= groups > (programs - 1) * block
    assert block * parts <= 1024
    assert parts == 1024 or parts >= length
    for side in (block, parts):
        assert side & (side - 1) == 0


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("rows", [1, 256, 2048, 2049, 100_000, 2**31 - 1])
@pytest.mark.parametrize("dimensions", [1, 32, 33, 512, 2048, 100_000])
def test_blocks_and_chunks_of_sets(rows, dimensions, double):
    plan = mean_distance.plan(rows, dimensions, double)
    assert plan.blocks * mean_distance.COLUMNS >= dimensions
    assert (plan.blocks - 1) * mean_distance.COLUMNS < dimensions
    assert plan.chunks * mean_distance.CHUNK >= rows > (plan.chunks - 1) * mean_distance.CHUNK
    if rows * dimensions < 2**45:  # 64 TB in float32
        assert (plan.blocks + 1) * plan.chunks <= AXES[0]
    assert mean_distance.CHUNK % plan.rows == 0


def test_the_papers_sizes_have_one_chunk():
    assert mean_distance.plan(256, 512, False)[:2] == (16, 1)
