"""Size, aspect and angle of a patch, as formula and as the eye sees it."""

import math

import pytest
import torch

from stssad_fast.ops import cutdiff, patch_parameters, patch_shape, rotate

PATCHES = [(0.04, 1.0, 0.0), (0.01, 2.5, 30.0), (0.3, 0.2, -40.0), (1e-4, 16.0, 44.0)]


def rendered(shape, size=41):
    """The patch on the middle pixel of a square picture."""
    middle = torch.full((2,), (size + 1) / 2 / size, dtype=torch.float64)
    return 1 - cutdiff(torch.ones(1, 1, size, size, dtype=torch.float64), shape, middle)


def double(*values):
    return [torch.tensor(v, dtype=torch.float64) for v in values]


@pytest.mark.parametrize(("size", "aspect", "angle"), [*PATCHES, (0.1, 3.0, 100.0)])
def test_formula(size, aspect, angle, assert_close):
    l11, l21, l22 = patch_shape(*double(size, aspect, angle)).tolist()
    assert l11 > 0
    assert l22 > 0
    lower = torch.tensor([[l11, 0.0], [l21, l22]], dtype=torch.float64)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    axes = torch.diag(torch.tensor([size / aspect, size * aspect], dtype=torch.float64))
    assert_close(lower @ lower.T, turn @ axes @ turn.T)


@pytest.mark.parametrize("patch", PATCHES)
def test_round_trip_from_words(patch, assert_close):
    assert_close(torch.stack(patch_parameters(patch_shape(*double(*patch)))), double(*patch))


def test_round_trip_from_the_triangle(generator, assert_close):
    shape = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    back = patch_shape(*patch_parameters(shape))
    sign = shape[:, :1].sign()
    same = torch.cat([shape[:, :2] * sign, shape[:, 2:].abs()], 1)  # L D, with D of signs
    assert_close(back, same)
    size, aspect, angle = patch_parameters(shape)
    turned = patch_shape(size, 1 / aspect, angle + 90)
    assert_close(turned, same)


def test_contour_of_size_004_has_radius_02(assert_close):
    image = rendered(patch_shape(*double(0.04, 1.0, 0.0)), 45)[0, 0]  # 0.2 is 9 pixels of 45
    for row, column in [(22 - 9, 22), (22 + 9, 22), (22, 22 - 9), (22, 22 + 9)]:
        assert_close(image[row, column], torch.tensor(math.exp(-1), dtype=torch.float64))
    assert image[22, 22] == 1


def test_aspect_is_width_over_height(assert_close):
    image = rendered(patch_shape(*double(0.04, 4.0, 0.0)), 45)[0, 0]
    contour = torch.tensor(math.exp(-1), dtype=torch.float64)
    assert_close(image[22, 22 + 18], contour)  # 0.4 across
    assert image[22 + 4, 22] > contour > image[22 + 5, 22]  # 0.1 is 4.5 pixels down


@pytest.mark.parametrize("angle", [30.0, -60.0, 90.0])
def test_angle_is_counter_clockwise_to_the_eye(angle):
    level = rendered(patch_shape(*double(0.01, 4.0, 0.0)))
    turned = rendered(patch_shape(*double(0.01, 4.0, angle)))
    assert (turned - rotate(level, angle)).abs().max() < 0.06  # of interpolation
    if angle != 90:
        assert (turned - rotate(level, -angle)).abs().max() > 0.3


def test_broadcast():
    shape = patch_shape(torch.rand(4, 1) + 0.1, torch.ones(3), 20.0)
    assert shape.shape == (4, 3, 3)
    assert [part.shape for part in patch_parameters(shape)] == [(4, 3)] * 3


@pytest.mark.parametrize("patch", [*PATCHES[1:], (0.04, 1.0, 25.0)])
def test_gradients_of_the_triangle(patch):
    leaves = [v.requires_grad_() for v in double(*patch)]
    torch.autograd.gradcheck(patch_shape, leaves)
    torch.autograd.gradgradcheck(patch_shape, leaves)


