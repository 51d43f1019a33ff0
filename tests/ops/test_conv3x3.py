"""Winograd's convolution against the direct one, and where it is taken."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from stssad_fast.ops import extension
from stssad_fast.ops.conv3x3 import _multiply as multiply
from stssad_fast.ops.conv3x3 import conv3x3, suits_winograd

from .cases import numbers, placed, wanting

# The transforms add and subtract multiples of up to 8 of what they are given, and so their rounding
# is not that of the one table: of the largest number, about 1e-5.
TOLERANCE = 3e-5

native = pytest.mark.skipif(not extension.load(), reason="native extension is missing")


def direct(image, weight):
    return F.conv2d(image, weight, padding=1)


def inputs_of(batch, channels, outputs, height, width):
    image = numbers(batch, channels, height, width, low=-1.0)
    weight = numbers(outputs, channels, 3, 3, low=-1.0)
    return image.float(), weight.float()


def derivatives(convolution, image, weight):
    """Result, gradients, and gradients of these for everything that they depend on."""
    image, weight = wanting((image, weight))
    result = convolution(image, weight)
    grad = numbers(*result.shape, low=-1.0).to(result).requires_grad_()
    first = torch.autograd.grad(result, (image, weight), grad, create_graph=True)
    directions = [numbers(*part.shape, low=-1.0, seed=1).to(part) for part in first]
    second = torch.autograd.grad(first, (image, weight, grad), directions, create_graph=True)
    directions = [numbers(*part.shape, low=-1.0, seed=2).to(part) for part in second]
    third = torch.autograd.grad(second, (image, weight, grad), directions, allow_unused=True)
    return result, *first, *second, *(part for part in third if part is not None)


def assert_near(found, expected):
    assert found.dtype == torch.float32
    error = (found.double() - expected).abs().max().item()
    assert error <= TOLERANCE * expected.abs().max().item()


@native
@pytest.mark.parametrize(
    "size", [(4, 64, 64, 8, 8), (7, 64, 80, 12, 4), (3, 80, 64, 7, 15), (40, 64, 64, 4, 4)], ids=str
)
def test_values_and_three_derivatives(size):
    image, weight = inputs_of(*size)
    assert suits_winograd(image, weight)
    found = derivatives(conv3x3, image, weight)
    expected = derivatives(direct, image.double(), weight.double())
    for f, e in zip(found, expected, strict=True):
        assert_near(f, e)


@pytest.fixture
def each_simd_level():
    """The names of this machine's instruction sets, each in use while it is at hand."""
    module = importlib.import_module("stssad_fast._C")
    before = module.simd_level()

    def levels():
        for level in module.simd_levels():
            module.set_simd_level(level)
            yield level

    yield levels()
    module.set_simd_level(before)


@native
def test_every_instruction_set(each_simd_level):
    image, weight = inputs_of(4, 64, 64, 8, 7)
    expected = derivatives(direct, image.double(), weight.double())
    for _ in each_simd_level:
        for f, e in zip(derivatives(conv3x3, image, weight), expected, strict=True):
            assert_near(f, e)


@native
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_matrices(each_simd_level, transposed, add):
    """Every number of rows beside blocks of eight and four, one and two vectors of columns."""
    for _ in each_simd_level:
        for rows, depth, columns in [(1, 1, 16), (7, 5, 48), (13, 64, 80), (24, 3, 32)]:
            size = (36, depth, rows + 1) if transposed else (36, rows + 1, depth)
            left = numbers(*size, low=-1.0).float()
            left = left.transpose(1, 2)[:, 1:] if transposed else left[:, 1:]
            right = numbers(36, depth + 1, columns, low=-1.0, seed=1).float()[:, 1:]
            room = numbers(36, rows + 2, columns, seed=2).float()
            out = room[:, 1:-1]
            expected = left.double() @ right.double() + (out.double() if add else 0)
            margin = room[:, :: (rows + 1)].clone()
            if not add:
                out.fill_(torch.nan)
            multiply(left, right, out, add)
            torch.testing.assert_close(out.double(), expected, atol=1e-6 * depth, rtol=1e-6)
            assert torch.equal(room[:, :: (rows + 1)], margin)


@pytest.mark.skipif(extension.simd_level() != "avx512", reason="torch.bmm is not ours")
def test_the_same_bits_for_any_number_of_threads():
    image, weight = inputs_of(8, 64, 80, 12, 12)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(derivatives(conv3x3, image, weight))
    finally:
        torch.set_num_threads(before)
    for one, *others in zip(*found, strict=True):
        assert all(torch.equal(one, other) for other in others)


