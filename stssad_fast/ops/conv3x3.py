"""3x3 convolution: Winograd's algorithm on the CPU, differentiable to any order."""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function

from stssad_fast.ops import extension
from stssad_fast.ops._operators import LIBRARY, transforming

# Fewer channels do not pay for the transforms. The kernels take sixteen at a time.
LEAST_CHANNELS, LANES = 64, 16
# Numbers of a transformed batch that are made at a time, so that they stay in the cache, but tiles
# enough that it is worth while to read the transformed weights again.
CHUNK, LEAST_TILES = 1 << 19, 128
POINTS = 36

for _schema in (
    "winograd_input(Tensor image, Tensor(a!) points) -> ()",
    "winograd_gradient(Tensor grad, Tensor(a!) points) -> ()",
    "winograd_output(Tensor points, Tensor(a!) image) -> ()",
    "winograd_weight(Tensor weight, bool transposed, Tensor(a!) points) -> ()",
    "winograd_weight_gradient(Tensor points, Tensor(a!) grad) -> ()",
    "winograd_multiply(Tensor left, Tensor right, Tensor(a!) out, bool add) -> ()",
):
    LIBRARY.define(_schema)
    torch.library.register_fake(
        f"stssad_fast::{_schema.partition('(')[0]}", lambda *_: None, lib=LIBRARY
    )
_kernels = torch.ops.stssad_fast


class Wishes(Protocol):
    """What a backward is to compute; read when it runs."""

    weights: bool  # gradients for weights


def conv3x3(image: Tensor, weight: Tensor, *, wishes: Wishes | None = None) -> Tensor:
    """``F.conv2d(image, weight, padding=1)`` for 3x3 weights, with fewer multiplications.

    On the CPU, in float32 and with at least 64 channels in and out, Winograd's F(4x4, 3x3) takes a
    quarter of the multiplications of the direct algorithm, and the result is channels-last; its
    rounding is some ten times that of the direct one. Anything else is F.conv2d: weights of another
    size too, and the errors are its own. Derivatives of any order are convolutions again, and take
    the same road.

    Args:
        image: (B, C, H, W).
        weight: (K, C, 3, 3).
        wishes: PyTorch does not tell a backward that runs to other tensors alone that nobody asks
            for the weight's gradient; with ``wishes.weights`` False it is left out. F.conv2d does
            not look at them. Default: it is computed wherever the weight requires a gradient.

    Returns:
        (B, K, H, W).
    """
    if has_torch_function((image, weight)):
        overridden: Tensor = handle_torch_function(
            conv3x3, (image, weight), image, weight, wishes=wishes
        )
        return overridden
    if suits_winograd(image, weight):
        found: Tensor = _Convolution.apply(image, weight, False, wishes)
        return found
    return F.conv2d(image, weight, padding=1)


def suits_winograd(image: Tensor, weight: Tensor) -> bool:
    """Whether :func:`conv3x3` takes Winograd's algorithm."""
    if transforming() or image.dim() != 4 or weight.shape[1:] != (image.shape[1], 3, 3):
        return False
    height, width = image.shape[-2:]
    tiles = _tiles(height, width)
    return (
        image.device.type == weight.device.type == "cpu"
        and image.layout == weight.layout == torch.strided
        and image.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and all(n >= LEAST_CHANNELS and n % LANES == 0 for n in weight.shape[:2])
        and image.numel() > 0
        and tiles * 12 <= height * width  # tiles that jut out are work for nothing
        and len(image) * tiles * 4 >= max(weight.shape[:2])  # or the weights take too much of it
        and extension.load()
        and torch._C._dispatch_has_kernel_for_dispatch_key("stssad_fast::winograd_input", "CPU")
    )


class _Convolution(Function):
    """``image * weight``; transposed: what its gradient for ``image`` is as a function of that."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, transposed: bool, wishes: Wishes | None
    ) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.transposed, ctx.wishes = transposed, wishes
        image = image.contiguous(memory_format=torch.channels_last)
        outputs, channels = weight.shape[:2] if not transposed else weight.shape[1::-1]
        points = weight.new_empty(POINTS, channels, outputs)
        _kernels.winograd_weight(weight.contiguous(), transposed, points)
        size = (len(image), outputs, *image.shape[-2:])
        result = torch.empty(size, dtype=image.dtype, memory_format=torch.channels_last)
        for part, transformed, products in _chunks(image, result):
            _kernels.winograd_input(image[part], transformed)
            _multiply(transformed, points, products)
            _kernels.winograd_output(products, result[part])
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        wishes, grad_image, grad_weight = ctx.wishes, None, None
        if ctx.needs_input_grad[0]:
            grad_image = _Convolution.apply(grad, weight, not ctx.transposed, wishes)
        if ctx.needs_input_grad[1] and (wishes is None or wishes.weights):
            pair = (image, grad) if ctx.transposed else (grad, image)
            grad_weight = _WeightGradient.apply(*pair, wishes)
        return grad_image, grad_weight, None, None


class _WeightGradient(Function):
    """Gradient of ``image * weight`` for the weight, which is linear in ``grad`` and ``image``."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, image: Tensor, wishes: Wishes | None) -> Tensor:
        ctx.save_for_backward(grad, image)
        ctx.wishes = wishes
        grad = grad.contiguous(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last)
        outputs, channels = grad.shape[1], image.shape[1]
        points = image.new_zeros(POINTS, channels, outputs)
        for part, transformed, incoming in _chunks(image, grad):
            _kernels.winograd_input(image[part], transformed)
            _kernels.winograd_gradient(grad[part], incoming)
            _multiply(transformed.transpose(1, 2), incoming, points, add=True)
        result = image.new_empty(outputs, channels, 3, 3)
        _kernels.winograd_weight_gradient(points, result)
        return result

    @staticmethod
    def backward(ctx: Any, grad_weight: Tensor) -> tuple[Tensor | None, ...]:
        (grad, image), wishes = ctx.saved_tensors, ctx.wishes
        to_grad, to_image = ctx.needs_input_grad[:2]
        return (
            _Convolution.apply(image, grad_weight, False, wishes) if to_grad else None,
            _Convolution.apply(grad, grad_weight, True, wishes) if to_image else None,
            None,
        )


def _multiply(left: Tensor, right: Tensor, out: Tensor, add: bool = False) -> None:
    """``out`` (36, R, K) is, or is increased by, ``left`` (36, R, D) times ``right`` (36, D, K)."""
    if extension.simd_level() == "avx512":
        _kernels.winograd_multiply(left, right, out, add)
    elif add:
        out.baddbmm_(left, right)
    else:
        torch.bmm(left, right, out=out)


def _tiles(height: int, width: int) -> int:
    return -(-height // 4) * -(-width // 4)


def _chunks(image: Tensor, result: Tensor) -> Any:
    """Pictures to take at a time, and room for both batches transformed, (36, tiles + 1, C) each.

    The last tile of a point is 0. Without it points would lie a power of two apart, where caches
    have no room; with a gap in its place torch.bmm would take them one by one.
    """
    tiles = _tiles(*image.shape[-2:])
    widest = max(image.shape[1], result.shape[1])
    size = min(len(image), max(CHUNK // (POINTS * widest), LEAST_TILES) // tiles + 1)
    rooms: list[Tensor] = []
    for first in range(0, len(image), size):
        part = slice(first, min(first + size, len(image)))
        needed = (part.stop - first) * tiles + 1
        if not rooms or rooms[0].shape[1] != needed:
            rooms = [value.new_empty(POINTS, needed, value.shape[1]) for value in (image, result)]
            for room in rooms:
                room[:, -1] = 0
        yield part, *rooms
