"""What the three ops share: registration, the autograd Function, and checks of arguments."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import Function, forward_ad

LIBRARY = torch.library.Library("stssad_fast", "DEF")
Normalize = tuple[Tensor | Sequence[float] | float, Tensor | Sequence[float] | float]
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NUMBERLESS = (FakeTensor, FunctionalTensor)
TRACER = torch._C._TorchDispatchModeKey.PROXY  # the mode of make_fx


def differentiable(
    name: str,
    arguments: Sequence[str],
    forward: Callable[..., Tensor],
    backward: Callable[..., tuple[Tensor, ...]],
    batched: Callable[..., Tensor],
    memo: Callable[..., Tensor] | None = None,
    constants: Sequence[str] = (),
    library: torch.library.Library = LIBRARY,
) -> Callable[..., Tensor]:
    """Register ``stssad_fast::NAME`` and ``..._backward``, and join them for autograd.

    The reference is the implementation of both for every device; a kernel that is registered for
    one device takes precedence there. The operators do first-order gradients: each is laid out in
    memory as ``torch.empty_like`` of its argument, or has no elements where it is not needed. When
    a graph of the backward is asked for, the backward is the reference's formula, which can be
    differentiated to any order.

    Args:
        name: of the operator.
        arguments: names of its tensor arguments. Those of a picture operator come as they lie in
            memory, those of an operator with a memo contiguous.
        forward: reference implementation; its result is like the first argument, or a scalar for
            an operator with a memo.
        backward: ``(grad, *arguments, *constants) -> one gradient per argument``, reference
            implementation.
        batched: ``(size, dims, *arguments) -> result`` with the dimension that vmap maps over in
            front; called with ``apply`` as keyword, the function that this one returns.
        memo: ``(*arguments) -> zeros``, shaped like what the kernels' forward notes for their
            backward: a second result of NAME, and an argument of NAME_backward behind ``grad``.
            The reference neither writes nor reads it.
        constants: names of tensors behind the arguments that have no gradient, contiguous or
            None; those of NAME_backward come last.
        library: where to register.

    Returns:
        the differentiable function of the tensor arguments and constants.
    """
    count, total = len(arguments), len(arguments) + len(constants)
    optional = "".join(f", Tensor? {constant}=None" for constant in constants)
    tensors = ", ".join(f"Tensor {argument}" for argument in arguments)
    gradients = ", ".join("Tensor" for _ in arguments)
    noted, note = ("(Tensor, Tensor)", "Tensor memo, ") if memo else ("Tensor", "")
    library.define(f"{name}({tensors}{optional}) -> {noted}", tags=(torch.Tag.pt2_compliant_tag,))
    library.define(
        f"{name}_backward(Tensor grad, {note}{tensors}, bool[] needed{optional}) -> ({gradients})",
        tags=(torch.Tag.pt2_compliant_tag,),
    )

    def default(*inputs: Tensor) -> Any:
        result = forward(*inputs)
        return (result, memo(*inputs)) if memo else _laid_out_like(result, inputs[0])

    def default_backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        values, needed, fixed = divide(inputs)
        parts = backward(grad, *values, *fixed)
        return tuple(
            _laid_out_like(part, value) if wanted else part.new_empty(0)
            for part, value, wanted in zip(parts, values, needed, strict=True)
        )

    def divide(inputs: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        """Arguments, ``needed`` and constants of what NAME_backward receives behind ``grad``."""
        inputs = inputs[1:] if memo else inputs
        return inputs[:count], inputs[count], inputs[count + 1 :]

    def noted_with(output: Any) -> Any:
        """The result, and what the forward notes for the backward."""
        return output if memo else (output,)

    def fake(*inputs: Tensor) -> Any:
        return (inputs[0].new_empty(()), memo(*inputs)) if memo else torch.empty_like(inputs[0])

    def fake_backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        values, needed, _ = divide(inputs)
        return tuple(
            torch.empty_like(value) if wanted else value.new_empty(0)
            for value, wanted in zip(values, needed, strict=True)
        )

    library.impl(name, default, "CompositeExplicitAutograd")
    library.impl(f"{name}_backward", default_backward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{library.ns}::{name}", fake, lib=library)
    torch.library.register_fake(f"{library.ns}::{name}_backward", fake_backward, lib=library)
    namespace = getattr(torch.ops, library.ns)
    operator = getattr(namespace, name).default
    operator_backward = getattr(namespace, f"{name}_backward").default

    class Differentiable(Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            result, *notes = noted_with(operator(*inputs))
            ctx.save_for_backward(*inputs, *notes)
            ctx.set_materialize_grads(False)
            found: Tensor = result
            return found

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
            if grad is None:
                return (None,) * total
            needed = list(ctx.needs_input_grad[:count])
            saved = ctx.saved_tensors
            inputs, fixed, notes = saved[:count], saved[count:total], saved[total:]
            if torch.is_grad_enabled():
                found = backward(grad, *inputs, *fixed)
            else:
                found = operator_backward(grad, *notes, *inputs, needed, *fixed)
            return tuple(
                part if wanted else None for part, wanted in zip(found, needed, strict=True)
            ) + (None,) * len(constants)

    # Dynamo counts the parameters of `forward` to tell whether it takes a context.
    parameters = [
        inspect.Parameter(a, inspect.Parameter.POSITIONAL_ONLY)
        for a in ("ctx", *arguments, *constants)
    ]
    Differentiable.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    class Transformable(Differentiable):
        """For torch.func and forward mode, which want a setup of its own and every output.

        Dynamo refuses a Function with jvp, hence two.
        """

        @staticmethod
        def forward(*inputs: Tensor) -> Any:
            return operator(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
            result, *notes = noted_with(output)
            ctx.save_for_backward(*inputs, *notes)
            ctx.save_for_forward(*inputs, result, *notes)
            ctx.set_materialize_grads(False)

        @staticmethod
        def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
            fixed = inputs[count:]
            if any(dim is not None for dim in dims[count:]):
                raise ValueError(f"{' and '.join(constants)} cannot differ along vmap's dimension")
            result = batched(
                info.batch_size,
                dims[:count],
                *inputs[:count],
                apply=lambda *values: apply(*values, *fixed),
            )
            if memo is None:
                return result, 0
            # The mapped backward is the reference's; a kernel that read this would tell by NaN.
            return (result, result.new_full((info.batch_size, 1), math.nan)), (0, 0)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
            if any(tangent is not None for tangent in tangents[count:]):
                raise ValueError(f"{' and '.join(constants)} have no derivative; detach them")
            # The backward is linear in `grad`, and its transpose is the derivative itself.
            saved = ctx.saved_tensors
            primals, fixed = saved[:count], saved[count:total]
            output, *notes = saved[total:]
            directions = tuple(
                torch.zeros_like(primal) if tangent is None else tangent
                for primal, tangent in zip(primals, tangents[:count], strict=True)
            )
            transpose: Callable[..., tuple[Tensor]] = torch.func.vjp(
                lambda grad: backward(grad, *primals, *fixed), torch.zeros_like(output)
            )[1]
            slope = transpose(directions)[0]
            return (slope, torch.zeros_like(notes[0])) if memo else slope

    # What Function.apply comes to outside of torch.func. Before, it binds default arguments by
    # `inspect`, which takes longer than a small kernel.
    apply_directly = super(Function, Differentiable).apply
    transform_directly = super(Function, Transformable).apply

    def apply(*inputs: Any) -> Tensor:
        inputs += (None,) * (total - len(inputs))
        if memo is not None:
            inputs = tuple(value.contiguous() for value in inputs)
        if torch.compiler.is_compiling():
            result = Differentiable.apply(*inputs)
        elif torch._C._are_functorch_transforms_active():
            result = noted_with(Transformable.apply(*inputs))[0]
        else:
            inputs = unwrap_dead_wrappers(inputs)
            if forward_ad._current_level >= 0:
                result = noted_with(transform_directly(*inputs))[0]
            elif _wants_gradient(inputs):
                result = apply_directly(*inputs)
            else:
                result = noted_with(operator(*inputs))[0]
        found: Tensor = result
        return found

    return apply


def transforming() -> bool:
    """Whether torch.compile, torch.func or forward mode wants rules that a plain Function lacks."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _wants_gradient(inputs: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in inputs
    )


