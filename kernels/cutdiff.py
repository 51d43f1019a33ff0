"""CutDiff in Triton: the picture, and its gradients for image, shape and centre.

A program takes one tile of one picture through all channels, so that the patch is computed once.
Where channels lie innermost in memory (channels-last), W and C are one axis of W * C elements, and
a column of the picture repeats C times; there is a single plane then.

Arithmetic is that of ``shape``: float32, or float64 for float64 pictures. What a picture or a row
of it has in common is computed in float64, and columns are counted from the pixel that is nearest
to the patch's axis on that row, so that float32 keeps its digits however small the patch is.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _tile(row_tiles, column_tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Number of this program, and its picture, first row and first element in the row."""
    program = tl.program_id(0).to(tl.int64) + tl.program_id(1).to(tl.int64) * tl.num_programs(0)
    band = program // column_tiles
    picture = band // row_tiles
    return program, picture, band % row_tiles * ROWS, program % column_tiles * COLUMNS


@triton.jit
def _patch(
    shape,
    center,
    height,
    width,
    first_row,
    first_element,
    DTYPE: tl.constexpr,
    SMALLEST: tl.constexpr,
    CUTOFF: tl.constexpr,
    REPEAT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Patch ``p`` and ``near``, where it is not 0 (ROWS, COLUMNS); ``w = L^-1 (g - center)``.

    ``w1`` (ROWS,) is in float64, ``w2`` (ROWS, COLUMNS) in DTYPE; both are 0 where they are of no
    use because ``p`` is 0. Then come ``1 / l11`` and ``1 / l22``, 1 for a singular shape.
    """
    l11 = tl.load(shape).to(tl.float64)
    l21 = tl.load(shape + 1).to(tl.float64)
    l22 = tl.load(shape + 2).to(tl.float64)
    center_row = tl.load(center).to(tl.float64)
    center_column = tl.load(center + 1).to(tl.float64)
    regular = (tl.abs(l11) > SMALLEST) & (tl.abs(l22) > SMALLEST)  # False for NaN
    per_l11 = 1.0 / tl.where(regular, l11, 1.0)
    per_l22 = 1.0 / tl.where(regular, l22, 1.0)

    w1 = (tl.arange(0, ROWS) + (first_row + 1 - center_row * height)) * (per_l11 / height)
    first_column = first_element // REPEAT
    column = (tl.arange(0, COLUMNS) + (first_element % REPEAT).to(tl.int32)) // REPEAT + 1
    # The patch's axis on each row, in columns from the tile's first, as a pixel and the rest.
    axis = center_column * width - first_column + w1 * (l21 * width)
    pixel = tl.floor(tl.minimum(tl.maximum(axis, -1073741824.0), 1073741824.0) + 0.5)
    scale = per_l22 / width
    rest = ((axis - pixel) * scale).to(DTYPE)
    steps = (column[None, :] - pixel.to(tl.int32)[:, None]).to(DTYPE)
    w2 = steps * scale.to(DTYPE) - rest[:, None]

    square = (w1 * w1).to(DTYPE)[:, None] + w2 * w2
    near = square < tl.where(regular, CUTOFF, 0.0)  # False for Inf and NaN
    p = tl.where(near, tl.exp(-square), 0.0)
    w1 = tl.where(w1 * w1 < CUTOFF, w1, 0.0)
    return p, near, w1, tl.where(near, w2, 0.0), per_l11, per_l22


@triton.jit
def _inside(height, elements, first_row, first_element, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Which elements of a tile exist (ROWS, COLUMNS)."""
    rows = tl.minimum(height - first_row, ROWS).to(tl.int32)
    columns = tl.minimum(elements - first_element, COLUMNS).to(tl.int32)
    return (tl.arange(0, ROWS) < rows)[:, None] & (tl.arange(0, COLUMNS) < columns)[None, :]


@triton.jit
def _offsets(
    row_stride, element_stride, OFFSET: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Where the elements of a tile lie from its first one (ROWS, COLUMNS)."""
    row = tl.arange(0, ROWS).to(OFFSET)[:, None]
    return row * row_stride + tl.arange(0, COLUMNS).to(OFFSET)[None, :] * element_stride


@triton.jit
def _channel(first_element, REPEAT: tl.constexpr, COLUMNS: tl.constexpr):
    """Channel of each element of a row (1, COLUMNS) in the first plane."""
    return ((tl.arange(0, COLUMNS) + (first_element % REPEAT).to(tl.int32)) % REPEAT)[None, :]


@triton.jit
def _reciprocal(std, TINY: tl.constexpr):
    """``1 / std``. Subnormal ones count as the smallest normal number, so that 0 / std is 0."""
    value = tl.load(std)
    return 1.0 / tl.where(tl.abs(value) < TINY, TINY, value)


@triton.jit
def _forward(
    image,
    result,
    shape,
    center,
    mean,
    std,
    pictures,
    planes,
    height,
    width,
    shape_stride,
    center_stride,
    image_picture,
    image_plane,
    image_row,
    image_element,
    result_picture,
    result_plane,
    result_row,
    result_element,
    row_tiles,
    column_tiles,
    OFFSET: tl.constexpr,
    DTYPE: tl.constexpr,
    SMALLEST: tl.constexpr,
    CUTOFF: tl.constexpr,
    TINY: tl.constexpr,
    NORMALIZE: tl.constexpr,
    REPEAT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``clamp(image - p, 0, 1)``, normalised where asked; 2 passes of traffic. NaN stays NaN."""
    _, picture, row, element = _tile(row_tiles, column_tiles, ROWS, COLUMNS)
    if picture >= pictures:
        return
    shape += picture * shape_stride
    center += picture * center_stride
    p, _, _, _, _, _ = _patch(
        shape, center, height, width, row, element, DTYPE, SMALLEST, CUTOFF, REPEAT, ROWS, COLUMNS
    )
    inside = _inside(height, width * REPEAT, row, element, ROWS, COLUMNS)
    source = _offsets(image_row, image_element, OFFSET, ROWS, COLUMNS)
    target = _offsets(result_row, result_element, OFFSET, ROWS, COLUMNS)
    image += picture * image_picture + row * image_row + element * image_element
    result += picture * result_picture + row * result_row + element * result_element
    channel = _channel(element, REPEAT, COLUMNS)
    for _ in range(planes):
        cut = tl.load(image + source, inside, 0.0).to(DTYPE) - p
        cut = tl.where(cut < 0, 0.0, tl.where(cut > 1, 1.0, cut))
        if NORMALIZE:
            cut = (cut - tl.load(mean + channel)) * _reciprocal(std + channel, TINY)
            channel += 1
        tl.store(result + target, cut.to(result.dtype.element_ty), inside)
        image += image_plane
        result += result_plane


@triton.jit
def _saturated(value, LARGEST: tl.constexpr):
    """``value`` between -LARGEST and LARGEST; NaN stays (``tl.clamp`` fails at that in float64)."""
    return tl.where(value > LARGEST, LARGEST, tl.where(value < -LARGEST, -LARGEST, value))


@triton.jit
def _backward(
    grad,
    image,
    grad_image,
    parts,
    shape,
    center,
    std,
    pictures,
    planes,
    height,
    width,
    shape_stride,
    center_stride,
    grad_picture,
    grad_plane,
    grad_row,
    grad_element,
    image_picture,
    image_plane,
    image_row,
    image_element,
    result_picture,
    result_plane,
    result_row,
    result_element,
    row_tiles,
    column_tiles,
    OFFSET: tl.constexpr,
    DTYPE: tl.constexpr,
    SMALLEST: tl.constexpr,
    CUTOFF: tl.constexpr,
    TINY: tl.constexpr,
    SCALE: tl.constexpr,
    LIMIT: tl.constexpr,
    NEED_IMAGE: tl.constexpr,
    NEED_PARTS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    REPEAT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The image's gradient ``G``, and what the tile adds to half of those for shape and centre.

    ``parts`` (5, tiles) in float64, of ``l11, l21, l22`` and the centre's row and column. They
    come from the moments ``s11, s12, s22, s1, s2``: sums of ``pG`` times ``w1^2, w1 w2, w2^2, w1,
    w2``. Where only they are needed, no row is read that the patch does not reach.
    """
    program, picture, row, element = _tile(row_tiles, column_tiles, ROWS, COLUMNS)
    if picture >= pictures:
        return
    shape += picture * shape_stride
    center += picture * center_stride
    p, near, w1, w2, per_l11, per_l22 = _patch(
        shape, center, height, width, row, element, DTYPE, SMALLEST, CUTOFF, REPEAT, ROWS, COLUMNS
    )
    inside = _inside(height, width * REPEAT, row, element, ROWS, COLUMNS)
    incoming = _offsets(grad_row, grad_element, OFFSET, ROWS, COLUMNS)
    source = _offsets(image_row, image_element, OFFSET, ROWS, COLUMNS)
    target = _offsets(result_row, result_element, OFFSET, ROWS, COLUMNS)
    grad += picture * grad_picture + row * grad_row + element * grad_element
    image += picture * image_picture + row * image_row + element * image_element
    grad_image += picture * result_picture + row * result_row + element * result_element
    near &= inside
    wanted = inside
    if not NEED_IMAGE:
        wanted &= (tl.max(near.to(tl.int32), 1) > 0)[:, None]  # whole rows: loads stay wide
    total = tl.zeros((ROWS, COLUMNS), DTYPE)
    channel = _channel(element, REPEAT, COLUMNS)
    for _ in range(planes):
        cut = tl.load(image + source, wanted, 0.0).to(DTYPE) - p
        passed = tl.load(grad + incoming, wanted, 0.0).to(DTYPE)
        if NORMALIZE:
            passed *= _reciprocal(std + channel, TINY)
            channel += 1
        passed = tl.where((cut > 0) & (cut < 1), passed, 0.0)
        if NEED_IMAGE:
            tl.store(grad_image + target, passed.to(grad_image.dtype.element_ty), inside)
            grad_image += result_plane
        total += passed * SCALE
        grad += grad_plane
        image += image_plane

    if NEED_PARTS:
        # Scaled and limited, so that no sum overflows: Inf - Inf would be NaN.
        weight = tl.where(near, p * _saturated(total, LIMIT), 0.0)
        m0 = tl.sum(weight, 1).to(tl.float64)  # (ROWS,), as are the next two
        m1 = tl.sum(weight * w2, 1).to(tl.float64)
        m2 = tl.sum(weight * w2 * w2, 1).to(tl.float64)
        s11, s12, s22 = tl.sum(m0 * w1 * w1), tl.sum(m1 * w1), tl.sum(m2)
        s1, s2 = tl.sum(m0 * w1), tl.sum(m1)
        l21 = tl.load(shape + 1).to(tl.float64)
        tiles = tl.cast(pictures, tl.int64) * row_tiles * column_tiles
        parts += program
        tl.store(parts, (s12 * per_l22 * l21 - s11) * per_l11)
        tl.store(parts + tiles, -s12 * per_l22)
        tl.store(parts + 2 * tiles, -s22 * per_l22)
        tl.store(parts + 3 * tiles, (s2 * per_l22 * l21 - s1) * per_l11)
        tl.store(parts + 4 * tiles, -s2 * per_l22)


@triton.jit
def _sum(
    parts,
    result,
    step,
    groups,
    length,
    FACTOR: tl.constexpr,
    LARGEST: tl.constexpr,
    GROUPS: tl.constexpr,
    LENGTH: tl.constexpr,
):
    """Sums of ``length`` neighbouring parts each, in a fixed order; ``step`` between results."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    total = tl.zeros((GROUPS, LENGTH), tl.float64)
    for first in range(0, length, LENGTH):
        part = first + tl.arange(0, LENGTH)
        there = (group < groups)[:, None] & (part < length)[None, :]
        total += tl.load(parts + group[:, None] * length + part[None, :], there, 0.0)
    value = _saturated(tl.sum(total, 1) * FACTOR, LARGEST)
    tl.store(result + group * step, value, group < groups)


@triton.jit
def _gather(
    parts,
    grad_shape,
    grad_center,
    tiles,
    shapes,
    shape_tiles,
    centers,
    center_tiles,
    FACTOR: tl.constexpr,
    LARGEST: tl.constexpr,
    NEED_SHAPE: tl.constexpr,
    NEED_CENTER: tl.constexpr,
    SHAPES: tl.constexpr,
    SHAPE_TILES: tl.constexpr,
    CENTERS: tl.constexpr,
    CENTER_TILES: tl.constexpr,
):
    """Gradients for shape and centre from the parts of all tiles; program (i, k) does number k."""
    k = tl.program_id(1)
    parts += k.to(tl.int64) * tiles
    if k < 3:
        if NEED_SHAPE:
            _sum(
                parts,
                grad_shape + k,
                3,
                shapes,
                shape_tiles,
                FACTOR,
                LARGEST,
                SHAPES,
                SHAPE_TILES,
            )
    else:
        if NEED_CENTER:
            _sum(
                parts,
                grad_center + k - 3,
                2,
                centers,
                center_tiles,
                FACTOR,
                LARGEST,
                CENTERS,
                CENTER_TILES,
            )


FORWARD, BACKWARD, DOUBLE = 4096, 2048, 1024  # elements of the largest tile


class Plan(NamedTuple):
    """How a launch divides pictures into tiles."""

    grid: tuple[int, int]  # one program a tile; the second axis for more than 2^31 - 1 of them
    row_tiles: int
    column_tiles: int  # a picture has row_tiles * column_tiles
    rows: int
    columns: int  # of a tile
    warps: int


def plan(pictures: int, height: int, elements: int, largest: int) -> Plan:
    """Tiles of up to ``largest`` elements, at most 128 wide, for 8 warps.

    FORWARD, BACKWARD and DOUBLE are what the registers hold. A picture that is smaller is one
    tile; up to half of the largest tile has 4 warps.
    """
    columns = min(triton.next_power_of_2(elements), 128)
    rows = min(triton.next_power_of_2(height), largest // columns)
    row_tiles, column_tiles = triton.cdiv(height, rows), triton.cdiv(elements, columns)
    programs = pictures * row_tiles * column_tiles
    layers = triton.cdiv(programs, 2**31 - 1)
    grid = (triton.cdiv(programs, layers), layers) if programs else (0, 0)
    return Plan(
        grid, row_tiles, column_tiles, rows, columns, 8 if 2 * rows * columns > largest else 4
    )


def plan_sum(groups: int, length: int) -> tuple[int, int, int]:
    """Programs of the second stage, and the groups and parts of each that one reads at a time."""
    parts = min(triton.next_power_of_2(length), 1024)
    block = min(triton.next_power_of_2(groups), 1024 // parts)
    return triton.cdiv(groups, block), block, parts


def _strides(*tensors: Tensor) -> tuple[int, list[tuple[int, int, int, int]]]:
    """How often a column repeats, and strides for picture, plane, row and element of a row."""
    channels = tensors[0].shape[1]
    strides = [tensor.stride() for tensor in tensors]
    together = channels > 1 and strides[0][1] == 1 and all(s[3] == channels * s[1] for s in strides)
    if together:
        return channels, [(b, 0, h, c) for b, c, h, _ in strides]
    return 1, [(b, c, h, w) for b, c, h, w in strides]


def _offset(tiling: Plan, *strides: tuple[int, int, int, int]) -> tl.dtype:
    """int32 for offsets within a tile, unless the strides are so large that one overflows."""
    farthest = max(tiling.rows * h + tiling.columns * w for _, _, h, w in strides)
    return tl.int64 if farthest >= 2**31 else tl.int32


def _constants(shape: Tensor) -> dict[str, object]:
    """Arithmetic dtype and its smallest normal number; where a shape and a patch end."""
    double = shape.dtype == torch.float64
    tiny = torch.finfo(shape.dtype).tiny
    return {
        "DTYPE": tl.float64 if double else tl.float32,
        "SMALLEST": tiny**0.25,
        "CUTOFF": -2 * math.log(torch.finfo(shape.dtype).eps),
        "TINY": tiny,
    }


def cutdiff(
    image: Tensor,
    shape: Tensor,
    center: Tensor,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """``clamp(image - p, 0, 1)``, laid out like ``torch.empty_like(image)``; one launch.

    Args:
        image: (B, C, H, W), any strides; float16, bfloat16, float32 or float64.
        shape: (1 or B, 3), float32, or float64 for float64 images.
        center: (1 or B, 2), dtype of ``shape``.
        mean, std: (C,), dtype of ``shape``: the result is normalised by them; None: it is not.
    """
    result = torch.empty_like(image)
    pictures, channels, height, width = image.shape
    repeat, (image_strides, result_strides) = _strides(image, result)
    if not image.numel():
        return result
    largest = DOUBLE if shape.dtype == torch.float64 else FORWARD
    tiling = plan(pictures, height, width * repeat, largest)
    _forward[tiling.grid](
        image,
        result,
        shape.contiguous(),
        center.contiguous(),
        shape if mean is None else mean,
        shape if std is None else std,
        pictures,
        channels // repeat,
        height,
        width,
        3 if len(shape) > 1 else 0,
        2 if len(center) > 1 else 0,
        *image_strides,
        *result_strides,
        tiling.row_tiles,
        tiling.column_tiles,
        OFFSET=_offset(tiling, image_strides, result_strides),
        **_constants(shape),
        NORMALIZE=std is not None,
        REPEAT=repeat,
        ROWS=tiling.rows,
        COLUMNS=tiling.columns,
        num_warps=tiling.warps,
    )
    return result


def cutdiff_backward(
    grad: Tensor,
    image: Tensor,
    shape: Tensor,
    center: Tensor,
    needed: list[bool],
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for image, shape and centre, those that are ``needed``; the others are empty.

    One launch for the image's gradient and each tile's part of the others, a second one sums these.
    It has no atomics: the same arguments give the same bits.

    Args:
        grad: (B, C, H, W), any strides, 0 included.
        image, shape, center: as for :func:`cutdiff`.
        needed: whether image, shape and center need a gradient.
        mean, std: as for :func:`cutdiff`.
    """
    need_image, need_shape, need_center = needed
    need_parts = need_shape or need_center
    grad_image = torch.empty_like(image) if need_image else image.new_empty(0)
    grad_shape = torch.empty_like(shape) if need_shape else shape.new_empty(0)
    grad_center = torch.empty_like(center) if need_center else center.new_empty(0)
    if not image.numel():
        return grad_image, grad_shape.zero_(), grad_center.zero_()
    shape, center = shape.contiguous(), center.contiguous()
    shape_stride, center_stride = 3 if len(shape) > 1 else 0, 2 if len(center) > 1 else 0

    pictures, channels, height, width = image.shape
    repeat, strides = _strides(image, grad, grad_image if need_image else image)
    image_strides, grad_strides, result_strides = strides
    double = shape.dtype == torch.float64
    tiling = plan(pictures, height, width * repeat, DOUBLE if double else BACKWARD)
    tiles = tiling.row_tiles * tiling.column_tiles
    parts = shape.new_empty((5, pictures * tiles if need_parts else 0), dtype=torch.float64)
    constants = _constants(shape)
    largest, scale = torch.finfo(shape.dtype).max, 2.0**-40 if double else 2.0**-16
    if any(needed):
        _backward[tiling.grid](
            grad,
            image,
            grad_image,
            parts,
            shape,
            center,
            shape if std is None else std,
            pictures,
            channels // repeat,
            height,
            width,
            shape_stride,
            center_stride,
            *grad_strides,
            *image_strides,
            *result_strides,
            tiling.row_tiles,
            tiling.column_tiles,
            OFFSET=_offset(tiling, *strides),
            **constants,
            SCALE=scale,
            LIMIT=largest * scale**0.5,
            NEED_IMAGE=need_image,
            NEED_PARTS=need_parts,
            NORMALIZE=std is not None,
            REPEAT=repeat,
            ROWS=tiling.rows,
            COLUMNS=tiling.columns,
            num_warps=tiling.warps,
        )
    if need_parts:
        # A gradient for all pictures together is that of one with all their tiles.
        shapes, centers = len(shape), len(center)
        shape_tiles, center_tiles = parts.shape[1] // shapes, parts.shape[1] // centers
        shape_programs, shape_block, shape_parts = plan_sum(shapes, shape_tiles)
        center_programs, center_block, center_parts = plan_sum(centers, center_tiles)
        shape_sums, center_sums = grad_shape.contiguous(), grad_center.contiguous()
        _gather[(max(shape_programs, center_programs), 5)](
            parts,
            shape_sums,
            center_sums,
            parts.shape[1],
            shapes,
            shape_tiles,
            centers,
            center_tiles,
            FACTOR=2 / scale,
            LARGEST=largest,
            NEED_SHAPE=need_shape,
            NEED_CENTER=need_center,
            SHAPES=shape_block,
            SHAPE_TILES=shape_parts,
            CENTERS=center_block,
            CENTER_TILES=center_parts,
            num_warps=4,
        )
        for result, sums in ((grad_shape, shape_sums), (grad_center, center_sums)):
            if sums is not result:
                result.copy_(sums)
    return grad_image, grad_shape, grad_center
