"""Batch normalisation: values, first and second derivatives on every backend."""

import contextlib
import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from stssad_fast.ops import batch_norm, reference
from stssad_fast.ops.batch_norm import has_kernel

from .backends import Backend
from .cases import layouts

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# Few and many pixels, whole vectors and their remainders, several chunks.
SIZES = [
    (4, 1, 1, 1),
    (5, 3, 1, 1),
    (1, 1, 1, 5),
    (1, 3, 4, 5),
    (3, 2, 7, 5),
    (2, 17, 3, 3),
    (2, 16, 4, 4),
    (4, 70, 5, 6),
    (3, 8, 67, 31),
]
FORMATS = [torch.contiguous_format, torch.channels_last]
KINDS = list(itertools.product((False, True), repeat=3))  # affine, residual, ReLU
FEW = [KINDS[0], KINDS[5], KINDS[7]]  # for the rows that are slow


PLACE = "cpu"  # the device of the row that a test runs on


@pytest.fixture(autouse=True)
def place(request, monkeypatch):
    """Everything is drawn where the row's kernels are; elsewhere others would answer."""
    values = request.node.callspec.params.values() if hasattr(request.node, "callspec") else ()
    for row in values:
        if isinstance(row, Backend):
            monkeypatch.setattr(sys.modules[__name__], "PLACE", row.device)


def draw(*size, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(size))
    return torch.randn(size, generator=generator, dtype=torch.float64).to(PLACE)


def problem(size, affine=True, residual=True, relu=True, dtype=torch.float64, layout=None):
    """Arguments as the operator takes them; no number is near ReLU's kink."""
    x, other = draw(*size), draw(*size, seed=1)
    gamma, beta = (
        (1.5 + draw(size[1], seed=2).tanh(), draw(size[1], seed=3)) if affine else (None,) * 2
    )
    if relu:
        for _ in range(20):  # moving numbers moves the statistics
            before = reference.batch_norm(x, gamma, beta, other if residual else None, False, 1e-5)[
                0
            ]
            near = before.abs() < 1e-2
            x, other = x + 0.1 * near, other + 0.1 * near
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    pictures = [
        value.to(dtype).contiguous(memory_format=layout or torch.contiguous_format)
        for value in (x, other)
    ]
    rest = [None if value is None else value.to(arithmetic) for value in (gamma, beta)]
    return pictures[0], *rest, pictures[1] if residual else None, relu, 1e-5


def leaves_of(arguments, wanted=(True,) * 4):
    return tuple(
        value.detach().requires_grad_(wanted[i]) if isinstance(value, torch.Tensor) else value
        for i, value in enumerate(arguments)
    )


def in_double(arguments):
    return tuple(
        value.detach().double() if isinstance(value, torch.Tensor) else value for value in arguments
    )


def cotangents(like, seed=7):
    return [
        None if value is None else torch.empty_like(value).copy_(draw(*value.shape, seed=seed + i))
        for i, value in enumerate(like)
    ]


def derivatives(op, arguments, grad, second):
    """y, mean, var; all first derivatives, and those of these weighed by ``second``."""
    leaves = leaves_of(arguments)
    tensors = [value for value in leaves[:4] if value is not None]
    grad = grad.detach().requires_grad_()
    results = op(*leaves)
    first = torch.autograd.grad(results[0], tensors, grad, create_graph=True)
    weights = [weight.to(part) for weight, part in zip(second, first, strict=True)]
    inputs = [grad, *tensors[: 1 if arguments[1] is None else 2]]
    found = torch.autograd.grad(first, inputs, weights, allow_unused=True)
    return results, first, found