@native
def test_layouts():
    image, weight = inputs_of(4, 64, 64, 8, 8)
    expected = direct(image.double(), weight.double())
    for order in ([0, 1, 2, 3], [0, 2, 3, 1], [3, 2, 1, 0]):
        for steps in ([1] * 4, [2] * 4):
            found = conv3x3(placed(image, order, steps, 1), placed(weight, order, steps, 1))
            assert_near(found, expected)
            assert found.is_contiguous(memory_format=torch.channels_last)
    alike = image.shape
    assert_near(conv3x3(image[:1].expand(alike), weight), expected[:1].expand(alike))


@native
def test_pictures_do_not_mix():
    """More than are transformed at a time, and a chunk that is not full."""
    image, weight = inputs_of(23, 64, 64, 16, 16)
    found = conv3x3(image, weight)
    assert_near(found, direct(image.double(), weight.double()))
    assert torch.equal(conv3x3(image.flip(0), weight), found.flip(0))


@native
def test_only_what_is_needed():
    image, weight = inputs_of(4, 64, 64, 8, 8)
    for which in ((True, False), (False, True)):
        leaves = wanting((image, weight), which)
        conv3x3(*leaves).sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == list(which)


@native
def test_no_gradient_for_weights_that_nobody_wishes():
    class Wishes:
        weights = True

    image, weight = wanting(inputs_of(4, 64, 64, 8, 8))
    wishes = Wishes()
    result = conv3x3(image, weight, wishes=wishes)
    first = torch.autograd.grad(result.square().sum(), (image, weight), create_graph=True)
    expected = torch.autograd.grad([p.sum() for p in first], image, retain_graph=True)
    wishes.weights = False
    second = torch.autograd.grad([p.sum() for p in first], (image, weight), allow_unused=True)
    assert torch.equal(second[0], *expected)
    assert second[1] is None


def test_whatever_does_not_suit_is_the_direct_one():
    image, weight = inputs_of(4, 64, 64, 8, 8)
    for other, kernel in [
        (image.double(), weight.double()),
        (image.bfloat16(), weight.bfloat16()),
        (image[:, :48], weight[:, :48]),
        (image, weight[:48]),
        (torch.cat([image, image[:, :8]], 1), torch.cat([weight, weight[:, :8]], 1)),
        (image[..., :5, :5], weight),
        (image[:0], weight),
        (image[:2], weight),  # the weights would take most of the time
    ]:
        assert not suits_winograd(other, kernel)
        assert torch.equal(conv3x3(other, kernel), direct(other, kernel))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv3x3(image, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("side", [(1, 1), (5, 5), (3, 1)], ids=str)
def test_weights_of_another_size(side):
    image, weight = inputs_of(8, 64, 64, 16, 16)[0], numbers(64, 64, *side).float()
    assert not suits_winograd(image, weight)
    assert torch.equal(conv3x3(image, weight), direct(image, weight))


@pytest.mark.parametrize(
    ("image", "weight"),
    [((8, 64, 16, 16), (64, 80, 3, 3)), ((8, 64, 16, 16), (64, 64, 3)), ((16,), (64, 64, 3, 3))],
    ids=str,
)
def test_what_does_not_fit_is_an_error_of_torch(image, weight):
    image, weight = torch.zeros(image), torch.zeros(weight)
    with pytest.raises(RuntimeError) as expected:
        direct(image, weight)
    with pytest.raises(RuntimeError) as found:
        conv3x3(image, weight)
    assert str(found.value) == str(expected.value)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode():
    image, weight = inputs_of(4, 64, 64, 8, 8)
    with forward_ad.dual_level():
        found = conv3x3(image, forward_ad.make_dual(weight, 2 * weight))
        slope = forward_ad.unpack_dual(found).tangent
    torch.testing.assert_close(slope, 2 * direct(image, weight))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_torch_func_and_compile():
    image, weight = inputs_of(4, 64, 64, 8, 8)
    expected = direct(image, weight)
    mapped = torch.func.vmap(lambda x: conv3x3(x[None], weight)[0])(image)
    torch.testing.assert_close(mapped, expected)
    slope = torch.func.jvp(lambda x: conv3x3(x, weight), (image,), (image,))[1]
    torch.testing.assert_close(slope, expected)
    compiled = torch.compile(conv3x3, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image, weight), expected)
