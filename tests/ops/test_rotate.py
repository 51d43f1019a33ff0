"""Rotation: direction, exactness, what lies outside, its arguments."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from stssad_fast.ops import reference, rotate


def draw(*size, dtype=torch.float64):
    return torch.rand(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(
        dtype
    )


def test_counter_clockwise_to_the_eye(assert_close):
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 4] = 1  # at the right
    expected = torch.zeros(1, 1, 5, 5)
    expected[0, 0, 0, 2] = 1  # at the top
    assert_close(rotate(image, 90.0), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("turns", range(-1, 5))
def test_quarter_turns_are_exact(turns, size, dtype, assert_close):
    image = draw(2, 3, size, size, dtype=dtype)
    # Half a unit in the last place of pi, on coordinates of up to 3 pixels: a few roundings.
    assert_close(rotate(image, 90.0 * turns), image.rot90(turns, (2, 3)))


@pytest.mark.parametrize("angle", [0.0, 360.0, -720.0, torch.tensor(0.0)])
def test_identity(angle):
    image = draw(2, 1, 4, 7, dtype=torch.float32)
    assert torch.equal(rotate(image, angle), image)


@pytest.mark.parametrize(("one", "other"), [(-30.0, 330.0), (725.0, 5.0), (45.0 + 360e3, 45.0)])
def test_full_turns_do_not_matter(one, other):
    image = draw(1, 1, 6, 6, dtype=torch.float32)
    assert torch.equal(rotate(image, one), rotate(image, other))


@pytest.mark.parametrize("angle", [1e8, -1e30, 3e38, 1e-45])
def test_huge_and_tiny_angles_stay_finite(angle):
    image = draw(1, 1, 6, 6, dtype=torch.float32).requires_grad_()
    angle = torch.tensor(angle, requires_grad=True)
    out = rotate(image, angle)
    out.sum().backward()
    assert all(torch.isfinite(v).all() for v in (out, image.grad, angle.grad))


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (6, 11), (11, 4), (1, 7), (1, 1)], ids=str)
@pytest.mark.parametrize("angle", [17.0, 90.0, 200.0, -75.5])
def test_equals_scipy_also_where_not_square(size, angle, assert_close):
    image = draw(1, 2, *size)
    expected = ndimage.rotate(
        image.numpy(), angle, axes=(3, 2), reshape=False, order=1, mode="grid-constant"
    )
    for implementation in (rotate, reference.rotate):
        assert_close(implementation(image, torch.tensor([angle], dtype=torch.float64)), expected)


@pytest.mark.parametrize("angle", [33.0, 121.0, -8.0])
def test_equals_grid_sample_on_squares(angle, assert_close):
    image = draw(2, 3, 7, 7).requires_grad_()
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    matrix = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=torch.float64)
    grid = F.affine_grid(matrix.expand(2, 2, 3), [2, 3, 7, 7], align_corners=False)
    expected = F.grid_sample(image, grid, align_corners=False)
    out = rotate(image, angle)
    assert_close(out, expected)
    weights = draw(2, 3, 7, 7)
    assert_close(
        *(torch.autograd.grad((result * weights).sum(), image)[0] for result in (out, expected))
    )


def test_zeros_outside():
    out = rotate(torch.ones(1, 1, 9, 9), 45.0)
    assert not out[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert out[0, 0, 4, 4] == 1


def test_one_angle_per_picture(assert_close):
    image, angle = draw(3, 2, 5, 6), torch.tensor([10.0, 100.0, -40.0])
    each = torch.cat([rotate(image[i : i + 1], angle[i]) for i in range(3)])
    assert_close(rotate(image, angle), each)


def test_linear_in_the_picture(assert_close):
    one, other = draw(1, 2, 5, 6), draw(1, 2, 6, 5).mT
    assert_close(rotate(2 * one - other, 27.0), 2 * rotate(one, 27.0) - rotate(other, 27.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype, assert_close):
    image = draw(1, 1, 6, 6, dtype=dtype)
    out = rotate(image, 40.0)
    assert out.dtype == dtype
    assert_close(out, rotate(image.double(), 40.0))


@pytest.mark.parametrize("size", [(0, 3, 4, 4), (2, 0, 4, 4)], ids=str)
def test_empty(size):
    assert rotate(torch.zeros(size), 30.0).shape == size


@pytest.mark.parametrize(
    ("image", "angle", "error", "words"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.int32), 0.0, TypeError, "image is torch.int32"),
        (np.zeros((2, 1, 4, 4)), 0.0, TypeError, "image is ndarray"),
        (torch.zeros(4, 4), 0.0, ValueError, r"expected \(B, C, H, W\)"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3), ValueError, "angle has shape"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1), ValueError, "angle has shape"),
        (torch.zeros(2, 1, 4, 4), torch.tensor(90), TypeError, "angle is torch.int64"),
        (torch.zeros(2, 1, 4, 4), math.nan, ValueError, "angle has NaN"),
        (torch.zeros(2, 1, 4, 4), torch.tensor([0.0, math.inf]), ValueError, "angle has NaN or"),
    ],
)
def test_wrong_arguments(image, angle, error, words):
    with pytest.raises(error, match=words):
        rotate(image, angle)