def compare(row, arguments, assert_close, grad=None, exactly=None, statistics=True):
    """With the reference in float64, of the same arguments or of some that come to the same."""
    grad = cotangents([arguments[0]])[0] if grad is None else grad
    second = cotangents([value for value in arguments[:4] if value is not None], seed=11)
    expected = derivatives(
        reference.batch_norm,
        in_double(exactly or arguments),
        grad.double(),
        [v.double() for v in second],
    )
    found = derivatives(row.op("batch_norm"), arguments, grad, second)
    x = arguments[0]
    assert {value.device.type for values in found for value in values} == {row.device}
    if not statistics:
        found, expected = ((of[0][:1], *of[1:]) for of in (found, expected))
    for values, exact in zip(found, expected, strict=True):
        for value, e in zip(values, exact, strict=True):
            scale = max(1.0, e.abs().max().item())
            assert_close((value.detach().double() / scale).to(value.dtype), e / scale)
            if value.dim() == 4:
                assert value.dtype == x.dtype
                assert value.stride() == torch.empty_like(x).stride()
    for statistic in found[0][1:]:  # none if they are not to be compared
        assert statistic.dtype == torch.float64 and not statistic.requires_grad


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values_and_derivatives(backend, size, layout, assert_close):
    if backend.slow and torch.Size(size).numel() > 5000:
        pytest.skip("large")
    for kind in FEW if backend.slow else KINDS:
        compare(backend, problem(size, *kind, layout=layout), assert_close)


def of_torch(x, gamma, beta, residual, relu, eps):
    """Of PyTorch's own operations."""
    y = F.batch_norm(x, None, None, gamma, beta, True, 0.0, eps)
    y = y if residual is None else y + residual
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    return F.relu(y) if relu else y, mean, var


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_equals_that_of_torch(backend, kind, layout):
    arguments = problem((4, 5, 6, 7), *kind, layout=layout)
    grad = cotangents(arguments[:1])[0]
    second = cotangents([value for value in arguments[:4] if value is not None], seed=11)
    found = derivatives(backend.op("batch_norm"), arguments, grad, second)
    expected = derivatives(of_torch, arguments, grad, second)
    for values, others in zip(found, expected, strict=True):
        for value, other in zip(values, others, strict=True):
            torch.testing.assert_close(value, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_narrow_numbers(kernel, layout, dtype, assert_close):
    """ReLU's mask is that of the exact result, hence its rounding must not meet a kink."""
    for size in ((2, 3, 6, 9),) if kernel.slow else ((4, 20, 6, 9), (3, 3, 33, 17)):
        for kind in FEW if kernel.slow else KINDS:
            compare(kernel, problem(size, *kind, dtype=dtype, layout=layout), assert_close)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradcheck(registration, kind):
    if registration.slow and kind not in FEW[1:]:
        pytest.skip("slow")
    arguments = leaves_of(problem((3, 2, 2, 3), *kind))
    op = registration.op("batch_norm")
    fast = registration.slow
    torch.autograd.gradcheck(lambda *a: op(*a)[0], arguments, fast_mode=fast)
    torch.autograd.gradgradcheck(lambda *a: op(*a)[0], arguments, fast_mode=fast)


def test_third_order(registration, assert_close):
    """Where a graph of the second derivative is wanted, it is the reference's formula.

    PyTorch's own (2.13) is wrong here: to its third derivative the statistics are constants.
    """
    arguments = problem((3, 2, 2, 3))

    def slope(op):
        leaves = leaves_of(arguments)
        value = op(*leaves)[0]
        for _ in range(3):
            value = torch.autograd.grad(value.square().sum(), leaves[0], create_graph=True)[0]
        return value.detach()

    found, expected = slope(registration.op("batch_norm")), slope(reference.batch_norm)
    assert_close(found / expected.abs().max(), expected / expected.abs().max())


@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=4)), ids=str)
def test_only_what_is_wanted(backend, wanted, assert_close):
    arguments = problem((2, 3, 4, 5))
    op = backend.op("batch_norm")
    leaves = leaves_of(arguments, wanted)
    y, mean, var = op(*leaves)
    assert y.requires_grad == any(wanted)
    grad = cotangents([y])[0]
    full = reference.batch_norm_backward(grad, arguments[0], arguments[1], y.detach(), 1e-5)
    parts = backend.operators.batch_norm_backward(
        grad, arguments[0], arguments[1], y.detach(), mean, var, 1e-5, list(wanted)
    )
    for part, exact, want in zip(parts, full, wanted, strict=True):
        assert part.shape == (exact.shape if want else (0,))
        if want:
            assert_close(part, exact)
    if any(wanted):
        y.backward(grad)
    for leaf, want, exact in zip(leaves, wanted, full, strict=False):
        assert (leaf.grad is not None) == want
        if want:
            assert_close(leaf.grad, exact)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("given", list(itertools.product((False, True), repeat=4)), ids=str)
