"""Batch normalisation in Triton: values, first and second derivative.

Each is a sweep for the sums of a channel and a sweep over the elements, which derives what it needs
of a channel from the sums by itself. A program takes a block of channels with a chunk of their
positions (picture and pixel): one channel of contiguous pictures, neighbours of channels-last ones.
Sums are in float64, in two stages and a fixed order; elements in float32, or float64 for float64.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _block(blocks, CHUNK: tl.constexpr, CHANNELS: tl.constexpr):
    """Chunk of this program, its first position, and its channels (CHANNELS,)."""
    program = tl.program_id(0).to(tl.int64)
    chunk = program // blocks
    return chunk, chunk * CHUNK, program % blocks * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def _elements(
    first, stop, channel, channels, pixels, picture_step, pixel_step, channel_step,
    POSITIONS: tl.constexpr,
):  # fmt: skip
    """Where the elements of a tile lie (POSITIONS, CHANNELS), and which of them exist."""
    position = first + tl.arange(0, POSITIONS)
    place = position // pixels * picture_step + position % pixels * pixel_step
    there = (position < stop)[:, None] & (channel < channels)[None, :]
    return place[:, None] + (channel * channel_step)[None, :], there


@triton.jit
def _gradient(grad, y, place, there, RELU: tl.constexpr, DTYPE: tl.constexpr):
    """The gradient behind ReLU, and where it passes."""
    g = tl.load(grad + place, there, 0.0).to(DTYPE)
    passes = there
    if RELU:
        passes = there & (tl.load(y + place, there, 0.0).to(DTYPE) > 0)
        g = tl.where(passes, g, 0.0)
    return g, passes


@triton.jit
def _scale(gamma, var, channel, channels, EPS: tl.constexpr, AFFINE: tl.constexpr):
    """``1 / sqrt(var + eps)``, and that times gamma, in float64."""
    r = 1.0 / tl.sqrt(tl.load(var + channel, channel < channels, 1.0) + EPS)
    if AFFINE:
        return r, r * tl.load(gamma + channel, channel < channels, 0.0).to(tl.float64)
    return r, r


@triton.jit
def _from_mean(x, mean, place, there, DTYPE: tl.constexpr):
    """``x - mean``; the mean in two parts, so that it may be large."""
    high = mean.to(DTYPE)
    low = (mean - high.to(tl.float64)).to(DTYPE)
    return (tl.load(x + place, there, 0.0).to(DTYPE) - high[None, :]) - low[None, :]


@triton.jit
def _moments(
    x, means, squares, count, channels, pixels, picture_step, pixel_step, channel_step, blocks,
    CHUNK: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Means of the chunks (chunks, C), and the sums of squares about these."""
    chunk, start, channel = _block(blocks, CHUNK, CHANNELS)
    stop = tl.minimum(start + CHUNK, count)
    n = (stop - start).to(tl.float64)
    inside = channel < channels
    front = x + start // pixels * picture_step + start % pixels * pixel_step
    first = tl.load(front + channel * channel_step, inside, 0.0).to(tl.float64)
    total = tl.zeros((POSITIONS, CHANNELS), tl.float64)
    for position in range(start, stop, POSITIONS):
        place, there = _elements(
            position, stop, channel, channels, pixels, picture_step, pixel_step, channel_step,
            POSITIONS,
        )  # fmt: skip
        total += tl.where(
            there, tl.load(x + place, there, 0.0).to(tl.float64) - first[None, :], 0.0
        )
    mean = first + tl.sum(total, 0) / n
    total = tl.zeros((POSITIONS, CHANNELS), tl.float64)
    square = tl.zeros((POSITIONS, CHANNELS), tl.float64)
    for position in range(start, stop, POSITIONS):
        place, there = _elements(
            position, stop, channel, channels, pixels, picture_step, pixel_step, channel_step,
            POSITIONS,
        )  # fmt: skip
        d = tl.where(there, tl.load(x + place, there, 0.0).to(tl.float64) - mean[None, :], 0.0)
        total += d
        square += d * d
    rest = tl.sum(total, 0)
    tl.store(means + chunk * channels + channel, mean + rest / n, inside)
    tl.store(squares + chunk * channels + channel, tl.sum(square, 0) - rest * rest / n, inside)


