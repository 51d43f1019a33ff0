"""The matrix: torch.library's checks, torch.compile, autocast."""

import pytest
import torch
from functorch.compile import aot_function
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from stssad_fast import ops

from .backends import OPS, PICTURE_OPS
from .cases import (
    CASES,
    cotangent,
    cutdiff_case,
    expanded,
    layouts,
    loss_case,
    prepared,
    rotate_case,
    run_backward,
    wanting,
)

# torch's own: Dynamo meets an autograd Function, forward mode loads its decompositions.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    torch._dynamo.reset()


def check_operators(row, op, inputs, needed):
    grad = cotangent(op, inputs)
    torch.library.opcheck(row.forward(op), inputs)
    result = row.forward(op)(*inputs)
    notes = result[1:] if isinstance(result, tuple) else ()
    torch.library.opcheck(row.backward(op), (grad, *notes, *inputs, needed))


def test_operators_are_registered_properly(case, registration):
    inputs = tuple(value.to(registration.device) for value in case.inputs)
    needed = [False] * len(inputs)
    check_operators(registration, case.op, inputs, [True, *needed[1:]])
    check_operators(registration, case.op, inputs, [*needed[1:], True])
    check_operators(registration, case.op, inputs, [True] * len(inputs))


@pytest.mark.parametrize(
    "case", [cutdiff_case((2, 3, 5, 4)), rotate_case((2, 3, 5, 4))], ids=OPS[:2]
)
def test_fake_results_lie_in_memory_as_real_ones(case, registration):
    image, *rest = prepared(case.inputs, torch.bfloat16, registration.device)
    for name, other in (layouts(image) | expanded(image)).items():
        inputs = (other, *rest)
        grad = cotangent(case.op, inputs)
        with torch._subclasses.FakeTensorMode() as mode:
            fakes = [mode.from_tensor(value) for value in inputs]
            fake = registration.forward(case.op)(*fakes)
            needed = [True] * len(inputs)
            fake_parts = run_backward(registration, case.op, fakes, mode.from_tensor(grad), needed)
        real = registration.forward(case.op)(*inputs)
        parts = run_backward(registration, case.op, inputs, grad, needed)
        for r, f in zip((real, *parts), (fake, *fake_parts), strict=True):
            assert (r.shape, r.stride(), r.dtype) == (f.shape, f.stride(), f.dtype), name


@pytest.mark.parametrize("wanted", [True, False])
def test_compile(case, registration, wanted, assert_close):
    inputs = tuple(value.to(registration.device) for value in case.inputs)
    inputs = wanting(inputs) if wanted else inputs
    op = registration.op(case.op)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")(*inputs)
    plain = op(*inputs)
    assert_close(compiled, plain)
    if wanted:
        grad = cotangent(case.op, inputs)
        found = torch.autograd.grad(compiled, inputs, grad)
        for f, e in zip(found, torch.autograd.grad(plain, inputs, grad), strict=True):
            assert_close(f, e)


DYNAMIC = {
    "cutdiff": lambda n: cutdiff_case((n, 2, 3, 4)),
    "cutdiff each": lambda n: cutdiff_case((n, 2, 3, 4), each=(True, True)),
    "rotate": lambda n: rotate_case((n, 2, 3, 4)),
    "rotate each": lambda n: rotate_case((n, 2, 3, 4), each=True),
    "mean_distance_loss": lambda n: loss_case((n, n + 1, n + 2), 3),
}


@pytest.mark.large
@pytest.mark.parametrize("name", DYNAMIC)
def test_compile_for_any_batch(name, registration, assert_close):
    counter = CompileCounterWithBackend("aot_eager")
    op = registration.op(name.split()[0])
    compiled = torch.compile(op, fullgraph=True, backend=counter)
    for n in (4, 3, 7):
        case = DYNAMIC[name](n)
        inputs = wanting([value.to(registration.device) for value in case.inputs])
        for value in inputs:
            if len(value) > 1:
                torch._dynamo.mark_dynamic(value, 0)
        grad = cotangent(case.op, inputs)
        found = compiled(*inputs)
        assert_close(found, op(*inputs))
        for f, e in zip(
            torch.autograd.grad(found, inputs, grad),
            torch.autograd.grad(op(*inputs), inputs, grad),
            strict=True,
        ):
            assert_close(f, e)
    assert counter.frame_count == 1