def test_cotangents_that_are_absent(backend, given, relu, assert_close):
    x, gamma, beta, residual, *_ = problem((2, 3, 4, 5), relu=relu)
    y, mean, var = reference.batch_norm(x, gamma, beta, residual, relu, 1e-5)
    grad, mask = cotangents([y])[0], y if relu else None
    v = [
        value if some else None
        for value, some in zip(cotangents((x, gamma, beta, residual), 11), given, strict=True)
    ]
    zeros = [
        torch.zeros_like(t) if part is None else part
        for part, t in zip(v, (x, gamma, beta, x), strict=True)
    ]
    expected = reference.batch_norm_double_backward(*zeros, grad, x, gamma, mask, 1e-5)
    for needed in itertools.product((False, True), repeat=3):
        found = backend.operators.batch_norm_double_backward(
            *v, grad, x, gamma, mask, mean, var, 1e-5, list(needed)
        )
        for part, exact, want in zip(found, expected, needed, strict=True):
            assert part.shape == (exact.shape if want else (0,))
            if want:
                assert_close(part / 10, exact / 10)


class Sizes(TorchDispatchMode):
    """Notes which operators made something of a picture's size."""

    def __init__(self, count):
        super().__init__()
        self.count, self.names = count, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        parts = found if isinstance(found, tuple) else (found,)
        if any(isinstance(part, torch.Tensor) and part.numel() >= self.count for part in parts):
            self.names.append(func.name())
        return found


def test_nothing_of_a_pictures_size_is_made_beside_the_results():
    """The last reverse pass of a bilevel step: cotangents for the parameters' gradients alone."""
    leaves = leaves_of(problem((4, 3, 8, 8)))
    y = batch_norm(*leaves[:4], relu=True)[0]
    with Sizes(y.numel()) as made:
        first = torch.autograd.grad(y, leaves[:3], torch.ones_like(y), create_graph=True)
        torch.autograd.grad(first[1:], leaves[0], [torch.ones(3, dtype=y.dtype)] * 2)
    ours = [name for name in made.names if name not in ("aten::ones_like", "aten::detach")]
    assert ours == ["stssad_fast::batch_norm_backward", "stssad_fast::batch_norm_double_backward"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_layouts(backend, dtype, assert_close):
    arguments = problem((3, 5, 4, 6), dtype=dtype)
    x, gamma, beta, residual, *rest = arguments
    op = backend.op("batch_norm")
    grad = cotangents([x])[0]
    if (not backend.kernel and dtype != torch.float64) or (backend.slow and dtype.itemsize != 4):
        pytest.skip("the kernels' promise, and slow")
    expected = None
    last = x.contiguous(memory_format=torch.channels_last).stride()
    places = itertools.product(layouts(residual).values(), layouts(grad).values())
    if backend.slow:
        places = zip(layouts(residual).values(), layouts(grad).values(), strict=True)
    places = list(places)
    for other in (x, *layouts(x).values()):
        for along, slope in places:
            leaves = leaves_of((other, gamma, beta, along, *rest))
            y = op(*leaves)[0]
            assert y.stride() == (last if other.stride() == last else x.stride())
            found = [y, *torch.autograd.grad(y, leaves[:4], slope)]
            if expected is None:
                expected = found
            for f, e in zip(found, expected, strict=True):
                assert_close(f, e)
        if other.is_contiguous() or other.is_contiguous(memory_format=torch.channels_last):
            compare(backend, (other, gamma, beta, residual, *rest), assert_close)


def test_expanded_gradients(backend, assert_close):
    """Pooling's and sum's gradients are one number for many pixels."""
    for layout in FORMATS:
        arguments = problem((2, 3, 4, 5), layout=layout)
        for grad in (draw(2, 3, 1, 1).expand(2, 3, 4, 5), draw(1, 1, 1, 1).expand(2, 3, 4, 5)):
            compare(backend, arguments, assert_close, grad)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4 / 3])
