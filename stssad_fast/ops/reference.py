"""The definition of every op, and its first backward, in plain PyTorch operations.

Everything here can be differentiated to any order, runs on any device, and is what every kernel is
compared with. Arguments are as the operators receive them: pictures (B, C, H, W); hyperparameters
in the arithmetic dtype (float32, or float64 for float64 pictures) with a leading dimension of 1
(shared) or B (one per picture). Equations are those of ST-SSAD (Yoo, Zhao, Akoglu), abbreviated
"paper" below.
"""

import math

import torch
from torch import Tensor


def _per_channel(value: Tensor | None, default: float) -> Tensor | float:
    """(C,) as (C, 1, 1), to go with (B, C, H, W); a number where there is none."""
    return default if value is None else value[:, None, None]


# ------------------------------------------------------------------------------------- CutDiff


def _patch(
    shape: Tensor, center: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Patch ``p = exp(-w.w)`` and whitened offsets ``w = L^-1 (g - center)`` (paper, Alg. 2).

    A shape with ``|l11|`` or ``|l22|`` at most ``tiny ** 0.25`` has no patch, and neither has a
    pixel where ``p < eps ** 2``: too little to show in a picture or to count in a gradient. There
    the offsets are set to zero *before* the division, so that neither value nor any derivative can
    be 0 * inf.

    Returns:
        ``p, w1, w2``, each (B or 1, H, W), and ``l11, l22``, safe to divide by, (B or 1, 1, 1).
    """
    tiny, eps = torch.finfo(shape.dtype).tiny, torch.finfo(shape.dtype).eps
    l11, l21, l22 = (entry[:, None, None] for entry in shape.unbind(-1))
    rows = torch.arange(1, height + 1, device=shape.device, dtype=shape.dtype) / height
    columns = torch.arange(1, width + 1, device=shape.device, dtype=shape.dtype) / width
    d1 = rows[:, None] - center[:, 0, None, None]  # (B, H, 1)
    d2 = columns - center[:, 1, None, None]  # (B, 1, W)

    regular = (l11.abs() > tiny**0.25) & (l22.abs() > tiny**0.25)
    l11 = torch.where(regular, l11, 1.0)
    l22 = torch.where(regular, l22, 1.0)
    with torch.no_grad():
        w1 = d1 / l11
        w2 = (d2 - l21 * w1) / l22
        near = regular & (w1 * w1 + w2 * w2 < -2 * math.log(eps))  # False where the square is NaN
    w1 = torch.where(near, d1, 0.0) / l11
    w2 = (torch.where(near, d2, 0.0) - l21 * w1) / l22
    return torch.where(near, torch.exp(-(w1 * w1 + w2 * w2)), 0.0), w1, w2, l11, l22


def cutdiff(
    image: Tensor,
    shape: Tensor,
    center: Tensor,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """``clamp(image - p, 0, 1)`` with the soft elliptical patch ``p`` (paper, Alg. 2).

    Pixel (i, j), 1-based, sits at ``g = (i/H, j/W)``; ``p = exp(-|L^-1 (g - center)|^2)`` is the
    same for every channel. At the clamp's edges (``image - p`` exactly 0 or 1) the gradient is 0.

    Args:
        image: (B, C, H, W), values in [0, 1].
        shape: (1 or B, 3), the entries ``l11, l21, l22`` of the lower triangle of ``L``, in units
            of the picture's height and width. A singular ``L`` has no patch and no gradient.
        center: (1 or B, 2), row and column of the patch's centre as fractions of the picture.
        mean, std: (C,): the result's channels are normalised, ``(result - mean) / std``, before
            they are rounded to the dtype of ``image``. None: they are not.

    Returns:
        (B, C, H, W) in the dtype of ``image``.
    """
    patch = _patch(shape, center, *image.shape[-2:])[0]
    cut = image.to(shape.dtype) - patch[:, None]
    inside = (cut > 0) & (cut < 1)
    result = torch.where(inside, cut, cut.detach().clamp(0, 1))
    if std is not None:
        result = (result - _per_channel(mean, 0.0)) / _per_channel(std, 1.0)
    return result.to(image.dtype)


def cutdiff_backward(
    grad: Tensor,
    image: Tensor,
    shape: Tensor,
    center: Tensor,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`cutdiff` for image, shape and centre.

    With ``G = sum_c grad / std * [0 < image - p < 1]`` and ``dp/dw = -2 p w``, everything that
    shape and centre need is five moments of ``p G`` over the pixels: those of ``w1^2, w1 w2, w2^2,
    w1, w2``.
    What would overflow is the largest number instead.
    """
    patch, w1, w2, l11, l22 = _patch(shape, center, *image.shape[-2:])
    cut = image.to(shape.dtype) - patch[:, None]
    inside = (cut > 0) & (cut < 1)
    grad = grad.to(shape.dtype) if std is None else grad.to(shape.dtype) / _per_channel(std, 1.0)
    grad = torch.where(inside, grad, 0.0)
    weight = patch * grad.sum(1)  # (B, H, W)

    def moment(value: Tensor) -> Tensor:
        return (weight * value).sum((-2, -1))  # (B,)

    s11, s12, s22 = moment(w1 * w1), moment(w1 * w2), moment(w2 * w2)
    s1, s2 = moment(w1), moment(w2)
    l11, l22, l21 = l11[:, 0, 0], l22[:, 0, 0], shape[:, 1]
    grad_shape = torch.stack(
        [2 * (s12 / l22 * l21 - s11) / l11, -2 * s12 / l22, -2 * s22 / l22], dim=-1
    )
    grad_center = torch.stack([2 * (s2 / l22 * l21 - s1) / l11, -2 * s2 / l22], dim=-1)
    grad_shape = _saturated(_unbroadcast(_saturated(grad_shape), shape))
    grad_center = _saturated(_unbroadcast(_saturated(grad_center), center))
    return grad.to(image.dtype), grad_shape, grad_center


def _saturated(grad: Tensor) -> Tensor:
    """The largest number in place of Inf; NaN stays."""
    limit = torch.finfo(grad.dtype).max
    return grad.clamp(-limit, limit)


def _unbroadcast(grad: Tensor, like: Tensor) -> Tensor:
    """Sum the gradient of a hyperparameter that all pictures shared."""
    return grad.sum(0, keepdim=True) if like.shape[0] == 1 else grad


# ------------------------------------------------------------------------------------ Rotation


def _sampling(angle: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    """Source coordinates of every output pixel, and their derivative for the angle in degrees.

    Returns:
        ``y, x, dy, dx``, each (B or 1, H, W), in pixels.
    """
    radians = torch.deg2rad(torch.remainder(angle, 360.0))[:, None, None]
    cos, sin = torch.cos(radians), torch.sin(radians)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y = (torch.arange(height, device=angle.device, dtype=angle.dtype) - middle_y)[:, None]
    x = torch.arange(width, device=angle.device, dtype=angle.dtype) - middle_x
    turned_y, turned_x = sin * x + cos * y, cos * x - sin * y
    unit = math.pi / 180
    return turned_y + middle_y, turned_x + middle_x, turned_x * unit, -turned_y * unit


def _corners(
    image: Tensor, y: Tensor, x: Tensor
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor], list[Tensor]]:
    """The four pixels around each source coordinate, zero outside the picture.

    Returns:
        values ``[v00, v01, v10, v11]`` (B, C, H, W); fractions ``fy, fx`` (B or 1, 1, H, W); flat
        indices and validity of the four corners, each (B or 1, 1, H, W).
    """
    batch, channels, height, width = image.shape
    y0, x0 = y.detach().floor(), x.detach().floor()
    fy, fx = (y - y0)[:, None], (x - x0)[:, None]
    flat = image.reshape(batch, channels, height * width)
    values, indices, valid = [], [], []
    for row in (y0, y0 + 1):
        for column in (x0, x0 + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = row.clamp(0, max(height - 1, 0)) * width + column.clamp(0, max(width - 1, 0))
            index, inside = index.long()[:, None], inside[:, None]
            taken = flat.gather(-1, index.expand(batch, channels, height, width).flatten(2))
            values.append(torch.where(inside, taken.view(image.shape), 0.0))
            indices.append(index)
            valid.append(inside)
    return values, fy, fx, indices, valid


def rotate(
    image: Tensor, angle: Tensor, mean: Tensor | None = None, std: Tensor | None = None
) -> Tensor:
    """Rotate counter-clockwise about the picture's centre, bilinear, zeros outside (paper, 3.2.2).

    The output pixel at ``(y, x)`` from the centre is read at ``(sin x + cos y, cos x - sin y)``,
    in pixels, so that a picture which is not square is not sheared.

    Args:
        image: (B, C, H, W).
        angle: (1 or B,), degrees.
        mean, std: (C,), as for :func:`cutdiff`; what comes from outside is ``-mean / std``.

    Returns:
        (B, C, H, W) in the dtype of ``image``.
    """
    y, x, _, _ = _sampling(angle, *image.shape[-2:])
    (v00, v01, v10, v11), fy, fx, _, _ = _corners(image.to(angle.dtype), y, x)
    top, bottom = v00 + fx * (v01 - v00), v10 + fx * (v11 - v10)
    result = top + fy * (bottom - top)
    if std is not None:
        result = (result - _per_channel(mean, 0.0)) / _per_channel(std, 1.0)
    return result.to(image.dtype)


def rotate_backward(
    grad: Tensor,
    image: Tensor,
    angle: Tensor,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`rotate` for image and angle."""
    batch, channels, height, width = image.shape
    y, x, dy, dx = _sampling(angle, height, width)
    (v00, v01, v10, v11), fy, fx, indices, valid = _corners(image.to(angle.dtype), y, x)
    grad = grad.to(angle.dtype) if std is None else grad.to(angle.dtype) / _per_channel(std, 1.0)
    slope_x = (1 - fy) * (v01 - v00) + fy * (v11 - v10)
    slope_y = (1 - fx) * (v10 - v00) + fx * (v11 - v01)
    grad_angle = (grad * (slope_y * dy[:, None] + slope_x * dx[:, None])).sum((1, 2, 3))

    grad_image = grad.new_zeros(batch, channels, height * width)
    weights = [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx]
    for weight, index, inside in zip(weights, indices, valid, strict=True):
        part = torch.where(inside, weight, 0.0) * grad
        grad_image = grad_image.scatter_add(-1, index.expand_as(part).flatten(2), part.flatten(2))
    return grad_image.view(image.shape).to(image.dtype), _unbroadcast(grad_angle, angle)


# -------------------------------------------------------------------------- Mean-distance loss


def _centred(
    train: Tensor, augmented: Tensor, test: Tensor
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """All rows about their common mean and in units of their largest entry.

    The loss depends on neither shift nor scale, so the first shift and the scale are constants to
    every derivative. The shift keeps the digits of embeddings whose mean is large, the scale keeps
    squares in range; the second centring is the one of Eq. 2.

    Returns:
        the rows (N, D), the same as three sets, their Frobenius norm, 0 if and only if all rows
        are equal, and the unit.
    """
    sets = [train, augmented, test]
    rows = torch.cat(sets)
    constant = rows.detach()
    equal = (constant - constant[:1] == 0).all()  # not so for Inf
    rows = rows - constant.mean(0)
    unit = rows.detach().abs().amax() if rows.numel() else rows.new_zeros(())
    unit = torch.where(unit > 0, unit, 1.0)
    rows = rows / unit
    rows = torch.where(equal, 0.0, rows - rows.mean(0))
    return rows, list(rows.split([len(s) for s in sets])), _norm(rows.reshape(1, -1))[0][0, 0], unit


def _mean(rows: Tensor) -> Tensor:
    """The mean of the rows, measured from the first one: of equal rows it is exactly that row."""
    first = rows[0].detach()
    return first + (rows - first).mean(0)


def _norm(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Norm (N, 1) and direction (N, D) of each row; both 0, gradient included, for a zero row."""
    square = (rows * rows).sum(-1, keepdim=True)
    zero = square == 0
    root = torch.where(zero, 1.0, square).sqrt()
    return torch.where(zero, 0.0, root), rows / root


def mean_distance_loss(train: Tensor, augmented: Tensor, test: Tensor) -> Tensor:
    """Mean-distance validation loss after total-distance normalisation (paper, Eq. 2-3).

    ``sqrt(N) / |Zc|_F * mean_i(|z_i - mean(train)| + |z_i - mean(augmented)|) / 2`` over the rows
    ``z_i`` of ``test``, where ``Zc`` holds all N rows of the three sets about their common mean.
    Equal to Eq. 3 because the centring cancels in every distance. All rows equal: loss and
    gradient are 0. A distance of 0 has subgradient 0.

    Args:
        train, augmented, test: (N_trn, D), (N_aug, D), (N_test, D), each N >= 1.

    Returns:
        a scalar in the dtype of the arguments.
    """
    rows = len(train) + len(augmented) + len(test)
    _, (train, augmented, test), total, _ = _centred(train, augmented, test)
    distances = _norm(test - _mean(train))[0] + _norm(test - _mean(augmented))[0]
    equal = total == 0
    return torch.where(
        equal, 0.0, distances.mean() / 2 * rows**0.5 / torch.where(equal, 1.0, total)
    )


def mean_distance_loss_backward(
    grad: Tensor, train: Tensor, augmented: Tensor, test: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`mean_distance_loss` for the three sets.

    With ``u_i``, ``v_i`` the unit vectors from the two means to ``z_i`` and ``s = sqrt(N)/|Zc|_F``:
    a test row receives ``s (u_i + v_i) / 2T``, a training row ``-s sum(u_i) / (2T N_trn)``, an
    augmented row likewise from ``v_i``, and every row ``-L / |Zc|_F^2`` times itself, centred.
    """
    rows, (train, augmented, test), total, unit = _centred(train, augmented, test)
    equal = total == 0
    safe = torch.where(equal, 1.0, total)
    to_train, u = _norm(test - _mean(train))
    to_augmented, v = _norm(test - _mean(augmented))
    s = len(rows) ** 0.5 / safe
    loss = s * (to_train + to_augmented).mean() / 2
    share = s / (2 * len(test))
    parts = [
        (-share / len(train) * u.sum(0)).expand_as(train),
        (-share / len(augmented) * v.sum(0)).expand_as(augmented),
        share * (u + v),
    ]
    grad_train, grad_augmented, grad_test = (
        torch.where(equal, 0.0, (part - loss / safe**2 * rows) * (grad / unit))
        for part, rows in zip(parts, (train, augmented, test), strict=True)
    )
    return grad_train, grad_augmented, grad_test


# ------------------------------------------------------------------------- Batch normalisation


def _standardised(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(x - mean) / sqrt(var + eps)`` of each channel, that factor, mean and biased variance."""
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    mean = x.mean((0, 2, 3), keepdim=True)
    var = (x - mean).square().mean((0, 2, 3), keepdim=True)
    scale = (var + eps).rsqrt()
    return (x - mean) * scale, scale, mean, var


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``y = act(gamma * x_hat + beta + residual)`` with ``x_hat = (x - mean) / sqrt(var + eps)``.

    Mean and biased variance are those of each channel over batch, rows and columns; ``act`` is
    ReLU, with gradient 0 at 0, or nothing.

    Args:
        x: (B, C, H, W), more than one number for each channel.
        gamma, beta: (C,) in the arithmetic dtype; absent: 1 and 0.
        residual: like ``x``; absent: 0.
        relu: whether ``act`` is ReLU.
        eps: added to the variance.

    Returns:
        ``y`` in the dtype of ``x``; mean and variance (C,) in float64, constants to autograd.
    """
    x_hat, _, mean, var = _standardised(x, eps)
    y = x_hat * _per_channel(gamma, 1.0) + _per_channel(beta, 0.0)
    if residual is not None:
        y = y + residual
    y = torch.relu(y) if relu else y
    return y.to(x.dtype), mean.detach().double().flatten(), var.detach().double().flatten()


def batch_norm_backward(
    grad: Tensor, x: Tensor, gamma: Tensor | None, y: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`batch_norm` for x, gamma, beta and residual.

    With ``g = grad * [y > 0]`` (without ReLU ``y`` is absent and ``g = grad``), ``<.>`` the average
    of a channel and ``s = gamma / sqrt(var + eps)``:
    ``s (g - <g> - x_hat <g x_hat>)``, ``sum(g x_hat)``, ``sum(g)`` and ``g``.
    """
    x_hat, scale, _, _ = _standardised(x, eps)
    g = (grad if y is None else torch.where(y > 0, grad, 0.0)).to(x_hat.dtype)
    mean_g = g.mean((0, 2, 3), keepdim=True)
    mean_gx = (g * x_hat).mean((0, 2, 3), keepdim=True)
    grad_x = _per_channel(gamma, 1.0) * scale * (g - mean_g - x_hat * mean_gx)
    count = x.numel() // x.shape[1]
    grad_gamma, grad_beta = (count * mean.flatten() for mean in (mean_gx, mean_g))
    return grad_x.to(x.dtype), grad_gamma, grad_beta, g.to(x.dtype)


def batch_norm_double_backward(
    v_x: Tensor | None,
    v_gamma: Tensor | None,
    v_beta: Tensor | None,
    v_residual: Tensor | None,
    grad: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    y: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`batch_norm_backward` for grad, x and gamma.

    ``v_*`` are the cotangents of its four results, absent ones zero; docs/derivations.md, 4.
    """
    x_hat, r, _, _ = _standardised(x, eps)
    g = (grad if y is None else torch.where(y > 0, grad, 0.0)).to(x_hat.dtype)
    v = torch.zeros(()).to(x_hat) if v_x is None else v_x.to(x_hat.dtype)
    a, b, weight = _per_channel(v_gamma, 0.0), _per_channel(v_beta, 0.0), _per_channel(gamma, 1.0)

    def mean(value: Tensor) -> Tensor:
        return value.expand_as(x).mean((0, 2, 3), keepdim=True)

    v_mean, vx, g_mean, gx = mean(v), mean(v * x_hat), mean(g), mean(g * x_hat)
    q = mean(v * g) - v_mean * g_mean - vx * gx
    to_g = weight * r * (v - v_mean - x_hat * vx) + a * x_hat + b
    if v_residual is not None:
        to_g = to_g + v_residual
    grad_grad = to_g if y is None else torch.where(y > 0, to_g, 0.0)
    grad_x = r * (
        a * (g - g_mean - x_hat * gx)
        - weight * r * (gx * (v - v_mean) + vx * (g - g_mean) + x_hat * (q - 2 * gx * vx))
    )
    grad_gamma = (r * q).flatten() * (x.numel() // x.shape[1])
    return grad_grad.to(grad.dtype), grad_x.to(x.dtype), grad_gamma