def _laid_out_like(result: Tensor, value: Tensor) -> Tensor:
    """``result`` in the memory layout of ``torch.empty_like(value)``, which has its size."""
    like = torch.empty_like(value, device="meta")
    if result.stride() == like.stride():
        return result
    return torch.empty_like(value).copy_(result)


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


def not_floating(value: Any) -> str | None:
    """What ``value`` is if it is not a dense floating-point tensor; None if it is."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.dtype not in FLOATING:
        return str(value.dtype)
    return None if value.layout == torch.strided else str(value.layout)


def check_floating(value: Any, name: str, dimensions: str) -> None:
    """Raise unless ``value`` is a dense floating-point tensor with as many dimensions as named."""
    if found := not_floating(value):
        raise TypeError(
            f"{name} is {found}; expected a dense tensor {dimensions} of float32, float64, float16 "
            "or bfloat16"
        )
    if value.dim() != dimensions.count(",") + 1:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {dimensions}")


def check_finite(value: Tensor, name: str) -> None:
    """Raise ValueError if a CPU tensor holds NaN or Inf; elsewhere looking would cost a sync."""
    # The sum is finite only if all numbers are; it may overflow, hence the second look.
    if holds(value, lambda numbers: not math.isfinite(numbers.detach().sum())) and holds(
        value, lambda numbers: not torch.isfinite(numbers.detach()).all()
    ):
        raise ValueError(f"{name} has NaN or infinite values; expected finite numbers")


def check_positive(value: Tensor, name: str) -> None:
    """Raise ValueError if a CPU tensor holds anything but positive, finite numbers."""
    if holds(value, lambda numbers: not ((numbers > 0) & torch.isfinite(numbers.detach())).all()):
        raise ValueError(f"{name} has values that are not positive; expected finite numbers > 0")


def holds(value: Tensor, question: Callable[[Tensor], bool]) -> bool:
    """The answer for a tensor on the CPU that has numbers, also under torch.func.

    Under torch.compile, or where a graph is traced, it has none. ``question`` is asked of the
    tensor as it is: what it calculates, it calculates of a detached one. (To detach costs more than
    to look at a number.)
    """
    if torch.compiler.is_compiling() or value.device.type != "cpu":
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    traced = torch._C._get_dispatch_mode(TRACER) is not None
    return not traced and not isinstance(value, NUMBERLESS) and question(value)


def hyperparameter(value: Any, image: Tensor, trailing: tuple[int, ...], name: str) -> Tensor:
    """``value`` as (1 or B, *trailing) in the arithmetic dtype of ``image``.

    Raises:
        TypeError: not a number or floating-point tensor.
        ValueError: wrong shape, other device than ``image``, or not finite.
    """
    value = _beside(image, value, name)
    each = (image.shape[0], *trailing)
    if tuple(value.shape) not in (trailing, (1, *trailing), each):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; expected {trailing} for all pictures, "
            f"or {each}, one per picture"
        )
    check_finite(value, name)
    # Not by reshape(-1, ...): where vmap maps over nothing, -1 could be any number.
    value = value if value.dim() > len(trailing) else value.unsqueeze(0)
    return value.to(arithmetic_dtype(image.dtype))


def _beside(image: Tensor, value: Any, name: str) -> Tensor:
    """A number, a sequence of them or a tensor, as a floating-point tensor where ``image`` is."""
    found = as_floating(value, name, arithmetic_dtype(image.dtype), image.device)
    if found.device != image.device:
        raise ValueError(f"{name} is on {found.device}, image on {image.device}; move one of them")
    return found


def as_floating(
    value: Any, name: str, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """A number or a sequence of them as a tensor; a floating-point tensor as it is.

    Raises:
        TypeError: it is none of these.
        ValueError: a number that is too large for ``dtype``.
    """
    if isinstance(value, int | float):  # filled in on the device: a copy to it would wait for it
        largest = torch.finfo(dtype).max
        if largest < abs(value) < math.inf:
            raise ValueError(f"{name} is {value!r}; expected at most {largest:.3g}, for {dtype}")
        return torch.full((), float(value), dtype=dtype, device=device)
    if not isinstance(value, Tensor):
        try:
            return torch.as_tensor(value, dtype=dtype, device=device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"{name} is {value!r}; expected a number or a floating-point tensor"
            ) from error
    if found := not_floating(value):
        raise TypeError(f"{name} is {found}; expected a dense floating-point tensor")
    return value


def normalization(normalize: Any, image: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """``normalize``, a pair (mean, std) or None, as (C,) each in the arithmetic dtype of ``image``.

    Raises:
        TypeError: not a pair of numbers, sequences of numbers or floating-point tensors.
        ValueError: wrong length, other device than ``image``, a gradient is wanted, or (on the
            CPU) not finite or, std, not positive.
    """
    if normalize is None:
        return None, None
    if not isinstance(normalize, tuple | list) or len(normalize) != 2:
        raise TypeError("normalize is not a pair; expected (mean, std), one number per channel")
    names = ("mean of normalize", "std of normalize")
    mean, std = (
        _per_channel(value, name, image) for value, name in zip(normalize, names, strict=True)
    )
    check_finite(mean, names[0])
    check_positive(std, names[1])
    return mean, std


def _per_channel(value: Any, name: str, image: Tensor) -> Tensor:
    value, channels = _beside(image, value, name), image.shape[1]
    if tuple(value.shape) not in ((), (channels,)):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; expected () or ({channels},), one number per "
            "channel"
        )
    if value.requires_grad:
        raise ValueError(f"{name} wants a gradient, which there is none of; detach it")
    return value.to(arithmetic_dtype(image.dtype)).expand(channels).contiguous()