def test_constant_channels(kernel, value, layout, assert_close):
    """Exactly: the mean of equal numbers is that number."""
    arguments, exactly = (list(problem((4, 3, 5, 6), relu=False, layout=layout)) for _ in "ab")
    arguments[0][:, 1], exactly[0][:, 1] = value, 0.0
    y, mean, var = kernel.op("batch_norm")(arguments[0], None, None, None, False, 1e-5)
    assert mean[1] == value and var[1] == 0 and not y[:, 1].any()
    compare(kernel, tuple(arguments), assert_close, exactly=tuple(exactly), statistics=False)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("mean", [-1e2, 1e4])
def test_a_large_mean_keeps_the_digits(kernel, mean, layout, assert_close):
    size = (8, 3, 9, 13) if kernel.slow else (8, 20, 9, 13)
    arguments = list(problem(size, relu=False, layout=layout))
    arguments[0] = arguments[0] + mean
    single = [v.float() if isinstance(v, torch.Tensor) else v for v in arguments]
    compare(kernel, tuple(single), assert_close)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_a_first_number_far_from_the_others(kernel, layout, assert_close):
    size = (8, 3, 9, 13) if kernel.slow else (8, 20, 9, 13)
    arguments = list(problem(size, relu=False, dtype=torch.float32, layout=layout))
    arguments[0][0, :, 0, 0] += 1e6
    compare(kernel, tuple(arguments), assert_close)


def test_statistics_are_those_of_the_batch(kernel):
    x = (draw(*((4, 3, 12, 20) if kernel.slow else (16, 3, 20, 30))) + 1e4).float()
    for layout in FORMATS:
        _, mean, var = kernel.op("batch_norm")(
            x.contiguous(memory_format=layout), None, None, None, False, 1e-5
        )
        exact = x.double()
        torch.testing.assert_close(mean, exact.mean((0, 2, 3)), rtol=1e-14, atol=0)
        torch.testing.assert_close(var, exact.var((0, 2, 3), correction=0), rtol=1e-11, atol=0)


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("size", [(4, 6, 64, 64), (64, 96, 7, 5)], ids=str)
def test_threads_change_no_bit(kernel, size, layout):
    if kernel.slow:
        pytest.skip("the interpreter has one thread")
    arguments = problem(size, relu=False, dtype=torch.float32, layout=layout)[:4]
    grad, *second = cotangents([arguments[0], *arguments])

    def everything():
        parts = derivatives(kernel.op("batch_norm"), (*arguments, True, 1e-5), grad, second)
        return [value for part in parts for value in part]

    with threads(1):
        expected = everything()
    for count in (1, 2, 3, 7):
        with threads(count):
            assert all(torch.equal(f, e) for f, e in zip(everything(), expected, strict=True))


