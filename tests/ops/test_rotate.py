"""Rotation on every backend: direction, exactness, what lies outside."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage


def draw(*size, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.rand(size, generator=generator, dtype=torch.float64).to(dtype)


@pytest.fixture(scope="module")
def turn(backend):
    """``turn(image, angle)`` with the angle as a number, or one number for each picture."""

    def rotate(image, angle):
        dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
        return backend.rotate(image, torch.as_tensor(angle, dtype=dtype).reshape(-1))

    return rotate


def test_counter_clockwise_to_the_eye(turn, assert_close):
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 4] = 1  # at the right
    expected = torch.zeros(1, 1, 5, 5)
    expected[0, 0, 0, 2] = 1  # at the top
    assert_close(turn(image, 90.0), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("turns", range(-1, 5))
def test_quarter_turns_are_exact(turn, turns, size, dtype, assert_close):
    image = draw(2, 3, size, size, dtype=dtype).requires_grad_()
    out = turn(image, 90.0 * turns)
    # Half a unit in the last place of pi, on coordinates of up to 3 pixels: a few roundings.
    assert_close(out, image.rot90(turns, (2, 3)))
    grad = draw(3, 2, size, size, dtype=dtype).transpose(0, 1)
    assert_close(torch.autograd.grad(out, image, grad)[0], grad.rot90(-turns, (2, 3)))


@pytest.mark.parametrize("angle", [0.0, 360.0, -720.0, torch.tensor(0.0)])
def test_identity(turn, angle):
    image = draw(2, 1, 4, 7, dtype=torch.float32).requires_grad_()
    out = turn(image, angle)
    assert torch.equal(out, image)
    grad = draw(2, 1, 7, 4, dtype=torch.float32).mT
    assert torch.equal(torch.autograd.grad(out, image, grad)[0], grad)


@pytest.mark.parametrize(("one", "other"), [(-30.0, 330.0), (725.0, 5.0), (45.0 + 360e3, 45.0)])
def test_full_turns_do_not_matter(turn, one, other):
    image = draw(1, 1, 6, 6, dtype=torch.float32)
    assert torch.equal(turn(image, one), turn(image, other))


@pytest.mark.parametrize("angle", [1e8, -1e30, 3e38, 1e-45, -1e-45])
def test_huge_and_tiny_angles_stay_finite(backend, angle):
    image = draw(1, 1, 6, 6, dtype=torch.float32).requires_grad_()
    angle = torch.tensor([angle], requires_grad=True)
    out = backend.rotate(image, angle)
    out.sum().backward()
    assert all(torch.isfinite(v).all() for v in (out, image.grad, angle.grad))
    assert out.abs().max() <= 1


@pytest.mark.parametrize(
    "size", [(8, 8), (9, 9), (6, 11), (11, 4), (1, 7), (1, 1), (5, 40)], ids=str
)
@pytest.mark.parametrize("angle", [17.0, 90.0, 200.0, -75.5])
def test_equals_scipy_also_where_not_square(turn, size, angle, assert_close):
    image = draw(1, 2, *size)
    expected = ndimage.rotate(
        image.numpy(), angle, axes=(3, 2), reshape=False, order=1, mode="grid-constant"
    )
    assert_close(turn(image, angle), expected)


@pytest.mark.parametrize("angle", [33.0, 121.0, -8.0])
def test_equals_grid_sample_on_squares(turn, angle, assert_close):
    image = draw(2, 3, 7, 7).requires_grad_()
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    matrix = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=torch.float64)
    grid = F.affine_grid(matrix.expand(2, 2, 3), [2, 3, 7, 7], align_corners=False)
    expected = F.grid_sample(image, grid, align_corners=False)
    out = turn(image, angle)
    assert_close(out, expected)
    weights = draw(2, 3, 7, 7)
    assert_close(
        *(torch.autograd.grad((result * weights).sum(), image)[0] for result in (out, expected))
    )


def test_zeros_outside(turn):
    out = turn(torch.ones(1, 1, 9, 9), 45.0)
    assert not out[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert out[0, 0, 4, 4] == 1


def test_one_angle_per_picture(turn, assert_close):
    image, angle = draw(3, 2, 5, 6), [10.0, 100.0, -40.0]
    each = torch.cat([turn(image[i : i + 1], angle[i]) for i in range(3)])
    assert_close(turn(image, angle), each)


def test_linear_in_the_picture(turn, assert_close):
    one, other = draw(1, 2, 5, 6), draw(1, 2, 6, 5).mT
    assert_close(turn(2 * one - other, 27.0), 2 * turn(one, 27.0) - turn(other, 27.0))


def test_numbers_far_from_one_pass(turn, assert_close):
    """Values are not confined to [0, 1]."""
    image = draw(1, 2, 5, 6)
    assert_close(turn(1e6 * image - 5e5, 27.0) / 1e6, turn(image - 0.5, 27.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(turn, dtype, assert_close):
    image = draw(1, 1, 6, 6, dtype=dtype)
    out = turn(image, 40.0)
    assert out.dtype == dtype
    assert_close(out, turn(image.double(), 40.0))
