"""Batch normalisation by the batch's own statistics, fused with a sum and ReLU.

Two derivatives are operators, not one as for the other ops: the bilevel step takes the second of
every layer, and composed of single operations that would be a dozen passes over its pictures.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function

from stssad_fast.ops import reference
from stssad_fast.ops._operators import (
    LIBRARY,
    _laid_out_like,
    arithmetic_dtype,
    check_floating,
    transforming,
)

SCHEMAS = (
    "batch_norm(Tensor x, Tensor? gamma, Tensor? beta, Tensor? residual, bool relu, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    "batch_norm_backward(Tensor grad, Tensor x, Tensor? gamma, Tensor? y, Tensor mean, Tensor var,"
    " float eps, bool[] needed) -> (Tensor, Tensor, Tensor, Tensor)",
    "batch_norm_double_backward(Tensor? v_x, Tensor? v_gamma, Tensor? v_beta, Tensor? v_residual,"
    " Tensor grad, Tensor x, Tensor? gamma, Tensor? y, Tensor mean, Tensor var, float eps,"
    " bool[] needed) -> (Tensor, Tensor, Tensor)",
)


def register(library: torch.library.Library) -> Any:
    """Declare the three operators with the reference as their implementation on every device.

    Pictures come contiguous or channels-last, all of one call in the same layout, and results have
    it too. ``y`` is given if there was a ReLU. ``needed`` is about the gradients for x, gamma, beta
    and residual, and for grad, x and gamma; those that are not needed have no elements.

    Returns:
        the differentiable function of the arguments of ``batch_norm``.
    """
    for schema in SCHEMAS:
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

    def default(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        y, mean, var = reference.batch_norm(x, *rest)
        return _laid_out_like(y, x), mean, var

    def default_backward(
        grad: Tensor, x: Tensor, gamma: Any, y: Any, mean: Tensor, var: Tensor, eps: float,
        needed: Sequence[bool],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        *found, to_residual = reference.batch_norm_backward(grad, x, gamma, y, eps)
        to_residual = to_residual.clone() if to_residual is grad else to_residual
        return _needed([*found, to_residual], x, needed)

    def default_double_backward(*arguments: Any) -> tuple[Tensor, ...]:
        differentiated: tuple[Any, ...] = (*arguments[:8], arguments[10])
        found = reference.batch_norm_double_backward(*differentiated)
        return _needed(found, arguments[5], arguments[11])

    def fake(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        statistics = x.new_empty(x.shape[1], dtype=torch.float64)
        return torch.empty_like(x), statistics, torch.empty_like(statistics)

    def fake_backward(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        sums = x.new_empty(x.shape[1], dtype=arithmetic_dtype(x.dtype))
        like = (x, sums, sums, x)
        return _needed([torch.empty_like(part) for part in like], x, rest[-1])

    def fake_double_backward(*arguments: Any) -> tuple[Tensor, ...]:
        x = arguments[5]
        sums = x.new_empty(x.shape[1], dtype=arithmetic_dtype(x.dtype))
        return _needed([torch.empty_like(part) for part in (x, x, sums)], x, arguments[-1])

    namespace = getattr(torch.ops, library.ns)
    implementations = (
        ("batch_norm", default, fake),
        ("batch_norm_backward", default_backward, fake_backward),
        ("batch_norm_double_backward", default_double_backward, fake_double_backward),
    )
    for name, implementation, shapes in implementations:
        library.impl(name, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{library.ns}::{name}", shapes, lib=library)

    class Backward(Function):
        @staticmethod
        def forward(ctx: Any, grad: Tensor, x: Tensor, gamma: Any, y: Any, *rest: Any) -> Any:
            mean, var, eps, needed = rest
            ctx.save_for_backward(grad, x, gamma, y, mean, var)
            ctx.eps, ctx.needed = eps, needed
            ctx.set_materialize_grads(False)
            found = namespace.batch_norm_backward(grad, x, gamma, y, *rest)
            return _wanted(found, needed)

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
            grad, x, gamma, y, mean, var = ctx.saved_tensors
            needed = ctx.needs_input_grad[:3]
            if all(v is None for v in cotangents) or not any(needed):
                return (None,) * 8
            given: Any = (*(_laid_out(v, x) for v in cotangents), grad, x, gamma, y)
            if torch.is_grad_enabled():
                found = reference.batch_norm_double_backward(*(*given, ctx.eps))
            else:
                found = namespace.batch_norm_double_backward(*given, mean, var, ctx.eps, needed)
            return *_wanted(found, needed), None, None, None, None, None

    class BatchNorm(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, gamma: Any, *rest: Any) -> tuple[Tensor, ...]:
            relu, ctx.eps = rest[-2:]
            y, mean, var = namespace.batch_norm(x, gamma, *rest)
            ctx.save_for_backward(x, gamma, y if relu else None, mean, var)
            ctx.mark_non_differentiable(mean, var)
            ctx.set_materialize_grads(False)
            return y, mean, var

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
            if grad is None:
                return (None,) * 6
            x, gamma, y, mean, var = ctx.saved_tensors
            through = ctx.needs_input_grad[3] and y is None  # to the residual, as it comes
            needed = [*ctx.needs_input_grad[:3], ctx.needs_input_grad[3] and not through]
            found: Sequence[Tensor | None] = (None,) * 4
            if any(needed):
                rest = (y if y is None else y.detach(), mean, var, ctx.eps, needed)
                arguments = (_laid_out(grad, x), x, gamma, *rest)
                if torch.is_grad_enabled():
                    found = Backward.apply(*arguments)
                else:
                    found = _wanted(namespace.batch_norm_backward(*arguments), needed)
            return *found[:3], grad if through else found[3], None, None

    def apply(
        x: Tensor, gamma: Any, beta: Any, residual: Tensor | None, relu: bool, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not x.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous()
        result: tuple[Tensor, Tensor, Tensor] = BatchNorm.apply(
            x, gamma, beta, _laid_out(residual, x), relu, eps
        )
        return result

    return apply


def _needed(found: Sequence[Tensor], x: Tensor, needed: Sequence[bool]) -> tuple[Tensor, ...]:
    """``found``, pictures laid out like ``x``; nothing in place of what is not needed."""
    return tuple(
        (_laid_out_like(part, x) if part.dim() == 4 else part) if wanted else part.new_empty(0)
        for part, wanted in zip(found, needed, strict=True)
    )


def _wanted(found: Sequence[Tensor], needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    return tuple(part if wanted else None for part, wanted in zip(found, needed, strict=True))


def _laid_out(value: Tensor | None, x: Tensor) -> Tensor | None:
    """``value`` in the layout of ``x`` if it is a picture, a copy only where it is not."""
    if value is None or value.dim() != 4:
        return value
    last = not x.is_contiguous()
    return value.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


_batch_norm = register(LIBRARY)


def batch_norm(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    relu: bool = False,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """``y = act(gamma * (x - mean) / sqrt(var + eps) + beta + residual)``, as in training.

    Mean and biased variance are those of each channel over batch, rows and columns; ``act`` is
    ReLU or nothing. Contiguous and channels-last pictures are taken as they lie in memory, others
    are copied. Differentiable to any order; first and second derivatives have kernels. Under
    ``torch.func``, ``torch.compile`` and forward mode it is the reference, in plain PyTorch
    operations.

    Args:
        x: (B, C, H, W), more than one number for each channel.
        gamma, beta: (C,); absent: 1 and 0.
        residual: of the size and dtype of ``x``; absent: 0.
        relu: whether ``act`` is ReLU.
        eps: added to the variance.

    Returns:
        ``y`` in dtype and layout of ``x``; mean and biased variance (C,) in float64, through which
        no gradient flows.

    Raises:
        TypeError: an argument is not a floating-point tensor, or ``residual`` of another dtype.
        ValueError: shapes or devices do not match, or a channel has fewer than two numbers.
    """
    check_floating(x, "x", "(B, C, H, W)")
    if x.numel() <= x.shape[1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected more than one number for each channel"
        )
    dtype = arithmetic_dtype(x.dtype)
    for name, value in (("gamma", gamma), ("beta", beta)):
        if value is not None:
            check_floating(value, name, "(C)")
            _check_like(value, name, (x.shape[1],), x)
    if residual is not None:
        check_floating(residual, "residual", "(B, C, H, W)")
        _check_like(residual, "residual", tuple(x.shape), x)
        if residual.dtype != x.dtype:
            raise TypeError(f"residual is {residual.dtype}, x {x.dtype}; expected the same")
    arguments = (
        None if gamma is None else gamma.to(dtype).contiguous(),
        None if beta is None else beta.to(dtype).contiguous(),
    )
    if transforming():
        return reference.batch_norm(x, *arguments, residual, relu, eps)
    return _batch_norm(x, *arguments, residual, relu, eps)


def has_kernel(x: Tensor) -> bool:
    """Whether :func:`batch_norm` of ``x`` is a kernel here, not the reference.

    The reference's forward and first backward are slower than those of PyTorch's own batch norm.
    A mode that replaces ``F.batch_norm`` (``torch.overrides``) answers for itself.
    """
    if has_torch_function((x,)):
        return bool(handle_torch_function(has_kernel, (x,), x))
    if transforming():
        return False
    key, name = torch._C._dispatch_key_for_device(x.device.type), f"{LIBRARY.ns}::batch_norm"
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))


@torch.no_grad()
def follow(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    var: Tensor,
    count: int | Tensor,
    momentum: float,
) -> None:
    """Move running statistics (C,), if there are any, as ``F.batch_norm`` does in training.

    Args:
        mean, var: (C,), of a batch; the variance is biased, the running one is not.
        count: numbers of a channel in it, two or more.
        momentum: share of the batch in what they become.
    """
    for running, found in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        if running is not None:
            running.mul_(1 - momentum).add_(found, alpha=momentum)


def _check_like(value: Tensor, name: str, shape: tuple[int, ...], x: Tensor) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {shape}")
    if value.device != x.device:
        raise ValueError(f"{name} is on {value.device}, x on {x.device}; move one of them")