def test_every_result_is_written(backend, assert_close):
    """What a kernel does not write is NaN here."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        for layout in FORMATS:
            for size in ((3, 2, 7, 5), (2, 17, 3, 3), (5, 3, 1, 1)):
                compare(backend, problem(size, layout=layout), assert_close)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_operators_are_registered_properly(registration, kind, layout):
    arguments = problem((2, 3, 4, 5), *kind, layout=layout)
    operators = registration.operators
    torch.library.opcheck(operators.batch_norm.default, arguments)
    x, gamma, *_ = arguments
    y, mean, var = operators.batch_norm(*arguments)
    mask = y if arguments[4] else None
    for needed in ([True] * 4, [False, True, True, False]):
        torch.library.opcheck(
            operators.batch_norm_backward.default,
            (torch.ones_like(x), x, gamma, mask, mean, var, 1e-5, needed),
        )
    v = (torch.ones_like(x), torch.ones_like(mean), None, x)
    for needed in ([True] * 3, [False, True, False]):
        torch.library.opcheck(
            operators.batch_norm_double_backward.default,
            (*v, torch.ones_like(x), x, gamma, mask, mean, var, 1e-5, needed),
        )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_transforms_and_compile(kind, assert_close):
    """There it is the reference."""
    arguments = problem((3, 2, 4, 5), *kind)
    tensors = [value for value in arguments[:4] if value is not None]
    names = [
        n
        for n, v in zip(("x", "gamma", "beta", "residual"), arguments, strict=False)
        if v is not None
    ]

    def total(*values):
        return batch_norm(**dict(zip(names, values, strict=True)), relu=kind[2])[0].square().sum()

    leaves = [value.detach().requires_grad_() for value in tensors]
    expected = torch.autograd.grad(total(*leaves), leaves)
    every = tuple(range(len(tensors)))
    found = torch.func.grad(total, every)(*tensors)
    stacked = [torch.stack([value, value]) for value in tensors]
    mapped = torch.func.vmap(torch.func.grad(total, every))(*stacked)
    torch._dynamo.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    from_compiled = torch.autograd.grad(compiled(*leaves), leaves)
    for e, f, m, c in zip(expected, found, mapped, from_compiled, strict=True):
        assert_close(f, e)
        assert_close(m[1], e)
        assert_close(c, e)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode(assert_close):
    x, gamma, beta, residual, relu, eps = problem((3, 2, 4, 5))
    direction = draw(*x.shape, seed=5)

    def function(x):
        return batch_norm(x, gamma, beta, residual, relu=relu, eps=eps)[0]

    with forward_ad.dual_level():
        found = function(forward_ad.make_dual(x, direction))
        slope = forward_ad.unpack_dual(found).tangent
        assert not has_kernel(x)  # PyTorch's own is faster than the reference
    step = 1e-6
    assert_close(found, function(x))
    difference = function(x + step * direction) - function(x - step * direction)
    torch.testing.assert_close(slope, difference / (2 * step), atol=1e-7, rtol=1e-7)


class NoOperators(TorchDispatchMode):
    """Within it, every call of an operator of ours is an error."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.namespace != "stssad_fast", f"{func} was entered"
        return func(*args, **(kwargs or {}))


X, ONES = torch.rand(2, 3, 4, 5), torch.ones(3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": X.int()}, TypeError, "x is torch.int32"),
        ({"x": X.numpy()}, TypeError, "x is ndarray"),
        ({"x": X[0]}, ValueError, r"expected \(B, C, H, W\)"),
        ({"x": X[:1, :, :1, :1]}, ValueError, "more than one number for each channel"),
        ({"x": X[:0]}, ValueError, "more than one number for each channel"),
        ({"x": X[:, :0], "gamma": None}, ValueError, "more than one number for each channel"),
        ({"gamma": torch.ones(2)}, ValueError, r"gamma has shape \(2,\); expected \(3,\)"),
        ({"gamma": ONES.int()}, TypeError, "gamma is torch.int32"),
        ({"gamma": ONES.to("meta")}, ValueError, "gamma is on meta, x on cpu"),
        ({"beta": torch.ones(3, 1)}, ValueError, "beta has shape"),
        ({"beta": 0.0}, TypeError, "beta is float"),
        ({"residual": X[:1]}, ValueError, "residual has shape"),
        ({"residual": X.double()}, TypeError, "residual is torch.float64, x torch.float32"),
        ({"residual": X.to("meta")}, ValueError, "residual is on meta"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with NoOperators(), pytest.raises(error, match=message):
        batch_norm(**{"x": X, "gamma": ONES, **arguments})
