"""The columns of the test matrix: inputs of every op, and how to compare a row with the reference.

Comparisons are with the reference in float64 on the same inputs. Derivatives exist between the
kinks only, so the incoming gradient is zero at pixels next to one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from stssad_fast.ops import reference


class Case(NamedTuple):
    """An op by name, and its inputs in float64."""

    op: str
    inputs: tuple[Tensor, ...]


def numbers(*size, low=0.0, high=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(size))
    return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def cutdiff_case(size, each=(False, False), shape=(0.4, 0.2, -0.3), center=(0.45, 0.52)):
    """``each``: whether there is one shape, and one centre, per picture."""
    turn = torch.arange(size[0], dtype=torch.float64)[:, None]
    shapes, centers = tensor([shape]) / (1 + turn / 5), tensor([center]) * (1 + turn) % 1.0
    image = numbers(*size, low=-0.2, high=1.4)  # so that both edges of the clamp are crossed
    return Case(
        "cutdiff",
        (
            image,
            shapes if each[0] else tensor([shape]),
            centers if each[1] else tensor([center]),
        ),
    )


def rotate_case(size, each=False, angle=33.3):
    angles = angle - 161.3 * torch.arange(size[0], dtype=torch.float64)
    return Case("rotate", (numbers(*size), angles if each else tensor([angle])))


def loss_case(counts, dimensions):
    return Case(
        "mean_distance_loss",
        tuple(numbers(n, dimensions, high=1.0 + i, seed=i) for i, n in enumerate(counts)),
    )


# Small enough for derivatives of the second order.
CASES = {
    "cutdiff": cutdiff_case((2, 2, 3, 4)),
    "cutdiff each": cutdiff_case((2, 2, 3, 4), each=(True, True)),
    "rotate": rotate_case((2, 2, 3, 4)),
    "rotate each": rotate_case((2, 2, 3, 4), each=True),
    "mean_distance_loss": loss_case((3, 2, 4), 2),
}


def prepared(inputs, dtype=torch.float64, device="cpu"):
    """Inputs as operators take them: the picture in ``dtype``, the rest in that of arithmetic."""
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    first, *rest = inputs
    if first.dim() == 2:  # a set of embeddings, which the op has converted
        dtype = arithmetic
    return (first.to(device, dtype), *(value.to(device, arithmetic) for value in rest))


def wanting(inputs, which=None):
    """New leaves that lie in memory as the inputs do; those of ``which`` want a gradient."""
    return tuple(
        value.detach().requires_grad_(which is None or which[i]) for i, value in enumerate(inputs)
    )


def far_from_kinks(op, inputs, margin=1e-4) -> Tensor:
    """Where the derivative for every input exists, as a mask over the result."""
    image, *rest = (value.detach().double() for value in inputs)
    height, width = image.shape[-2:]
    if op == "cutdiff":
        cut = image - reference._patch(*rest, height, width)[0][:, None]
        return torch.minimum(cut.abs(), (cut - 1).abs()) > margin
    y, x, dy, dx = reference._sampling(*rest, height, width)
    smooth = torch.ones_like(y, dtype=torch.bool)
    for source, slope in ((y, dy), (x, dx)):
        smooth &= ((source - source.round()).abs() > margin) | (slope == 0)
    return smooth[:, None].expand_as(image)


def cotangent(op, inputs) -> Tensor:
    """An incoming gradient without symmetry, 0 next to kinks; gradients are not far below 1."""
    first = inputs[0]
    if op == "mean_distance_loss":
        slopes = exact(op, inputs, torch.ones(()))[1]
        return first.new_tensor(1 / max(slope.abs().max().item() for slope in slopes))
    grad = torch.linspace(-1, 2, first.numel(), dtype=torch.float64).reshape(first.shape)
    return (grad.to(first.device) * far_from_kinks(op, inputs)).to(first.dtype)


def exact(op, inputs, grad) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Value and all gradients of the reference in float64."""
    leaves = wanting([value.detach().cpu().double() for value in inputs])
    result = getattr(reference, op)(*leaves)
    return result, torch.autograd.grad(result, leaves, grad.cpu().to(result))