@triton.jit
def _statistics(
    means, squares, mean, var, count, channels, chunks,
    CHUNK: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and biased variance (C,) from those of the chunks."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    share = 1.0 / tl.cast(count, tl.float64)
    first = tl.load(means + channel, inside, 0.0)
    total = tl.zeros((PARTS, CHANNELS), tl.float64)
    for k in range(0, chunks, PARTS):
        part = k + tl.arange(0, PARTS).to(tl.int64)
        n = tl.minimum(count - part * CHUNK, CHUNK).to(tl.float64)[:, None]
        there = (part < chunks)[:, None] & inside[None, :]
        place = part[:, None] * channels + channel[None, :]
        total += tl.where(there, (tl.load(means + place, there, 0.0) - first[None, :]) * n, 0.0)
    center = first + tl.sum(total, 0) * share
    total = tl.zeros((PARTS, CHANNELS), tl.float64)
    for k in range(0, chunks, PARTS):
        part = k + tl.arange(0, PARTS).to(tl.int64)
        n = tl.minimum(count - part * CHUNK, CHUNK).to(tl.float64)[:, None]
        there = (part < chunks)[:, None] & inside[None, :]
        place = part[:, None] * channels + channel[None, :]
        away = tl.load(means + place, there, 0.0) - center[None, :]
        total += tl.where(there, tl.load(squares + place, there, 0.0) + n * away * away, 0.0)
    tl.store(mean + channel, center, inside)
    tl.store(var + channel, tl.sum(total, 0) * share, inside)


@triton.jit
def _forward(
    x, residual, y, gamma, beta, mean, var,
    count, channels, pixels, picture_step, pixel_step, channel_step, blocks,
    EPS: tl.constexpr, AFFINE: tl.constexpr, SHIFTED: tl.constexpr, RESIDUAL: tl.constexpr,
    RELU: tl.constexpr, DTYPE: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``y``; one tile for each program."""
    _, start, channel = _block(blocks, POSITIONS, CHANNELS)
    place, there = _elements(
        start, count, channel, channels, pixels, picture_step, pixel_step, channel_step, POSITIONS
    )
    _, scale = _scale(gamma, var, channel, channels, EPS, AFFINE)
    center = tl.load(mean + channel, channel < channels, 0.0)
    value = _from_mean(x, center, place, there, DTYPE) * scale.to(DTYPE)[None, :]
    if SHIFTED:
        value += tl.load(beta + channel, channel < channels, 0.0)[None, :]
    if RESIDUAL:
        value += tl.load(residual + place, there, 0.0).to(DTYPE)
    if RELU:
        value = tl.where(value < 0, 0.0, value)  # NaN stays
    tl.store(y + place, value, there)


@triton.jit
def _backward_sums(
    grad, x, y, mean, sums,
    count, channels, pixels, picture_step, pixel_step, channel_step, blocks,
    RELU: tl.constexpr, DTYPE: tl.constexpr,
    CHUNK: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums (chunks, 2, C) of ``g`` and ``g (x - mean)``."""
    chunk, start, channel = _block(blocks, CHUNK, CHANNELS)
    stop = tl.minimum(start + CHUNK, count)
    inside = channel < channels
    center = tl.load(mean + channel, inside, 0.0)
    sum1 = tl.zeros((POSITIONS, CHANNELS), tl.float64)
    sum2 = tl.zeros((POSITIONS, CHANNELS), tl.float64)
    for position in range(start, stop, POSITIONS):
        place, there = _elements(
            position, stop, channel, channels, pixels, picture_step, pixel_step, channel_step,
            POSITIONS,
        )  # fmt: skip
        g = _gradient(grad, y, place, there, RELU, DTYPE)[0].to(tl.float64)
        sum1 += g
        sum2 += g * (tl.load(x + place, there, 0.0).to(tl.float64) - center[None, :])
    to = sums + chunk * 2 * channels + channel
    tl.store(to, tl.sum(sum1, 0), inside)
    tl.store(to + channels, tl.sum(sum2, 0), inside)


@triton.jit
def _backward(
    grad, x, y, sums, gamma, mean, var, grad_x, grad_gamma, grad_beta, grad_residual,
    count, channels, pixels, picture_step, pixel_step, channel_step, blocks,
    TO_X: tl.constexpr, TO_GAMMA: tl.constexpr, TO_BETA: tl.constexpr, TO_RESIDUAL: tl.constexpr,
    EPS: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr, DTYPE: tl.constexpr,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients; one tile for each program."""
    tile, start, channel = _block(blocks, POSITIONS, CHANNELS)
    inside = channel < channels
    r, scale = _scale(gamma, var, channel, channels, EPS, AFFINE)
    g_sum = tl.load(sums + channel, inside, 0.0)
    gx_sum = tl.load(sums + channels + channel, inside, 0.0) * r
    if tile == 0:
        if TO_GAMMA:
            tl.store(grad_gamma + channel, gx_sum, inside)
        if TO_BETA:
            tl.store(grad_beta + channel, g_sum, inside)
    if TO_X or TO_RESIDUAL:
        place, there = _elements(
            start, count, channel, channels, pixels, picture_step, pixel_step, channel_step,
            POSITIONS,
        )  # fmt: skip
        g, _ = _gradient(grad, y, place, there, RELU, DTYPE)
        if TO_RESIDUAL:
            tl.store(grad_residual + place, g, there)
        if TO_X:
            d = _from_mean(x, tl.load(mean + channel, inside, 0.0), place, there, DTYPE)
            slope = (-scale * r * gx_sum / count).to(DTYPE)[None, :]
            shift = (-scale * g_sum / count).to(DTYPE)[None, :]
            tl.store(grad_x + place, scale.to(DTYPE)[None, :] * g + (slope * d + shift), there)


@triton.jit
def _double_sums(
    v, grad, x, y, mean, sums,
    count, channels, pixels, picture_step, pixel_step, channel_step, blocks,
    HAS_V: tl.constexpr, RELU: tl.constexpr, DTYPE: tl.constexpr,
    CHUNK: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums (chunks, 5, C) of ``g``, ``g d``, ``v``, ``v d``, ``v g`` with ``d = x - mean``."""
    chunk, start, channel = _block(blocks, CHUNK, CHANNELS)
    stop = tl.minimum(start + CHUNK, count)
    inside = channel < channels
    center = tl.load(mean + channel, inside, 0.0)
    sum1 = tl.zeros((POSITIONS, CHANNELS), tl.float64)
    sum2 = tl.zeros((POSITIONS, CHANNELS), tl.float64)
    sum3 = tl.zeros((POSITIONS, CHANNELS), tl.float64)
    sum4 = tl.zeros((POSITIONS, CHANNELS), tl.float64)
    sum5 = tl.zeros((POSITIONS, CHANNELS), tl.float64)
    for position in range(start, stop, POSITIONS):
        place, there = _elements(
            position, stop, channel, channels, pixels, picture_step, pixel_step, channel_step,
            POSITIONS,
        )  # fmt: skip
        g = _gradient(grad, y, place, there, RELU, DTYPE)[0].to(tl.float64)
        d = tl.load(x + place, there, 0.0).to(tl.float64) - center[None, :]
        sum1 += g
        sum2 += g * d
        if HAS_V:
            cotangent = tl.load(v + place, there, 0.0).to(tl.float64)
            sum3 += cotangent
            sum4 += cotangent * d
            sum5 += cotangent * g
    to = sums + chunk * 5 * channels + channel
    tl.store(to, tl.sum(sum1, 0), inside)
    tl.store(to + channels, tl.sum(sum2, 0), inside)
    tl.store(to + 2 * channels, tl.sum(sum3, 0), inside)
    tl.store(to + 3 * channels, tl.sum(sum4, 0), inside)
    tl.store(to + 4 * channels, tl.sum(sum5, 0), inside)


@triton.jit
def _double(
    v, v_gamma, v_beta, w, grad, x, y, sums, gamma, mean, var, grad_grad, grad_x, grad_gamma,
    count, channels, pixels, picture_step, pixel_step, channel_step, blocks,
    HAS_V: tl.constexpr, HAS_A: tl.constexpr, HAS_B: tl.constexpr, HAS_W: tl.constexpr,
    TO_GRAD: tl.constexpr, TO_X: tl.constexpr, TO_GAMMA: tl.constexpr,
    EPS: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr, DTYPE: tl.constexpr,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The second derivative; one tile for each program. Names are those of derivations.md, 4."""
    tile, start, channel = _block(blocks, POSITIONS, CHANNELS)
    inside = channel < channels
    r, scale = _scale(gamma, var, channel, channels, EPS, AFFINE)
    a = tl.zeros((CHANNELS,), tl.float64)
    b = tl.zeros((CHANNELS,), tl.float64)
    if HAS_A:
        a += tl.load(v_gamma + channel, inside, 0.0)
    if HAS_B:
        b += tl.load(v_beta + channel, inside, 0.0)
    sums += channel
    g_mean = tl.load(sums, inside, 0.0) / count
    gx = tl.load(sums + channels, inside, 0.0) * r / count
    v_mean = tl.load(sums + 2 * channels, inside, 0.0) / count
    vx = tl.load(sums + 3 * channels, inside, 0.0) * r / count
    q = tl.load(sums + 4 * channels, inside, 0.0) / count - v_mean * g_mean - vx * gx
    if TO_GAMMA and tile == 0:
        tl.store(grad_gamma + channel, r * q * count, inside)
    if TO_GRAD or TO_X:
        place, there = _elements(
            start, count, channel, channels, pixels, picture_step, pixel_step, channel_step,
            POSITIONS,
        )  # fmt: skip
        g, passes = _gradient(grad, y, place, there, RELU, DTYPE)
        d = _from_mean(x, tl.load(mean + channel, inside, 0.0), place, there, DTYPE)
        of_g = r * (a - scale * vx)
        of_v = -scale * r * gx
        if HAS_V:
            cotangent = tl.load(v + place, there, 0.0).to(DTYPE)
        if TO_GRAD:
            value = of_g.to(DTYPE)[None, :] * d + (b - scale * v_mean).to(DTYPE)[None, :]
            if HAS_V:
                value += scale.to(DTYPE)[None, :] * cotangent
            if HAS_W:
                value += tl.load(w + place, there, 0.0).to(DTYPE)
            tl.store(grad_grad + place, tl.where(passes, value, 0.0), there)
        if TO_X:
            slope = (r * r * (scale * (2.0 * gx * vx - q) - a * gx)).to(DTYPE)[None, :]
            value = slope * d + (-of_v * v_mean - of_g * g_mean).to(DTYPE)[None, :]
            value += of_g.to(DTYPE)[None, :] * g
            if HAS_V:
                value += of_v.to(DTYPE)[None, :] * cotangent
            tl.store(grad_x + place, value, there)


TILE = 512  # elements of a tile: one load of 16 bytes for each of 128 threads
TILES = 8  # of a chunk


class Plan(NamedTuple):
    """How pictures are divided into blocks of channels and chunks of positions."""

    channels: int  # of a block
    positions: int  # of a tile
    blocks: int
    tiles: int
    chunks: int


def plan(count: int, channels: int, interleaved: bool) -> Plan:
    """For ``count`` positions."""
    block = min(triton.next_power_of_2(channels), 32) if interleaved else 1
    positions = TILE // block
    tiles = triton.cdiv(count, positions)
    return Plan(block, positions, triton.cdiv(channels, block), tiles, triton.cdiv(tiles, TILES))


def _geometry(x: Tensor) -> tuple[Plan, tuple[int, ...], dict[str, int]]:
    """The plan, sizes and steps as all kernels take them, and the tile."""
    batch, channels, height, width = x.shape
    pixels = height * width
    interleaved = pixels == 1 or not x.is_contiguous()
    steps = (pixels * channels, channels, 1) if interleaved else (pixels * channels, 1, pixels)
    division = plan(batch * pixels, channels, interleaved)
    sizes = (batch * pixels, channels, pixels, *steps, division.blocks)
    return division, sizes, {"POSITIONS": division.positions, "CHANNELS": division.channels}


def _dtype(x: Tensor) -> tuple[torch.dtype, tl.dtype]:
    """What is calculated in, for torch and for Triton."""
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``y``, and mean and biased variance (C,) in float64. Three launches.

    Args:
        x: (B, C, H, W), contiguous or channels-last.
        gamma, beta: (C,) or None.
        residual: like ``x``, in the same layout, or None.
        relu: whether there is a ReLU.
        eps: added to the variance.
    """
    division, sizes, tile = _geometry(x)
    count, channels = sizes[:2]
    means = x.new_empty((division.chunks, channels), dtype=torch.float64)
    squares = torch.empty_like(means)
    mean, var = (x.new_empty(channels, dtype=torch.float64) for _ in range(2))
    chunk = division.positions * TILES
    _moments[(division.blocks * division.chunks,)](x, means, squares, *sizes, CHUNK=chunk, **tile)
    _statistics[(triton.cdiv(channels, 32),)](
        means, squares, mean, var, count, channels, division.chunks,
        CHUNK=chunk, PARTS=16, CHANNELS=32,
    )  # fmt: skip
    y = torch.empty_like(x)
    _forward[(division.blocks * division.tiles,)](
        x, residual, y, gamma, beta, mean, var, *sizes,
        EPS=eps, AFFINE=gamma is not None, SHIFTED=beta is not None,
        RESIDUAL=residual is not None, RELU=relu, DTYPE=_dtype(x)[1], **tile,
    )  # fmt: skip
    return y, mean, var


def batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    y: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    needed: list[bool],
) -> tuple[Tensor, ...]:
    """Gradients for x, gamma, beta and residual where ``needed``; the others are empty.

    Args:
        grad, x, y: pictures in the same layout; y is None where there was no ReLU.
        gamma: as for :func:`batch_norm`.
        mean, var: of the forward.
        eps: as for :func:`batch_norm`.
        needed: whether they need a gradient.
    """
    division, sizes, tile = _geometry(x)
    dtype, real = _dtype(x)
    sums = x.new_empty((division.chunks, 2, x.shape[1]), dtype=torch.float64)
    same = {"RELU": y is not None, "DTYPE": real, **tile}
    _backward_sums[(division.blocks * division.chunks,)](
        grad, x, y, mean, sums, *sizes, CHUNK=division.positions * TILES, **same
    )
    grads = _empty((x, mean, mean, x), needed, dtype)
    _backward[(division.blocks * (division.tiles if needed[0] or needed[3] else 1),)](
        grad, x, y, sums.sum(0), gamma, mean, var, *grads, *sizes,
        TO_X=needed[0], TO_GAMMA=needed[1], TO_BETA=needed[2], TO_RESIDUAL=needed[3],
        EPS=eps, AFFINE=gamma is not None, **same,
    )  # fmt: skip
    return grads


def batch_norm_double_backward(
    v_x: Tensor | None,
    v_gamma: Tensor | None,
    v_beta: Tensor | None,
    v_residual: Tensor | None,
    grad: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    y: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    needed: list[bool],
) -> tuple[Tensor, ...]:
    """Gradients of :func:`batch_norm_backward` for grad, x and gamma where ``needed``.

    Args:
        v_x, v_gamma, v_beta, v_residual: cotangents of its results; None: zero.
        grad, x, gamma, y, mean, var, eps: its arguments.
        needed: whether they need a gradient.
    """
    division, sizes, tile = _geometry(x)
    dtype, real = _dtype(x)
    sums = x.new_empty((division.chunks, 5, x.shape[1]), dtype=torch.float64)
    same = {"HAS_V": v_x is not None, "RELU": y is not None, "DTYPE": real, **tile}
    _double_sums[(division.blocks * division.chunks,)](
        v_x, grad, x, y, mean, sums, *sizes, CHUNK=division.positions * TILES, **same
    )
    grads = _empty((x, x, mean), needed, dtype)
    _double[(division.blocks * (division.tiles if needed[0] or needed[1] else 1),)](
        v_x, v_gamma, v_beta, v_residual, grad, x, y, sums.sum(0), gamma, mean, var, *grads, *sizes,
        HAS_A=v_gamma is not None, HAS_B=v_beta is not None, HAS_W=v_residual is not None,
        TO_GRAD=needed[0], TO_X=needed[1], TO_GAMMA=needed[2],
        EPS=eps, AFFINE=gamma is not None, **same,
    )  # fmt: skip
    return grads


def _empty(like: tuple[Tensor, ...], needed: list[bool], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """For the gradients of pictures and, in ``dtype``, of channels."""
    return tuple(
        (torch.empty_like(value) if value.dim() == 4 else value.new_empty(len(value), dtype=dtype))
        if wanted
        else value.new_empty(0, dtype=value.dtype if value.dim() == 4 else dtype)
        for value, wanted in zip(like, needed, strict=True)
    )
