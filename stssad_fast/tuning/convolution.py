"""Convolutions that are differentiated twice, and compute no gradient that nobody asks for."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from stssad_fast.ops.conv3x3 import conv3x3, suits_winograd

convolution = torch.ops.aten.convolution.default
convolution_backward = torch.ops.aten.convolution_backward.default


class LeanConvolutions(TorchFunctionMode):
    """Inside, a convolution with one of these weights can be differentiated twice, and lean.

    It may be ``torch.conv2d`` or :func:`stssad_fast.ops.conv3x3`.

    PyTorch's second backward of a convolution always computes the gradient for the weight, as a
    convolution of pictures with pictures, which takes about as long as three others. In the last
    pass of :func:`stssad_fast.tuning.hypergradient.bilevel_step` nobody asks for it.

    Args:
        weights: tensors to look out for; any other convolution is left alone, and so is one with
            a bias.

    Attributes:
        weights: whether gradients for the weights are wanted. To be set to False for a pass that
            ends at other tensors.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.weights = True
        self._known = {id(weight) for weight in weights}

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        options = options or {}
        if function is conv3x3 and id(arguments[1]) in self._known:
            if suits_winograd(*arguments):
                return function(*arguments, wishes=self)
            function, options = torch.conv2d, {"padding": 1}
        if function is torch.conv2d:
            found = self._convolution(*arguments, **options)
            if found is not None:
                return found
        return function(*arguments, **options)

    def _convolution(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor | None:
        if id(weight) not in self._known or bias is not None or isinstance(padding, str):
            return None
        device = input.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            input, weight = input.to(dtype), weight.to(dtype)
        pairs = [[n, n] if isinstance(n, int) else list(n) for n in (stride, padding, dilation)]
        result: Tensor = _Convolution.apply(input, weight, (*pairs, False, [0, 0], groups), self)
        return result


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, options: Any, mode: LeanConvolutions) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.options, ctx.mode = options, mode
        return convolution(x, weight, None, *options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[1] and ctx.mode.weights, False]
        found = _Backward.apply(grad, *ctx.saved_tensors, needed, ctx.options, ctx.mode)
        return *found, None, None


class _Backward(Function):
    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        needed: list[bool],
        options: Any,
        mode: LeanConvolutions,
    ) -> Any:
        ctx.save_for_backward(grad, x, weight)
        ctx.set_materialize_grads(False)
        ctx.options, ctx.mode = options, mode
        return convolution_backward(grad, x, weight, None, *options, needed)[:2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_x: Tensor | None, for_weight: Tensor | None) -> Any:
        # With grad_x = conv^T(grad, weight) and grad_weight = corr(x, grad), both bilinear.
        grad, x, weight = ctx.saved_tensors
        options, result, grad_x, grad_weight = ctx.options, None, None, None
        if for_x is not None:
            result = convolution(for_x, weight, None, *options)
        if for_weight is not None:
            part = convolution(x, for_weight, None, *options)
            result = part if result is None else result.add_(part)
            if ctx.needs_input_grad[1]:
                grad_x = convolution_backward(
                    grad, x, for_weight, None, *options, [True, False, False]
                )[0]
        if for_x is not None and ctx.needs_input_grad[2] and ctx.mode.weights:
            grad_weight = convolution_backward(
                grad, for_x, weight, None, *options, [False, True, False]
            )[1]
        return result, grad_x, grad_weight, None, None, None
