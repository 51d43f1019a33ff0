"""The matrix, for ``normalize``: every row equals its op, then ``(result - mean) / std``.

What the op itself does is in the other files; here is what the normalisation adds to it.
"""

import pytest
import torch

from stssad_fast.ops import cutdiff, reference, rotate

from .backends import PICTURE_OPS
from .cases import (
    cotangent,
    cutdiff_case,
    expanded,
    far_from_kinks,
    layouts,
    prepared,
    rotate_case,
    wanting,
)

MAKE = {"cutdiff": cutdiff_case, "rotate": rotate_case}
pytestmark = [
    pytest.mark.parametrize("op", PICTURE_OPS),
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]


def constants(like, dtype=None):
    """Mean and standard deviation for each channel of a picture, no two alike."""
    dtype = dtype or (torch.float64 if like.dtype == torch.float64 else torch.float32)
    steps = torch.arange(like.shape[1], device=like.device, dtype=dtype)
    return 0.3 + 0.1 * steps, 1.9 / (1 + 0.5 * steps)


def exact(op, inputs, grad, mean, std):
    """The op in float64, what follows it as operations of its own, and all gradients."""
    leaves = wanting([value.detach().cpu().double() for value in inputs])
    mean, std = (value.cpu().double()[:, None, None] for value in (mean, std))
    result = (getattr(reference, op)(*leaves) - mean) / std
    return result, torch.autograd.grad(result, leaves, grad.cpu().double())


def compare(backend, op, inputs, assert_close):
    mean, std = constants(inputs[0])
    grad = cotangent(op, inputs)
    result, gradients = exact(op, inputs, grad, mean, std)
    leaves = wanting(inputs)
    found = backend.op(op)(*leaves, mean, std)
    assert found.dtype == inputs[0].dtype
    assert found.stride() == torch.empty_like(inputs[0]).stride()
    assert_close(found, result)
    for part, expected in zip(torch.autograd.grad(found, leaves, grad), gradients, strict=True):
        assert_close(part, expected)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_values_and_gradients(op, backend, dtype, each, assert_close):
    case = MAKE[op]((2, 3, 7, 9), each=(each, each) if op == "cutdiff" else each)
    compare(backend, op, prepared(case.inputs, dtype, backend.device), assert_close)


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (3, 5, 1, 6), (2, 2, 40, 70), (0, 3, 4, 4)])
def test_sizes(op, backend, size, assert_close):
    compare(backend, op, prepared(MAKE[op](size).inputs, device=backend.device), assert_close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_layouts(op, backend, dtype, assert_close):
    image, *rest = prepared(MAKE[op]((2, 3, 5, 7)).inputs, dtype, backend.device)
    for other in (layouts(image) | expanded(image)).values():
        compare(backend, op, (other, *rest), assert_close)


def test_no_channel_and_no_pixel(op, backend):
    for size in [(2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0)]:
        inputs = wanting(prepared(MAKE[op](size).inputs, device=backend.device))
        found = backend.op(op)(*inputs, *constants(inputs[0]))
        assert found.shape == size
        for part in torch.autograd.grad(found, inputs, torch.ones_like(found)):
            assert not part.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_subnormal_deviation(op, backend, dtype):
    """What is equal to the mean is 0, and so is a gradient of 0; 1 / std would be infinite."""
    image, *rest = prepared(MAKE[op]((2, 2, 3, 4)).inputs, dtype, backend.device)
    image = torch.zeros_like(image)  # zeros stay zeros
    tiny = torch.finfo(dtype).tiny * rest[0].new_tensor([2**-10, 2**-20])
    leaves = wanting([image, *rest])
    found = backend.op(op)(*leaves, torch.zeros_like(tiny), tiny)
    for part in (found, *torch.autograd.grad(found, leaves, torch.zeros_like(found))):
        assert not part.any()  # of NaN there are some


def test_derivatives(op, registration):
    inputs = prepared(MAKE[op]((1, 2, 3, 3)).inputs, device=registration.device)
    mean, std = constants(inputs[0])
    mask = far_from_kinks(op, inputs, margin=1e-3).to(inputs[0].device)

    def function(*values):
        return registration.op(op)(*values, mean, std) * mask

    leaves = wanting(inputs)
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)
    again = 1e-12 if registration.device == "cuda" else 0.0  # `gather`, as in test_second_order
    assert torch.autograd.gradgradcheck(function, leaves, nondet_tol=again)


