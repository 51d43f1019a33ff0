"""CutDiff in Triton, interpreted: what the matrix of the ops does not have."""

from pathlib import Path

import pytest
import torch
import triton
from stssad_fast.kernels import cutdiff as kernels

from stssad_fast.ops import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LARGEST = torch.finfo(torch.float32).max

# Pictures (B, C, H, W), shapes and centres. A tile has at most 128 columns and 32 (16, 8) rows.
CASES = {
    "each": ((2, 3, 9, 13), [[0.3, 0.1, 0.2], [0.1, 0.4, 0.5]], [[0.4, 0.6], [0.2, 0.1]]),
    "many tiles": ((2, 2, 70, 200), [[0.3, 0.1, 0.2]], [[0.4, 0.6], [0.9, 0.1]]),
    "wide": ((1, 1, 2, 700), [[3.0, 0.1, 0.05]], [[0.4, 0.6]]),
    "under a pixel": ((1, 1, 40, 300), [[1e-3, 0.0, 1e-4]], [[0.5, 0.5]]),
    "a thin oblique line": ((1, 1, 70, 200), [[0.5, 1.0, 3e-3]], [[0.52, 0.47]]),
    "a long oblique line": ((1, 1, 70, 200), [[1e-3, 10.0, 1e-3]], [[0.4, 0.3]]),
    "huge": ((1, 1, 5, 6), [[1e30, 1e30, 1e30]], [[0.4, 0.5]]),
    "out of range": ((1, 1, 5, 6), [[1e-8, LARGEST, LARGEST]], [[-LARGEST, LARGEST]]),
    "far away": ((1, 2, 5, 6), [[0.1, 0.1, 0.1]], [[1e8, -1e8]]),
}


def problem(case, dtype):
    """Image, shape, centre and a cotangent; no pixel is near a kink."""
    size, shape, center = CASES[case]
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    shape, center = torch.tensor(shape, dtype=arithmetic), torch.tensor(center, dtype=arithmetic)
    generator = torch.Generator().manual_seed(0)
    patch = reference._patch(shape.double(), center.double(), *size[-2:])[0][:, None]
    noise = 0.05 * torch.rand(size, generator=generator, dtype=torch.float64)
    image = (torch.where(patch < 0.5, 0.9, 0.1) + noise).to(dtype)
    cut = image.double() - patch
    assert torch.minimum(cut.abs(), (cut - 1).abs()).min() > 1e-2
    return image, shape, center, torch.randn(size, generator=generator).to(dtype)


def expected(image, shape, center, grad):
    arguments = [value.double() for value in (image, shape, center)]
    return reference.cutdiff(*arguments), reference.cutdiff_backward(grad.double(), *arguments)


def check(image, shape, center, grad, assert_close):
    value, grads = expected(image, shape, center, grad)
    result = kernels.cutdiff(image, shape, center)
    assert result.dtype == image.dtype
    assert result.stride() == torch.empty_like(image).stride()
    assert_close(result, value)
    found = kernels.cutdiff_backward(grad, image, shape, center, [True] * 3)
    assert found[0].stride() == torch.empty_like(image).stride()
    for f, e, like in zip(found, grads, (image, shape, center), strict=True):
        assert f.dtype == like.dtype
        assert_close(f, e.clamp(-LARGEST, LARGEST) if f.dtype != torch.float64 else e)


def test_the_cases_have_a_patch():
    without = {"out of range", "far away"}
    for case in CASES:
        image, shape, center, _ = problem(case, torch.float64)
        patch = reference._patch(shape, center, *image.shape[-2:])[0]
        assert (patch.max() < 1e-30) == (case in without), case


# In float64 the reference is no better than what it is compared with.
ILL_CONDITIONED = {"a thin oblique line", "a long oblique line"}


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (case, dtype)
        for case in CASES
        for dtype in DTYPES
        if not (dtype == torch.float64 and case in ILL_CONDITIONED)
    ],
    ids=str,
)
def test_values_and_gradients(case, dtype, assert_close):
    check(*problem(case, dtype), assert_close)


def test_channels_last_over_many_tiles(assert_close):
    image, shape, center, grad = problem("many tiles", torch.bfloat16)
    image, grad = (v.contiguous(memory_format=torch.channels_last) for v in (image, grad))
    assert kernels._strides(image, grad)[0] == 2
    check(image, shape, center, grad, assert_close)


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False)])
def test_only_what_is_needed_over_many_tiles(needed):
    image, shape, center, grad = problem("many tiles", torch.float32)
    full = kernels.cutdiff_backward(grad, image, shape, center, [True] * 3)
    found = kernels.cutdiff_backward(grad, image, shape, center, list(needed))
    for f, e, wanted in zip(found, full, needed, strict=True):
        assert torch.equal(f, e) if wanted else f.numel() == 0


