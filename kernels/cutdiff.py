"""CutDiff in Triton: the picture, and its gradients for image, shape and centre.

A program takes one tile of one picture through all channels, so that the patch is computed once.
Where channels lie innermost in memory (channels-last), W and C are one axis of W * C elements, and
a column of the picture repeats C times; there is a single plane then.

Arithmetic is that of ``shape``: float32, or float64 for float64 pictures. What a picture or a row
of it has in common is computed in float64, and columns are counted from the pixel that is nearest
to the patch's axis on that row, so that float32 keeps its digits however small the patch is.
"""

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
    use because ``p`` is 0.
    """
    l11 = tl.load(shape).to(tl.float64)
    l21 = tl.load(shape + 1).to(tl.float64)
    l22 = tl.load(shape + 2).to(tl.float64)
    center_row = tl.load(center).to(tl.float64)
    center_column = tl.load(center + 1).to(tl.float64)
    regular = (tl.abs(l11) > SMALLEST) & (tl.abs(l22) > SMALLEST)  # False for NaN
    l11 = tl.where(regular, l11, 1.0)
    l22 = tl.where(regular, l22, 1.0)

    row = first_row + tl.arange(0, ROWS) + 1
    w1 = (row - center_row * height) * (1.0 / (l11 * height))
    first_column = first_element // REPEAT
    column = (tl.arange(0, COLUMNS) + (first_element % REPEAT).to(tl.int32)) // REPEAT + 1
    # The patch's axis on each row, in columns from the tile's first, as a pixel and the rest.
    axis = center_column * width - first_column + w1 * (l21 * width)
    pixel = tl.floor(tl.minimum(tl.maximum(axis, -1073741824.0), 1073741824.0) + 0.5)
    scale = 1.0 / (l22 * width)
    rest = ((axis - pixel) * scale).to(DTYPE)
    steps = (column[None, :] - pixel.to(tl.int32)[:, None]).to(DTYPE)
    w2 = steps * scale.to(DTYPE) - rest[:, None]

    square = (w1 * w1).to(DTYPE)[:, None] + w2 * w2
    near = square < tl.where(regular, CUTOFF, 0.0)  # False for Inf and NaN
    p = tl.where(near, tl.exp(-square), 0.0)
    return p, near, tl.where(w1 * w1 < CUTOFF, w1, 0.0), tl.where(near, w2, 0.0)


@triton.jit
def _offsets(
    first_row,
    first_element,
    height,
    elements,
    row_stride,
    element_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Where the elements of a tile lie in their plane, and which of them exist."""
    row = (first_row + tl.arange(0, ROWS))[:, None]
    element = (first_element + tl.arange(0, COLUMNS))[None, :]
    return row * row_stride + element * element_stride, (row < height) & (element < elements)


