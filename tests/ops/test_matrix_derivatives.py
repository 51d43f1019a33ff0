"""The matrix: derivatives of any order, and the transforms of torch.func."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad

from stssad_fast.ops import reference

from .cases import cotangent, exact, wanting

# torch's own: forward mode loads its decompositions.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)


@pytest.fixture
def inputs(case, registration):
    return tuple(value.to(registration.device) for value in case.inputs)


def test_first_order(case, backend):
    leaves = wanting([value.to(backend.device) for value in case.inputs])
    torch.autograd.gradcheck(backend.op(case.op), leaves, fast_mode=backend.slow)


@pytest.mark.large
def test_first_order_of_each_input_alone(case, backend):
    inputs = [value.to(backend.device) for value in case.inputs]
    for position in range(len(inputs)):
        which = [i == position for i in range(len(inputs))]
        torch.autograd.gradcheck(backend.op(case.op), wanting(inputs, which))


@pytest.mark.large
def test_first_order_forward_and_batched(case, registration, inputs):
    torch.autograd.gradcheck(
        registration.op(case.op),
        wanting(inputs),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.large
def test_second_order(case, registration, inputs):
    # On a GPU, `gather` in the reference's backward is differentiated in an order that changes.
    torch.autograd.gradgradcheck(
        registration.op(case.op),
        wanting(inputs),
        check_fwd_over_rev=True,
        nondet_tol=1e-12 if registration.device == "cuda" else 0.0,
    )


def test_third_order(case, registration, inputs, assert_close):
    """That of the last input: the hyperparameter, or the test set."""

    def slopes(op):
        leaf = wanting(inputs)[-1]
        value = op(*inputs[:-1], leaf)
        for _ in range(3):
            value = torch.autograd.grad(value.square().sum(), leaf, create_graph=True)[0]
        return value

    found = slopes(registration.op(case.op))
    scale = found.detach().abs().max()
    assert scale > 0
    assert_close(found / scale, slopes(getattr(reference, case.op)) / scale)


def test_torch_func(case, registration, inputs, assert_close):
    op, every = registration.op(case.op), tuple(range(len(inputs)))
    weight = cotangent(case.op, inputs)
    result, expected = exact(case.op, inputs, weight)

    def weighted(*values):
        return (op(*values) * weight).sum()

    value, pull = torch.func.vjp(op, *inputs)
    assert_close(value, result)
    for found in (torch.func.grad(weighted, every)(*inputs), pull(weight)):
        for f, e in zip(found, expected, strict=True):
            assert_close(f, e)
    directions = tuple(torch.linspace(-1, 2, v.numel()).reshape(v.shape).to(v) for v in inputs)
    value, slope = torch.func.jvp(weighted, inputs, directions)
    assert_close(value, (result * weight.cpu()).sum())
    steps = sum((d.cpu() * e).sum() for d, e in zip(directions, expected, strict=True))
    assert_close(slope, steps)


def test_forward_mode_of_inputs_that_want_no_gradient(case, registration, inputs, assert_close):
    op = registration.op(case.op)
    direction = torch.ones_like(inputs[-1])
    expected = torch.func.jvp(lambda v: op(*inputs[:-1], v), inputs[-1:], (direction,))[1]
    with torch.no_grad(), forward_ad.dual_level():
        found = op(*inputs[:-1], forward_ad.make_dual(inputs[-1], direction))
        assert_close(forward_ad.unpack_dual(found).tangent, expected)


def test_jacobians_and_hessian(case, registration, inputs, assert_close):
    op, last = registration.op(case.op), len(inputs) - 1  # the hyperparameter, or the test set
    weight = cotangent(case.op, inputs)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: getattr(reference, case.op)(*inputs[:-1], v), inputs[last]
    )
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        assert_close(transform(op, last)(*inputs), jacobian)
    hessian = torch.func.hessian(lambda *v: (op(*v) * weight).sum(), last)(*inputs)
    expected = torch.autograd.functional.hessian(
        lambda v: (getattr(reference, case.op)(*inputs[:-1], v) * weight).sum(), inputs[last]
    )
    assert hessian.abs().max() > 0
    assert_close(hessian, expected)


@pytest.mark.large
def test_vmap(case, registration, inputs, assert_close):
    """Over every choice of inputs: one picture per shape, one shape for all, and so on."""
    op = registration.op(case.op)

    def total(*values):
        return op(*values).square().sum()

    for mapped in itertools.product((False, True), repeat=len(inputs)):
        if not any(mapped):
            continue
        dims = tuple(-1 if m else None for m in mapped)
        stacked = tuple(
            torch.stack([v, 1.1 * v, 0.8 * v], -1) if m else v
            for v, m in zip(inputs, mapped, strict=True)
        )
        for function in (op, torch.func.grad(total, len(mapped) - 1)):
            found = torch.func.vmap(function, dims)(*stacked)
            for i in range(3):
                one = [v[..., i] if m else v for v, m in zip(stacked, mapped, strict=True)]
                assert_close(found[i], function(*one))


def test_gradients_per_sample(case, registration, inputs, assert_close):
    """vmap over grad, twice: every picture with a shape of its own, as a per-sample gradient."""
    op = registration.op(case.op)

    def total(*values):
        return op(*values).square().sum()

    every = tuple(range(len(inputs)))
    stacked = tuple(torch.stack([v, 0.9 * v]) for v in inputs)
    found = torch.func.vmap(torch.func.grad(total, every))(*stacked)
    for i in range(2):
        leaves = wanting([v[i] for v in stacked])
        loss = getattr(reference, case.op)(*leaves).square().sum()
        for f, e in zip(found, torch.autograd.grad(loss, leaves), strict=True):
            assert_close(f[i], e)