def magnitudes(op, inputs, grad) -> list[Tensor | float]:
    """For each input the unit of its gradient: what its terms add up to without their signs.

    A sum over many pixels whose terms cancel is no more exact than its terms, and a term with
    ``exp(-x)`` is x times less exact than x. In CutDiff a million times what the last digits of
    shape and centre in float64 change joins them: where l21 is large and l22 small, that is much.
    """
    inputs = [value.detach().cpu().double() for value in inputs]
    weight = grad.cpu().double().abs()
    rounding = [torch.zeros(())] * len(inputs)
    if op == "cutdiff":
        patch = 1 - reference.cutdiff(torch.ones_like(inputs[0]), *inputs[1:])
        weight = weight * patch.clamp_min(1e-16).log().neg().clamp_min(1)
        signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
        nudged = [value * (1 + 2**-50 * signs[: value.shape[1]]) for value in inputs[1:]]
        pairs = zip(
            exact(op, inputs, grad)[1], exact(op, [inputs[0], *nudged], grad)[1], strict=True
        )
        rounding = [1e6 * (there - here).abs() for here, there in pairs]
    units: list[Tensor | float] = [1.0]
    for position, value in enumerate(inputs[1:], 1):

        def of_one(value, position=position):
            return getattr(reference, op)(*inputs[:position], value, *inputs[position + 1 :])

        columns = torch.eye(value.shape[1:].numel(), dtype=value.dtype).reshape(
            -1, *value.shape[1:]
        )
        slopes = [torch.func.jvp(of_one, (value,), (c.expand_as(value),))[1] for c in columns]
        sums = torch.stack([(weight * s.abs()).sum((1, 2, 3)) for s in slopes], -1)
        if len(value) == 1:
            sums = sums.sum(0, keepdim=True)
        units.append(sums.reshape(value.shape).clamp_min(1) + rounding[position])
    return units


def compare(backend, op, inputs, assert_close, grad=None, units=None):
    """Value and all gradients of a row against the reference; dtypes and layouts of them."""
    grad = cotangent(op, inputs) if grad is None else grad
    result, gradients = exact(op, inputs, grad)
    leaves = wanting(inputs)
    found = backend.op(op)(*leaves)
    parts = torch.autograd.grad(found, leaves, grad)
    assert_close(found, result)
    for value, other in zip((found, *parts), (inputs[0], *inputs), strict=True):
        assert value.dtype == other.dtype
        if inputs[0].dim() == 4:
            assert value.stride() == torch.empty_like(other).stride()
    for part, expected, unit in zip(parts, gradients, units or [1.0] * len(parts), strict=True):
        assert_close((part.cpu().double() / unit).to(part.dtype), expected / unit)


def run_backward(backend, op, inputs, grad, needed):
    """The operators themselves: forward, then the gradients that are ``needed``."""
    result = backend.forward(op)(*inputs)
    notes = result[1:] if isinstance(result, tuple) else ()
    return backend.backward(op)(grad, *notes, *inputs, needed)


def placed(value, order, steps, offset) -> Tensor:
    """``value`` as every so-manieth element of something larger, dimensions stored in ``order``."""
    memory = value.new_full([offset + value.shape[d] * steps[d] for d in order], torch.nan)
    view = memory.permute([order.index(d) for d in range(value.dim())])
    return view[tuple(slice(offset, None, step) for step in steps)].copy_(value)


def layouts(value) -> dict[str, Tensor]:
    """``value`` in other places of memory."""
    dims, ones = list(range(value.dim())), [1] * value.dim()
    swapped = [*dims[:-2], dims[-1], dims[-2]]
    found = {
        "slice": placed(value, dims, ones, 2),
        "every other": placed(value, dims, [2] * value.dim(), 0),
        "transposed": placed(value, swapped, ones, 0),
    }
    if value.dim() == 4:
        found |= {
            "channels last": value.contiguous(memory_format=torch.channels_last),
            "slice of channels last": placed(value, [0, 2, 3, 1], ones, 2),
            "batch last": placed(value, [1, 2, 3, 0], ones, 0),
            "reversed": placed(value, [3, 2, 1, 0], ones, 0),
        }
    return found


def expanded(value) -> dict[str, Tensor]:
    """One slice of ``value`` along each dimension, one element for all of it: not equal to it."""
    every = (slice(0, 1),) * value.dim()
    found = {
        f"expanded along {d}": value.narrow(d, 0, 1).expand_as(value) for d in range(value.dim())
    }
    return found | {"expanded along all": value[every].expand_as(value)}