@pytest.mark.parametrize("shape", [[0.3, -0.2, 0.1], [-0.1, 0.2, 0.5], [0.2, 0.1, -0.1]])
def test_gradients_of_the_words(shape):
    leaf = torch.tensor(shape, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(patch_parameters, leaf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        [0.2, 0.0, 0.2],  # round
        [0.0, 0.0, 0.0],
        [0.0, 0.3, 0.4],
        [0.3, 0.4, 0.0],
        [0.0, 0.3, 0.0],
        [0.3, 0.0, 0.0],
        [1e-30, 1e-30, 1e-30],
    ],
)
def test_finite_where_round_or_singular(shape, dtype):
    leaf = torch.tensor(shape, dtype=dtype, requires_grad=True)
    words = torch.stack(patch_parameters(leaf))
    words.sum().backward()
    assert torch.isfinite(words).all()
    assert torch.isfinite(leaf.grad).all()
    assert words[0] == abs(leaf[0] * leaf[2])
    if shape[0] == 0.2:
        assert words.tolist()[1:] == [1.0, 0.0]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_size_and_aspect_must_be_positive(position, bad):
    words = [0.1, 1.0, 0.0]
    words[position] = torch.tensor([0.5, bad])
    with pytest.raises(ValueError, match=f"{('size', 'aspect')[position]} has values that are not"):
        patch_shape(*words)
    with pytest.raises(ValueError, match="not positive"):
        torch.func.vmap(patch_shape, (0, 0, 0))(
            *torch.broadcast_tensors(
                *map(
                    torch.tensor,
                    [
                        [0.1, bad if position == 0 else 0.1],
                        [1.0, bad if position else 1.0],
                        [0.0, 0.0],
                    ],
                )
            )
        )


@pytest.mark.parametrize("angle", [math.nan, math.inf, torch.tensor([0.0, -math.inf])])
def test_the_angle_must_be_finite(angle):
    with pytest.raises(ValueError, match="angle has NaN or infinite"):
        patch_shape(0.1, 1.0, angle)


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (torch.tensor(1), TypeError, "is torch.int64; expected a dense floating-point tensor"),
        ("a", TypeError, "is 'a'; expected a number or a floating-point tensor"),
        (None, TypeError, "is None"),
        (1e39, ValueError, r"is 1e\+39; expected at most 3.4e\+38, for torch.float32"),
    ],
)
@pytest.mark.parametrize("one", [0.5, torch.tensor(0.5)], ids=["numbers", "tensors"])
def test_what_is_no_number(position, value, error, words, one):
    patch = [one, one, one]
    patch[position] = value
    with pytest.raises(error, match=f"{('size', 'aspect', 'angle')[position]} {words}"):
        patch_shape(*patch)


def test_large_whole_numbers_are_numbers(assert_close):
    assert_close(patch_shape(10**30, 1, 0), patch_shape(1e30, 1.0, 0.0))


@pytest.mark.parametrize(
    ("shape", "error", "words"),
    [
        ([0.1, 0, 0.1], TypeError, r"is list; expected a dense floating-point tensor \(..., 3\)"),
        (torch.tensor([1, 0, 1]), TypeError, "shape is torch.int64"),
        (torch.rand(2), ValueError, r"shape has shape \(2,\); expected \(..., 3\)"),
        (torch.rand(()), ValueError, r"shape has shape \(\)"),
        (torch.rand(3, 4), ValueError, r"shape has shape \(3, 4\)"),
    ],
)
def test_what_is_no_triangle(shape, error, words):
    with pytest.raises(error, match=words):
        patch_parameters(shape)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_compile_and_torch_func(assert_close):
    patch = double(0.04, 1.5, 20.0)
    assert_close(
        torch.compile(patch_shape, fullgraph=True, backend="aot_eager")(*patch), patch_shape(*patch)
    )
    assert_close(torch.func.jacfwd(patch_shape)(*patch), torch.func.jacrev(patch_shape)(*patch))
    shape = patch_shape(*patch)
    for i, words in enumerate(torch.func.jacrev(patch_parameters)(shape)):
        expected = torch.autograd.functional.jacobian(lambda s, i=i: patch_parameters(s)[i], shape)
        assert_close(words, expected)