def test_compile_of_the_public_functions(assert_close):
    image, shape = torch.rand(2, 3, 8, 8), torch.tensor([0.3, 0.1, 0.2])

    def together(image, shape, center, angle):
        cut = ops.cutdiff(image, shape, center)
        turned = ops.rotate(cut, angle) + ops.rotate(image, 30.0)
        return ops.mean_distance_loss(image.flatten(1), cut.flatten(1), turned.flatten(1))

    inputs = wanting([image, shape, torch.rand(2, 2), torch.tensor(20.0)])
    compiled = torch.compile(together, fullgraph=True, backend="aot_eager")
    for function in (compiled, together):
        found = function(*inputs)
        gradients = torch.autograd.grad(found, inputs)
        if function is compiled:
            first = (found, *gradients)
    for f, e in zip(first, (found, *gradients), strict=True):
        assert_close(f, e)


def test_compile_for_any_batch_with_default_centres():
    counter = CompileCounterWithBackend("aot_eager")
    shape = torch.tensor([0.3, 0.1, 0.2])
    compiled = torch.compile(lambda x: ops.cutdiff(x, shape), fullgraph=True, backend=counter)
    for batch in (4, 5, 7):
        assert compiled(torch.rand(batch, 3, 8, 8)).shape == (batch, 3, 8, 8)
    assert counter.frame_count == 2  # the first size alone, then any


PUBLIC = {
    "cutdiff": (lambda x, s: ops.cutdiff(x, s), [(2, 3, 8, 8), (3,)]),
    "cutdiff at": (lambda x, s, c: ops.cutdiff(x, s, c), [(2, 3, 8, 8), (3,), (2, 2)]),
    "rotate": (lambda x, a: ops.rotate(x, a, normalize=(0.5, 0.5)), [(2, 3, 8, 8), ()]),
    "mean_distance_loss": (ops.mean_distance_loss, [(3, 4), (2, 4), (5, 4)]),
    "patch_shape": (lambda size: ops.patch_shape(size, 1.0, 30.0), [(4,)]),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_tensors_that_hold_no_numbers(name):
    """Nothing is looked at where shapes are worked out or a graph is traced."""
    function, sizes = PUBLIC[name]
    inputs = wanting([torch.rand(size) for size in sizes])
    real = function(*inputs)
    with FakeTensorMode() as mode:
        found = function(*map(mode.from_tensor, inputs))
        assert (found.shape, found.dtype) == (real.shape, real.dtype)
        found.sum().backward()
    values = [value.detach() for value in inputs]
    for how in ("real", "fake", "symbolic"):
        traced = make_fx(function, tracing_mode=how)(*values)
        assert traced(*values).shape == real.shape
    captured = aot_function(function, lambda graph, _: graph)(*inputs)
    assert captured.shape == real.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(case, backend, dtype):
    inputs = prepared(case.inputs, dtype, backend.device)
    grad = cotangent(case.op, inputs)

    def results():
        leaves = wanting(inputs)
        found = backend.op(case.op)(*leaves)
        return found, *torch.autograd.grad(found, leaves, grad)

    plain = results()
    with torch.autocast(backend.device, torch.bfloat16):
        cast = results()
    for p, c in zip(plain, cast, strict=True):
        assert p.dtype == c.dtype
        assert torch.equal(p, c)


@pytest.mark.parametrize("op", PICTURE_OPS)
def test_autocast_around_a_network(registration, op):
    """What a network hands over under autocast is bfloat16; the gradient comes back so."""
    image, *rest = prepared(CASES[op].inputs, torch.float32, registration.device)
    rest[0].requires_grad_()
    convolution = torch.nn.Conv2d(2, 2, 1, device=registration.device)
    for parameter in convolution.parameters():  # so that what CutDiff receives lies within (0, 1)
        torch.nn.init.constant_(parameter, 0.3)
    with torch.autocast(registration.device, torch.bfloat16):
        hidden = convolution(image)
        assert hidden.dtype == torch.bfloat16
        found = registration.op(op)(hidden, *rest)
        assert found.dtype == torch.bfloat16
        loss = convolution(found).float().square().mean()
    loss.backward()
    assert rest[0].grad.dtype == torch.float32
    assert torch.isfinite(rest[0].grad).all() and rest[0].grad.any()
    assert convolution.weight.grad.any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_no_gradient_is_recorded(case, registration, mode):
    inputs = wanting([value.to(registration.device) for value in case.inputs])
    plain = registration.op(case.op)(*inputs)
    with mode():
        found = registration.op(case.op)(*inputs)
    assert plain.requires_grad and not found.requires_grad
    assert torch.equal(found, plain)
