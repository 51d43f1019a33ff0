"""What holds for every op alike: derivatives of any order, torch.func, torch.compile, layouts."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from stssad_fast.ops import cutdiff, mean_distance_loss, reference, rotate

# torch's own: Dynamo meets an autograd Function, forward mode loads its decompositions.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]


class Case(NamedTuple):
    op: Callable[..., Tensor]
    name: str
    inputs: tuple[Tensor, ...]


def numbers(*size, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(sum(size))
    return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


IMAGE = numbers(2, 2, 3, 4)
SETS = (numbers(3, 2), numbers(2, 2, high=2.0), numbers(4, 2))
CASES = {
    "cutdiff": Case(
        cutdiff, "cutdiff", (IMAGE, tensor([[0.4, 0.2, -0.3]]), tensor([[0.45, 0.52]]))
    ),
    "cutdiff each": Case(
        cutdiff,
        "cutdiff",
        (
            IMAGE,
            tensor([[0.4, 0.2, -0.3], [-0.2, 0.1, 0.5]]),
            tensor([[0.45, 0.52], [0.1, 0.9]]),
        ),
    ),
    "rotate": Case(rotate, "rotate", (IMAGE, tensor([33.3]))),
    "rotate each": Case(rotate, "rotate", (IMAGE, tensor([33.3, -128.0]))),
    "loss": Case(mean_distance_loss, "mean_distance_loss", SETS),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def wanting(inputs, which=None):
    return tuple(
        value.clone().requires_grad_(which is None or which[i]) for i, value in enumerate(inputs)
    )


def cotangent(result):
    return torch.linspace(-1, 2, result.numel(), dtype=result.dtype).reshape(result.shape)


def test_the_cases_keep_away_from_kinks():
    for name in ("cutdiff", "cutdiff each"):
        image, shape, center = CASES[name].inputs
        cut = image - reference._patch(shape, center, 3, 4)[0][:, None]
        assert torch.minimum(cut.abs(), (cut - 1).abs()).min() > 1e-4
        assert (cut > 0).any() and (cut < 0).any(), "both sides of the clamp are wanted"
    for name in ("rotate", "rotate each"):
        for source in reference._sampling(CASES[name].inputs[1], 3, 4)[:2]:
            assert (source - source.round()).abs().min() > 1e-3


def test_first_order(case):
    torch.autograd.gradcheck(
        case.op,
        wanting(case.inputs),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


def test_second_order(case):
    torch.autograd.gradgradcheck(case.op, wanting(case.inputs), check_fwd_over_rev=True)


def test_the_formula_of_the_backward_is_the_derivative_of_the_forward(case, assert_close):
    inputs = wanting(case.inputs)
    result = getattr(reference, case.name)(*inputs)
    expected = torch.autograd.grad(result, inputs, cotangent(result))
    found = getattr(reference, case.name + "_backward")(cotangent(result), *inputs)
    for f, e in zip(found, expected, strict=True):
        assert_close(f, e)


def test_only_what_is_wanted_is_differentiated(case, assert_close):
    result = case.op(*wanting(case.inputs))
    full = torch.autograd.grad(
        case.op(*(leaves := wanting(case.inputs))), leaves, cotangent(result)
    )
    for which in itertools.product((False, True), repeat=len(case.inputs)):
        inputs = wanting(case.inputs, which)
        found = case.op(*inputs)
        assert found.requires_grad == any(which)
        if any(which):
            found.backward(cotangent(result))
        for value, wanted, expected in zip(inputs, which, full, strict=True):
            assert (value.grad is not None) == wanted
            if wanted:
                assert_close(value.grad, expected)


def test_torch_func(case, assert_close):
    inputs, every = case.inputs, tuple(range(len(case.inputs)))
    leaves = wanting(inputs)
    result = case.op(*leaves)
    expected = torch.autograd.grad(result, leaves, cotangent(result))

    def weighted(*values):
        return (case.op(*values) * cotangent(result)).sum()

    value, pull = torch.func.vjp(case.op, *inputs)
    assert_close(value, result)
    for found in (torch.func.grad(weighted, every)(*inputs), pull(cotangent(result))):
        for f, e in zip(found, expected, strict=True):
            assert_close(f, e)
    directions = tuple(cotangent(value) for value in inputs)
    slope = torch.func.jvp(weighted, inputs, directions)[1]
    assert_close(slope, sum((d * e).sum() for d, e in zip(directions, expected, strict=True)))

    last = every[-1]  # the hyperparameter, or the test set
    assert_close(
        torch.func.jacrev(case.op, last)(*inputs), torch.func.jacfwd(case.op, last)(*inputs)
    )
    hessian = torch.func.hessian(weighted, last)(*inputs)
    plain = torch.autograd.functional.hessian(
        lambda v: (getattr(reference, case.name)(*inputs[:-1], v) * cotangent(result)).sum(),
        inputs[last],
    )
    assert hessian.abs().max() > 0
    assert_close(hessian, plain)


def test_vmap(case, assert_close):
    def total(*values):
        return case.op(*values).square().sum()

    for mapped in itertools.product((False, True), repeat=len(case.inputs)):
        if not any(mapped):
            continue
        dims = tuple(-1 if m else None for m in mapped)
        stacked = tuple(
            torch.stack([v, 1.1 * v, 0.8 * v], -1) if m else v
            for v, m in zip(case.inputs, mapped, strict=True)
        )
        for function in (case.op, torch.func.grad(total, len(mapped) - 1)):
            found = torch.func.vmap(function, dims)(*stacked)
            for i in range(3):
                one = [v[..., i] if m else v for v, m in zip(stacked, mapped, strict=True)]
                assert_close(found[i], function(*one))


@pytest.mark.parametrize("wanted", [True, False])
def test_compile(case, wanted, assert_close):
    inputs = wanting(case.inputs) if wanted else case.inputs
    compiled = torch.compile(case.op, fullgraph=True, backend="aot_eager")(*inputs)
    plain = case.op(*inputs)
    assert_close(compiled, plain)
    if wanted:
        found = torch.autograd.grad(compiled, inputs, cotangent(plain))
        for f, e in zip(found, torch.autograd.grad(plain, inputs, cotangent(plain)), strict=True):
            assert_close(f, e)


def test_operators_are_registered_properly(case):
    torch.library.opcheck(getattr(torch.ops.stssad_fast, case.name), case.inputs)
    backward = getattr(torch.ops.stssad_fast, case.name + "_backward")
    grad = cotangent(case.op(*case.inputs))
    needed = [True, *[False] * (len(case.inputs) - 1)]
    torch.library.opcheck(backward, (grad, *case.inputs, needed))


def layouts(value):
    yield value.mT.contiguous().mT  # not contiguous
    yield torch.stack([value, value], -1)[..., 0]
    if value.dim() == 4:
        yield value.contiguous(memory_format=torch.channels_last)


def test_layout_does_not_matter(case, assert_close):
    expected = case.op(*case.inputs)
    for position, value in enumerate(case.inputs):
        for other in layouts(value) if value.dim() > 1 else ():
            inputs = list(case.inputs)
            inputs[position] = other.detach().requires_grad_()
            result = case.op(*inputs)
            assert_close(result, expected)
            grads = []
            for start in (other, value):
                leaf = start.detach().clone(memory_format=torch.preserve_format).requires_grad_()
                inputs[position] = leaf
                grads += torch.autograd.grad(case.op(*inputs).square().sum(), leaf)
            assert_close(*grads)


def test_expanded_inputs(case, assert_close):
    inputs = [value[:1].expand_as(value) for value in case.inputs]
    assert_close(case.op(*inputs), case.op(*(value.contiguous() for value in inputs)))
