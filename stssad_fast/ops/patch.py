"""CutDiff's shape in the words of a person: size, aspect and angle."""

import torch
from torch import Tensor

from stssad_fast.ops._operators import as_floating, check_finite, check_positive, not_floating


def patch_shape(size: Tensor | float, aspect: Tensor | float, angle: Tensor | float) -> Tensor:
    """Lower triangle of ``L`` with ``L L^T = R diag(size / aspect, size * aspect) R^T``.

    ``R`` turns by ``angle`` (paper, 3.2.1). Differentiable; :func:`patch_parameters` inverts it.

    Args:
        size: area-like, positive: a round patch falls to 1/e at ``sqrt(size)`` of the picture from
            its centre. Any shape that broadcasts with the others.
        aspect: width over height, positive.
        angle: degrees, counter-clockwise as the eye sees the picture; finite.

    Returns:
        (..., 3): ``l11, l21, l22``, with ``l11, l22 > 0``.

    Raises:
        TypeError: one is not a number or floating-point tensor.
        ValueError: a size or aspect on the CPU is not positive and finite, or an angle not finite.
    """
    words = {"size": size, "aspect": aspect, "angle": angle}
    tensors = (v for v in words.values() if isinstance(v, Tensor))
    like = next((v for v in tensors if v.is_floating_point()), None)
    dtype = torch.get_default_dtype() if like is None else like.dtype
    device = None if like is None else like.device
    size, aspect, angle = (
        as_floating(value, name, dtype, device).to(device=device, dtype=dtype)
        for name, value in words.items()
    )
    check_positive(size, "size")
    check_positive(aspect, "aspect")
    check_finite(angle, "angle")
    radians = torch.deg2rad(angle)
    cos, sin = torch.cos(radians), torch.sin(radians)
    # Cholesky factor of [[a, b], [b, d]], with a d - b^2 = size^2 known without cancellation.
    a = cos * cos / aspect + sin * sin * aspect
    b = sin * cos * (1 / aspect - aspect)
    scale = (size / a).sqrt()
    return torch.stack(torch.broadcast_tensors(a * scale, b * scale, scale), dim=-1)


def patch_parameters(shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Size, aspect and angle of ``L``: the inverse of :func:`patch_shape`, and differentiable.

    ``(aspect, angle)`` and ``(1 / aspect, angle + 90)`` are the same ellipse; the answer is the one
    with the angle in [-45, 45] degrees. A round patch has angle 0, with gradient 0.

    Args:
        shape: (..., 3): ``l11, l21, l22``; the signs of the columns ``(l11, l21)`` and ``l22`` do
            not matter to the patch.

    Returns:
        ``size, aspect, angle``, each of shape (...). A singular ``L`` has size 0; its aspect and
        angle are those of the line it degenerates to, kept finite.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: its last dimension is not 3.
    """
    if found := not_floating(shape):
        raise TypeError(f"shape is {found}; expected a dense floating-point tensor (..., 3)")
    if shape.shape[-1:] != (3,):
        raise ValueError(f"shape has shape {tuple(shape.shape)}; expected (..., 3): l11, l21, l22")
    l11, l21, l22 = shape.unbind(-1)
    size = (l11 * l22).abs()
    # With c = D - A and s = -2B of L L^T = [[A, B], [B, D]]: aspect - 1/aspect along `angle` is
    # hypot(c, s) / size, and 2 angle is the direction of (c, s).
    c = (l21 - l11) * (l21 + l11) + l22 * l22
    s = -2 * l11 * l21
    c, s = torch.where(c < 0, -c, c), torch.where(c < 0, -s, s)
    flip = torch.where((l21 - l11) * (l21 + l11) + l22 * l22 < 0, -1.0, 1.0).to(shape.dtype)
    oblique = s != 0
    length = torch.where(oblique, torch.hypot(torch.where(oblique, c, 1.0), s), c)
    tiny = torch.finfo(shape.dtype).tiny
    aspect = torch.exp(flip * torch.asinh(length / (2 * size.clamp_min(tiny**0.5))))
    round_ = (c == 0) & (s == 0)
    angle = torch.rad2deg(torch.atan2(s, torch.where(round_, 1.0, c))) / 2
    return size, aspect, angle