def test_torch_func(op, registration, assert_close):
    image, *rest = prepared(MAKE[op]((2, 2, 4, 3)).inputs, device=registration.device)
    mean, std = constants(image)
    stacked = torch.stack([image, image.flip(0), 1 - image])

    def function(picture):
        return registration.op(op)(picture, *rest, mean, std)

    mapped = torch.func.vmap(function)(stacked)
    for found, picture in zip(mapped, stacked, strict=True):
        assert_close(found, function(picture))
    slopes = torch.func.vmap(torch.func.grad(lambda p: function(p).square().sum()))(stacked)
    assert_close(slopes[1], torch.func.grad(lambda p: function(p).square().sum())(stacked[1]))
    with pytest.raises(ValueError, match="mean and std cannot differ"):
        torch.func.vmap(lambda m: registration.op(op)(image, *rest, m, std))(mean.expand(3, -1))
    with pytest.raises(ValueError, match="mean and std have no derivative"):
        torch.func.jvp(lambda m: registration.op(op)(image, *rest, m, std), (mean,), (mean,))


def test_operators_and_compile(op, registration, assert_close):
    inputs = prepared(MAKE[op]((2, 3, 4, 5)).inputs, device=registration.device)
    fixed = constants(inputs[0])
    torch.library.opcheck(registration.forward(op), (*inputs, *fixed))
    needed = [True] * len(inputs)
    arguments = (cotangent(op, inputs), *inputs, needed, *fixed)
    torch.library.opcheck(registration.backward(op), arguments)

    torch._dynamo.reset()
    leaves = wanting(inputs)
    function = registration.op(op)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(*leaves, *fixed)
    plain = function(*leaves, *fixed)
    assert_close(compiled, plain)
    grad = cotangent(op, inputs)
    for f, e in zip(
        torch.autograd.grad(compiled, leaves, grad),
        torch.autograd.grad(plain, leaves, grad),
        strict=True,
    ):
        assert_close(f, e)


def test_public_function(op, assert_close):
    """Numbers, one for all channels or one each, and tensors of any dtype mean the same."""
    function = {
        "cutdiff": lambda x, **k: cutdiff(x, torch.tensor([0.3, 0.1, 0.2]), torch.ones(2) / 2, **k),
        "rotate": lambda x, **k: rotate(x, 20.0, **k),
    }[op]
    image = torch.rand(2, 3, 6, 5)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    plain = function(image)
    expected = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    for pair in [
        (mean, std),
        [torch.tensor(mean), tuple(std)],
        (torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)),
        (torch.tensor(mean).repeat_interleave(2)[::2], std),
    ]:
        assert_close(function(image, normalize=pair), expected)
    assert_close(function(image, normalize=(0.5, 0.25)), (plain - 0.5) / 0.25)
    assert torch.equal(function(image, normalize=None), plain)
    compiled = torch.compile(
        lambda x: function(x, normalize=(mean, std)), fullgraph=True, backend="aot_eager"
    )
    assert_close(compiled(image), expected)


WRONG = [
    (0.5, TypeError, "expected \\(mean, std\\)"),
    ((0.5,), TypeError, "expected \\(mean, std\\)"),
    (([0.5, 0.5], 1.0), ValueError, r"mean of normalize has shape \(2,\); expected \(\) or \(3,\)"),
    ((0.5, torch.ones(1, 3)), ValueError, "std of normalize has shape"),
    ((0.5, torch.ones(3, dtype=torch.int64)), TypeError, "std of normalize is torch.int64"),
    ((0.5, 0.0), ValueError, "std of normalize has values that are not positive"),
    ((0.5, [1.0, -1.0, 1.0]), ValueError, "std of normalize has values that are not positive"),
    ((0.5, float("nan")), ValueError, "std of normalize has values"),
    ((float("inf"), 1.0), ValueError, "mean of normalize has NaN or inf"),
    ((torch.ones(3, device="meta"), 1.0), ValueError, "mean of normalize is on meta, image on cpu"),
    ((torch.ones(3, requires_grad=True), 1.0), ValueError, "mean of normalize wants a gradient"),
]


@pytest.mark.parametrize(("normalize", "error", "words"), WRONG)
def test_wrong_arguments(op, normalize, error, words):
    image = torch.rand(2, 3, 4, 4)
    rest = (torch.ones(3),) if op == "cutdiff" else (30.0,)
    with pytest.raises(error, match=words):
        {"cutdiff": cutdiff, "rotate": rotate}[op](image, *rest, normalize=normalize)
