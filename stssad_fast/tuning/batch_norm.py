"""``F.batch_norm`` by the op, for networks that know nothing of it."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from stssad_fast.ops.batch_norm import batch_norm, follow, has_kernel


class TrainingBatchNorm(TorchFunctionMode):
    """Inside, ``F.batch_norm`` in training is by the op, where that has a kernel.

    So is ``nn.BatchNorm2d``, and any other module that calls the function. The bilevel step takes
    the second derivative of every layer, which PyTorch composes of a dozen passes.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        options = options or {}
        if function is F.batch_norm and (arguments[5:6] == (True,) or options.get("training")):
            return self.normalised(*arguments, **options)
        return function(*arguments, **options)

    def normalised(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """What ``F.batch_norm`` gives for these arguments; it moves the running statistics."""
        if x.dim() != 4 or x.numel() <= x.shape[1] or not has_kernel(x):
            return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        y, mean, var = batch_norm(x, weight, bias, eps=eps)
        follow(running_mean, running_var, mean, var, x.numel() // x.shape[1], momentum)
        return y