@triton.jit
def _forward(
    image,
    result,
    shape,
    center,
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
    DTYPE: tl.constexpr,
    SMALLEST: tl.constexpr,
    CUTOFF: tl.constexpr,
    REPEAT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``clamp(image - p, 0, 1)``; 2 passes of traffic. NaN stays NaN."""
    _, picture, row, element = _tile(row_tiles, column_tiles, ROWS, COLUMNS)
    if picture >= pictures:
        return
    shape += picture * shape_stride
    center += picture * center_stride
    p, _, _, _ = _patch(
        shape, center, height, width, row, element, DTYPE, SMALLEST, CUTOFF, REPEAT, ROWS, COLUMNS
    )
    elements = width * REPEAT
    source, inside = _offsets(
        row, element, height, elements, image_row, image_element, ROWS, COLUMNS
    )
    target, _ = _offsets(row, element, height, elements, result_row, result_element, ROWS, COLUMNS)
    image += picture * image_picture
    result += picture * result_picture
    for _ in range(planes):
        cut = tl.load(image + source, inside, 0.0).to(DTYPE) - p
        cut = tl.where(cut < 0, 0.0, tl.where(cut > 1, 1.0, cut))
        tl.store(result + target, cut.to(result.dtype.element_ty), inside)
        image += image_plane
        result += result_plane


@triton.jit
def _saturated(value, LARGEST: tl.constexpr):
    """``value`` between -LARGEST and LARGEST; NaN stays, which ``tl.clamp`` cannot say in fp64."""
    return tl.where(value > LARGEST, LARGEST, tl.where(value < -LARGEST, -LARGEST, value))


@triton.jit
def _backward(
    grad,
    image,
    grad_image,
    moments,
    shape,
    center,
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
    DTYPE: tl.constexpr,
    SMALLEST: tl.constexpr,
    CUTOFF: tl.constexpr,
    LIMIT: tl.constexpr,
    NEED_IMAGE: tl.constexpr,
    NEED_MOMENTS: tl.constexpr,
    REPEAT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The image's gradient, and the tile's moments of ``pG``, with ``G`` that gradient.

    ``moments`` (5, tiles) in float64: the sums of ``pG`` times ``w1^2, w1 w2, w2^2, w1, w2``.
    Where only they are needed, nothing is read that the patch does not reach.
    """
    program, picture, row, element = _tile(row_tiles, column_tiles, ROWS, COLUMNS)
    if picture >= pictures:
        return
    shape += picture * shape_stride
    center += picture * center_stride
    p, near, w1, w2 = _patch(
        shape, center, height, width, row, element, DTYPE, SMALLEST, CUTOFF, REPEAT, ROWS, COLUMNS
    )
    elements = width * REPEAT
    source, inside = _offsets(
        row, element, height, elements, image_row, image_element, ROWS, COLUMNS
    )
    incoming, _ = _offsets(row, element, height, elements, grad_row, grad_element, ROWS, COLUMNS)
    target, _ = _offsets(row, element, height, elements, result_row, result_element, ROWS, COLUMNS)
    near &= inside
    wanted = inside
    if not NEED_IMAGE:
        wanted &= (tl.max(near.to(tl.int32), 1) > 0)[:, None]  # whole rows: loads stay wide
    grad += picture * grad_picture
    image += picture * image_picture
    grad_image += picture * result_picture
    total = tl.zeros((ROWS, COLUMNS), DTYPE)
    for _ in range(planes):
        cut = tl.load(image + source, wanted, 0.0).to(DTYPE) - p
        passed = tl.load(grad + incoming, wanted, 0.0).to(DTYPE)
        passed = tl.where((cut > 0) & (cut < 1), passed, 0.0)
        if NEED_IMAGE:
            tl.store(grad_image + target, passed.to(grad_image.dtype.element_ty), inside)
            grad_image += result_plane
        total += passed
        grad += grad_plane
        image += image_plane

    if NEED_MOMENTS:
        # Limited, so that no sum overflows: Inf - Inf would be NaN.
        weight = tl.where(near, p * _saturated(total, LIMIT), 0.0)
        m0 = tl.sum(weight, 1).to(tl.float64)  # (ROWS,), as are the next two
        m1 = tl.sum(weight * w2, 1).to(tl.float64)
        m2 = tl.sum(weight * w2 * w2, 1).to(tl.float64)
        tiles = row_tiles * column_tiles * pictures
        moments += program
        tl.store(moments, tl.sum(m0 * w1 * w1))
        tl.store(moments + tiles, tl.sum(m1 * w1))
        tl.store(moments + 2 * tiles, tl.sum(m2))
        tl.store(moments + 3 * tiles, tl.sum(m0 * w1))
        tl.store(moments + 4 * tiles, tl.sum(m1))


@triton.jit
def _moment(moments, picture, pictures, tiles, PICTURES: tl.constexpr, TILES: tl.constexpr):
    """One moment of each picture (PICTURES,), summed over its tiles in a fixed order."""
    total = tl.zeros((PICTURES, TILES), tl.float64)
    for first in range(0, tiles, TILES):
        tile = first + tl.arange(0, TILES)
        there = (picture < pictures)[:, None] & (tile < tiles)[None, :]
        total += tl.load(moments + picture[:, None] * tiles + tile[None, :], there, 0.0)
    return tl.sum(total, 1)


@triton.jit
def _gather(
    moments,
    shape,
    grad_shape,
    grad_center,
    pictures,
    tiles,
    shape_stride,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    NEED_SHAPE: tl.constexpr,
    NEED_CENTER: tl.constexpr,
    ONE_SHAPE: tl.constexpr,
    ONE_CENTER: tl.constexpr,
    PICTURES: tl.constexpr,
    TILES: tl.constexpr,
):
    """Gradients for shape and centre from the moments of all tiles.

    One program where all pictures share what wants a gradient, else one per PICTURES.
    """
    total11 = tl.zeros((PICTURES,), tl.float64)
    total21 = tl.zeros((PICTURES,), tl.float64)
    total22 = tl.zeros((PICTURES,), tl.float64)
    total_row = tl.zeros((PICTURES,), tl.float64)
    total_column = tl.zeros((PICTURES,), tl.float64)
    stride = tiles * pictures
    blocks = tl.cdiv(pictures, PICTURES)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        picture = tl.cast(block, tl.int64) * PICTURES + tl.arange(0, PICTURES)
        there = picture < pictures
        l11 = tl.load(shape + picture * shape_stride, there, 1.0).to(tl.float64)
        l21 = tl.load(shape + picture * shape_stride + 1, there, 0.0).to(tl.float64)
        l22 = tl.load(shape + picture * shape_stride + 2, there, 1.0).to(tl.float64)
        regular = (tl.abs(l11) > SMALLEST) & (tl.abs(l22) > SMALLEST)
        l11 = tl.where(regular, l11, 1.0)
        l22 = tl.where(regular, l22, 1.0)
        if NEED_SHAPE:
            s11 = _moment(moments, picture, pictures, tiles, PICTURES, TILES)
            s12 = _moment(moments + stride, picture, pictures, tiles, PICTURES, TILES)
            s22 = _moment(moments + 2 * stride, picture, pictures, tiles, PICTURES, TILES)
            grad11 = _saturated(2.0 * (s12 / l22 * l21 - s11) / l11, LARGEST)
            grad21 = _saturated(-2.0 * s12 / l22, LARGEST)
            grad22 = _saturated(-2.0 * s22 / l22, LARGEST)
            if ONE_SHAPE:
                total11 += grad11
                total21 += grad21
                total22 += grad22
            else:
                tl.store(grad_shape + picture * 3, grad11, there)
                tl.store(grad_shape + picture * 3 + 1, grad21, there)
                tl.store(grad_shape + picture * 3 + 2, grad22, there)
        if NEED_CENTER:
            s1 = _moment(moments + 3 * stride, picture, pictures, tiles, PICTURES, TILES)
            s2 = _moment(moments + 4 * stride, picture, pictures, tiles, PICTURES, TILES)
            grad_row = _saturated(2.0 * (s2 / l22 * l21 - s1) / l11, LARGEST)
            grad_column = _saturated(-2.0 * s2 / l22, LARGEST)
            if ONE_CENTER:
                total_row += grad_row
                total_column += grad_column
            else:
                tl.store(grad_center + picture * 2, grad_row, there)
                tl.store(grad_center + picture * 2 + 1, grad_column, there)
    if NEED_SHAPE and ONE_SHAPE:
        tl.store(grad_shape, _saturated(tl.sum(total11), LARGEST))
        tl.store(grad_shape + 1, _saturated(tl.sum(total21), LARGEST))
        tl.store(grad_shape + 2, _saturated(tl.sum(total22), LARGEST))
    if NEED_CENTER and ONE_CENTER:
        tl.store(grad_center, _saturated(tl.sum(total_row), LARGEST))
        tl.store(grad_center + 1, _saturated(tl.sum(total_column), LARGEST))


class Plan(NamedTuple):
    """How a launch divides pictures into tiles."""

    grid: tuple[int, int]  # one program a tile; the second axis for more than 2^31 - 1 of them
    row_tiles: int
    column_tiles: int  # a picture has row_tiles * column_tiles
    rows: int
    columns: int  # of a tile
    warps: int


def plan(pictures: int, height: int, elements: int, double: bool) -> Plan:
    """Tiles of up to 4096 elements, 1024 in float64, and at most 128 wide, for 8 warps.

    That is 16 (4) for each thread, which is what its registers hold. A picture that is smaller is
    one tile; up to a quarter of the largest tile has 4 warps.
    """
    largest = 1024 if double else 4096
    columns = min(triton.next_power_of_2(elements), 128)
    rows = min(triton.next_power_of_2(height), largest // columns)
    row_tiles, column_tiles = triton.cdiv(height, rows), triton.cdiv(elements, columns)
    programs = pictures * row_tiles * column_tiles
    layers = triton.cdiv(programs, 2**31 - 1)
    grid = (triton.cdiv(programs, layers), layers) if programs else (0, 0)
    return Plan(
        grid, row_tiles, column_tiles, rows, columns, 8 if 4 * rows * columns > largest else 4
    )


def plan_gather(pictures: int, tiles: int, shared: bool) -> tuple[int, int, int]:
    """Programs of the second stage, and the pictures and tiles that each reads at a time."""
    at_once = min(triton.next_power_of_2(tiles), 16)
    block = min(triton.next_power_of_2(pictures), 1024 // at_once)
    return 1 if shared else triton.cdiv(pictures, block), block, at_once


def _strides(*tensors: Tensor) -> tuple[int, list[tuple[int, int, int, int]]]:
    """How often a column repeats, and strides for picture, plane, row and element of a row."""
    channels = tensors[0].shape[1]
    strides = [tensor.stride() for tensor in tensors]
    together = channels > 1 and strides[0][1] == 1 and all(s[3] == channels * s[1] for s in strides)
    if together:
        return channels, [(b, 0, h, c) for b, c, h, _ in strides]
    return 1, [(b, c, h, w) for b, c, h, w in strides]


def _constants(shape: Tensor) -> dict[str, object]:
    """Arithmetic dtype, the smallest diagonal of a regular shape, and the end of the patch."""
    double = shape.dtype == torch.float64
    tiny = torch.finfo(shape.dtype).tiny
    return {
        "DTYPE": tl.float64 if double else tl.float32,
        "SMALLEST": tiny**0.25,
        "CUTOFF": 708.3964185322641 if double else 87.3365447505531,  # -log(tiny)
    }


def cutdiff(image: Tensor, shape: Tensor, center: Tensor) -> Tensor:
    """``clamp(image - p, 0, 1)``, laid out like ``torch.empty_like(image)``; one launch.

    Args:
        image: (B, C, H, W), any strides; float16, bfloat16, float32 or float64.
        shape: (1 or B, 3), float32, or float64 for float64 images.
        center: (1 or B, 2), dtype of ``shape``.
    """
    result = torch.empty_like(image)
    pictures, channels, height, width = image.shape
    repeat, (image_strides, result_strides) = _strides(image, result)
    tiling = plan(pictures, height, width * repeat, shape.dtype == torch.float64)
    if not image.numel():
        return result
    _forward[tiling.grid](
        image,
        result,
        shape.contiguous(),
        center.contiguous(),
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
        **_constants(shape),
        REPEAT=repeat,
        ROWS=tiling.rows,
        COLUMNS=tiling.columns,
        num_warps=tiling.warps,
    )
    return result


def cutdiff_backward(
    grad: Tensor, image: Tensor, shape: Tensor, center: Tensor, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for image, shape and centre, those that are ``needed``; the others are empty.

    One launch for the image's gradient and the moments of each tile, a second one sums these. It
    has no atomics: the same arguments give the same bits.

    Args:
        grad: (B, C, H, W), any strides, 0 included.
        image, shape, center: as for :func:`cutdiff`.
        needed: whether image, shape and center need a gradient.
    """
    need_image, need_shape, need_center = needed
    need_moments = need_shape or need_center
    grad_image = torch.empty_like(image) if need_image else image.new_empty(0)
    grad_shape = shape.new_empty(shape.shape if need_shape else 0)
    grad_center = center.new_empty(center.shape if need_center else 0)
    shape, center = shape.contiguous(), center.contiguous()
    shape_stride, center_stride = 3 if len(shape) > 1 else 0, 2 if len(center) > 1 else 0

    pictures, channels, height, width = image.shape
    repeat, strides = _strides(image, grad, grad_image if need_image else image)
    image_strides, grad_strides, result_strides = strides
    tiling = plan(pictures, height, width * repeat, shape.dtype == torch.float64)
    tiles = tiling.row_tiles * tiling.column_tiles
    moments = shape.new_empty((5, pictures * tiles if need_moments else 0), dtype=torch.float64)
    constants = _constants(shape)
    largest = torch.finfo(shape.dtype).max
    if image.numel() and any(needed):
        _backward[tiling.grid](
            grad,
            image,
            grad_image,
            moments,
            shape,
            center,
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
            **constants,
            LIMIT=largest * 2.0**-30,
            NEED_IMAGE=need_image,
            NEED_MOMENTS=need_moments,
            REPEAT=repeat,
            ROWS=tiling.rows,
            COLUMNS=tiling.columns,
            num_warps=tiling.warps,
        )
    if not image.numel():
        return grad_image, grad_shape.zero_(), grad_center.zero_()
    if need_moments:
        shared = (need_shape and len(shape) == 1) or (need_center and len(center) == 1)
        programs, block, at_once = plan_gather(pictures, tiles, shared)
        _gather[(programs,)](
            moments,
            shape,
            grad_shape,
            grad_center,
            pictures,
            tiles,
            shape_stride,
            LARGEST=largest,
            SMALLEST=constants["SMALLEST"],
            NEED_SHAPE=need_shape,
            NEED_CENTER=need_center,
            ONE_SHAPE=len(shape) == 1,
            ONE_CENTER=len(center) == 1,
            PICTURES=block,
            TILES=at_once,
            num_warps=8,
        )
    return grad_image, grad_shape, grad_center