def test_what_the_patch_does_not_reach_is_not_read(monkeypatch):
    image, shape, center, grad = problem("under a pixel", torch.float32)
    reached = reference._patch(shape, center, *image.shape[-2:])[0].amax(-1) > 0  # (1, H)
    assert 0 < reached.sum() < 5
    read, builder = [], triton.runtime.interpreter.interpreter_builder
    load = builder.create_masked_load

    def counting(pointers, mask, *rest):
        read.append(int(mask.data.sum()))
        return load(pointers, mask, *rest)

    monkeypatch.setattr(builder, "create_masked_load", counting)
    kernels.cutdiff_backward(grad, image, shape, center, [True, True, True])
    everything = sum(read)
    read.clear()
    kernels.cutdiff_backward(grad, image, shape, center, [False, True, True])
    assert everything > 2 * image.numel()
    parts = 5 * 2 * 3 * 3  # at most: what the second stage reads
    assert sum(read) <= 2 * int(reached.sum()) * image.shape[-1] + parts


def test_many_channels_of_large_gradients():
    image = torch.full((1, 4000, 1, 128), 0.9)  # the patch's centre is in the row
    grad = torch.full_like(image, LARGEST)
    shape, center = torch.tensor([[0.5, 0.1, 0.9]]), torch.tensor([[1.0, 0.5]])
    for part in kernels.cutdiff_backward(grad, image, shape, center, [False, True, True])[1:]:
        assert part.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_at_the_edges_of_the_clamp(dtype):
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    image = torch.tensor([0.0, 0.25, 1.0, 2.0, -1.0, torch.nan], dtype=dtype).reshape(1, 1, 1, 6)
    shape, center = torch.zeros(1, 3, dtype=arithmetic), torch.zeros(1, 2, dtype=arithmetic)
    found = kernels.cutdiff(image, shape, center).flatten()
    assert found[:5].tolist() == [0, 0.25, 1, 1, 0] and found[5].isnan()
    grads = kernels.cutdiff_backward(torch.ones_like(image), image, shape, center, [True] * 3)
    assert grads[0].flatten().tolist() == [0, 1, 0, 0, 0, 0]
    assert not grads[1].any() and not grads[2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_that_overflow_saturate(dtype):
    largest = torch.finfo(dtype).max
    image = torch.full((2, 3, 40, 40), 0.999, dtype=dtype)
    shape = torch.tensor([[0.03, 0.01, 0.03]], dtype=dtype)
    center = torch.tensor([[0.5, 0.5]], dtype=dtype) + 0.06
    for sign in (1, -1):
        grad = torch.full_like(image, sign * largest)
        for part in kernels.cutdiff_backward(grad, image, shape, center, [False, True, True])[1:]:
            assert part.isfinite().all()
        last = kernels.cutdiff_backward(grad, image, shape, center, [False, True, False])[1][0, 2]
        assert last == -sign * largest
    grad = torch.full_like(image, largest) * (torch.arange(40) % 2 * 2 - 1).to(dtype)
    for part in kernels.cutdiff_backward(grad, image, shape, center, [False, True, True])[1:]:
        assert part.isfinite().all()
    grad[0, 0, 22, 22] = torch.nan
    part = kernels.cutdiff_backward(grad, image, shape, center, [False, True, False])[1]
    assert part.isnan().all()


def test_small_gradients_keep_their_digits(assert_close):
    image, shape, center, grad = problem("each", torch.float32)
    arguments = (image, shape, center, [True] * 3)
    expected = kernels.cutdiff_backward(grad, *arguments)
    for f, e in zip(kernels.cutdiff_backward(grad * 2.0**-90, *arguments), expected, strict=True):
        assert_close(f * 2.0**90, e)


@pytest.mark.parametrize("size", [(3, 1, 1, 2), (1, 3, 1, 2), (1, 1, 3, 2), (1, 1, 1, 3)])
def test_offsets_beyond_32_bits(size, tmp_path: Path, assert_close):
    axis = max(range(4), key=lambda i: (size[i] == 3, i))
    step = 2**30 + 8
    strides = [2, 2, 2, 1]
    strides[axis] = step
    file = tmp_path / "sparse"  # its pages do not exist until they are written
    numbers = torch.from_file(str(file), shared=True, size=2 * step + 8, dtype=torch.float16)
    image = numbers.as_strided(size, strides)
    image.copy_(torch.rand(size))
    assert sum((n - 1) * s for n, s in zip(size, strides, strict=True)) > 2**31
    shape, center = torch.tensor([[0.7, 0.3, 0.4]]), torch.tensor([[0.9, 0.9]])
    assert_close(
        kernels.cutdiff(image, shape, center), kernels.cutdiff(image.clone(), shape, center)
    )
    for f, e in zip(
        kernels.cutdiff_backward(image, image, shape, center, [True] * 3),
        kernels.cutdiff_backward(image.clone(), image.clone(), shape, center, [True] * 3),
        strict=True,
    ):
        assert_close(f, e)


def test_the_same_call_gives_the_same_bits():
    image, shape, center, grad = problem("many tiles", torch.float32)
    first = kernels.cutdiff_backward(grad, image, shape, center, [True] * 3)
    for f, e in zip(
        kernels.cutdiff_backward(grad, image, shape, center, [True] * 3), first, strict=True
    ):
        assert torch.equal(f, e)
