"""What the three ops share: registration, the autograd Function, and checks of arguments."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

LIBRARY = torch.library.Library("stssad_fast", "DEF")


def differentiable(
    name: str,
    arguments: Sequence[str],
    forward: Callable[..., Tensor],
    backward: Callable[..., tuple[Tensor, ...]],
    batched: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """Register ``stssad_fast::NAME`` and ``..._backward``, and join them for autograd.

    The reference is the implementation of both for every device; a kernel that is registered for
    one device takes precedence there. The operators do first-order gradients. When a graph of the
    backward is asked for, the backward is the reference's formula, which can be differentiated to
    any order.

    Args:
        name: of the operator.
        arguments: names of its tensor arguments.
        forward: reference implementation; its result is like the first argument unless ``batched``
            says otherwise.
        backward: ``(grad, *arguments) -> one gradient per argument``, reference implementation.
        batched: ``(size, dims, *arguments) -> result`` with the dimension that vmap maps over in
            front; called with ``apply`` as keyword, the function that this one returns.

    Returns:
        the differentiable function of the tensor arguments.
    """
    tensors = ", ".join(f"Tensor {argument}" for argument in arguments)
    gradients = ", ".join("Tensor" for _ in arguments)
    LIBRARY.define(f"{name}({tensors}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.define(
        f"{name}_backward(Tensor grad, {tensors}, bool[] needed) -> ({gradients})",
        tags=(torch.Tag.pt2_compliant_tag,),
    )

    def backward_where_needed(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        *values, needed = inputs
        found = backward(grad, *values)
        return tuple(
            part.contiguous() if wanted else part.new_empty(0)
            for part, wanted in zip(found, needed, strict=True)
        )

    for suffix, implementation in (("", forward), ("_backward", backward_where_needed)):
        LIBRARY.impl(name + suffix, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"stssad_fast::{name}{suffix}", implementation, lib=LIBRARY)
    operator = getattr(torch.ops.stssad_fast, name)
    operator_backward = getattr(torch.ops.stssad_fast, f"{name}_backward")

    class Differentiable(Function):
        @staticmethod
        def forward(*inputs: Tensor) -> Tensor:
            result: Tensor = operator(*(value.contiguous() for value in inputs))
            return result

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs, output)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            needed = list(ctx.needs_input_grad)
            if torch.is_grad_enabled():
                found = backward(grad, *ctx.saved_tensors)
            else:
                values = [value.contiguous() for value in (grad, *ctx.saved_tensors)]
                found = operator_backward(*values, needed)
            return tuple(
                part if wanted else None for part, wanted in zip(found, needed, strict=True)
            )

        @staticmethod
        def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
            return batched(info.batch_size, dims, *inputs, apply=apply), 0

    # Dynamo counts the parameters of `forward` to tell whether it takes a context.
    parameters = [inspect.Parameter(a, inspect.Parameter.POSITIONAL_ONLY) for a in arguments]
    Differentiable.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    class DifferentiableForward(Differentiable):
        # Dynamo refuses a Function with jvp, hence two classes.
        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
            # The backward is linear in `grad`, and its transpose is the derivative itself.
            *primals, output = ctx.saved_tensors
            directions = tuple(
                torch.zeros_like(primal) if tangent is None else tangent
                for primal, tangent in zip(primals, tangents, strict=True)
            )
            transpose: Callable[..., tuple[Tensor]] = torch.func.vjp(
                lambda grad: backward(grad, *primals), torch.zeros_like(output)
            )[1]
            return transpose(directions)[0]

    def apply(*inputs: Tensor) -> Tensor:
        function = Differentiable if torch.compiler.is_compiling() else DifferentiableForward
        result: Tensor = function.apply(*inputs)
        return result

    return apply


def fold_batch(
    size: int,
    dims: Sequence[int | None],
    image: Tensor,
    *rest: Tensor,
    apply: Callable[..., Tensor],
) -> Tensor:
    """Batching rule of the picture ops: the mapped dimension joins the batch of pictures."""
    fronted = [
        value.unsqueeze(0) if dim is None else value.movedim(dim, 0)
        for value, dim in zip((image, *rest), dims, strict=True)
    ]
    batch = fronted[0].shape[1]
    folded = [value.expand(size, batch, *value.shape[2:]).flatten(0, 1) for value in fronted]
    return apply(*folded).unflatten(0, (size, batch))


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_floating(value: Any, name: str, dimensions: str) -> None:
    """Raise unless ``value`` is a floating-point tensor with as many dimensions as are named."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} is {found}; expected a floating-point tensor {dimensions}")
    if value.dim() != dimensions.count(",") + 1:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {dimensions}")


def check_finite(value: Tensor, name: str) -> None:
    """Raise ValueError if a CPU tensor holds NaN or Inf; elsewhere looking would cost a sync."""
    if _holds(value, lambda numbers: not torch.isfinite(numbers).all()):
        raise ValueError(f"{name} has NaN or infinite values; expected finite numbers")


def check_positive(value: Tensor, name: str) -> None:
    """Raise ValueError if a CPU tensor holds anything but positive, finite numbers."""
    if _holds(value, lambda numbers: not ((numbers > 0) & torch.isfinite(numbers)).all()):
        raise ValueError(f"{name} has values that are not positive; expected finite numbers > 0")


def _holds(value: Tensor, question: Callable[[Tensor], bool]) -> bool:
    """The answer for a tensor on the CPU outside of torch.compile, also under torch.func."""
    if torch.compiler.is_compiling() or value.device.type != "cpu":
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    return question(value.detach())


def hyperparameter(value: Any, image: Tensor, trailing: tuple[int, ...], name: str) -> Tensor:
    """``value`` as (1 or B, *trailing) in the arithmetic dtype of ``image``.

    Raises:
        TypeError: not a number or floating-point tensor.
        ValueError: wrong shape, other device than ``image``, or not finite.
    """
    dtype = arithmetic_dtype(image.dtype)
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, dtype=dtype, device=image.device)
    if not value.is_floating_point():
        raise TypeError(f"{name} is {value.dtype}; expected a floating-point tensor")
    if value.device != image.device:
        raise ValueError(f"{name} is on {value.device}, image on {image.device}; move one of them")
    each = (image.shape[0], *trailing)
    if tuple(value.shape) not in (trailing, (1, *trailing), each):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; expected {trailing} for all pictures, "
            f"or {each}, one per picture"
        )
    check_finite(value, name)
    return value.reshape(-1, *trailing).to(dtype)
