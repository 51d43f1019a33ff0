"""What the ops are compared with: the fastest formulations found, autograd doing the backward.

Tried on two cores, forward + backward, fastest first:

cutdiff
    the exponent as a product of rank three, in-place exp and relu; the same with `hardtanh_` or
    `clamp`; `addcmul` of precomputed offsets; the textbook expression; blocks of pictures that fit
    the cache, concatenated. `relu` is enough as pictures are at most 1 and the patch is positive.
    torch.compile: the textbook expression, channel by channel. Inductor's forward stores a mask of
    the picture for the backward, whatever the expression; under `checkpoint` the backward computes
    everything again instead, which is several times faster. Both are columns.
rotate
    one grid by a product of matrices, two pictures folded into one where they share the angle
    (folding more leaves threads idle); `affine_grid`; `embedding_bag` over the four corners.
mean_distance_loss
    all distances by one product of matrices, the total by dot products, all of it after a shift by
    one row; about the mean, `vector_norm`s or dot products; Eq. 2 as it stands. Without the shift
    it is a little faster, but NaN at a mean of 1e4. Before the shift was added, slower than
    that: `cdist`, `pairwise_distance`, `var` of the concatenated sets.

No hand-written autograd.Function: its backward could not be differentiated again.
"""

from functools import cache

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from stssad_fast.ops import reference


@cache
def positions(count, dtype, device):
    return torch.arange(1, count + 1, dtype=dtype, device=device) / count


@cache
def offsets(height, width, dtype, device):
    """Pixel positions (x, y) about the centre, (H * W, 2)."""
    y = torch.arange(height, dtype=dtype, device=device) - (height - 1) / 2
    x = torch.arange(width, dtype=dtype, device=device) - (width - 1) / 2
    return torch.cartesian_prod(y, x).flip(1).contiguous()


def whitened(image, shape, center):
    """Offsets w1 (B, H), and a (B, H), b (B, W) with w2 = b - a."""
    l11, l21, l22 = shape.reshape(-1, 3, 1).unbind(1)
    rows, columns = (positions(n, shape.dtype, shape.device) for n in image.shape[-2:])
    w1 = (rows - center[:, :1]) / l11
    return w1, w1 * (l21 / l22), (columns - center[:, 1:]) / l22


def cutdiff_eager(image, shape, center):
    w1, a, b = whitened(image, shape, center)
    left = torch.stack([-(w1 * w1 + a * a), 2 * a, torch.ones_like(a)], 2)
    right = torch.stack([torch.ones_like(b), b, -(b * b)], 1)
    patch = torch.bmm(left, right).exp_()
    return (image - patch[:, None]).relu_().to(image.dtype)


def cutdiff_checkpoint(image, shape, center):
    return checkpoint(cutdiff_fusible, image, shape, center, use_reentrant=False)


def cutdiff_fusible(image, shape, center):
    w1, a, b = whitened(image, shape, center)
    patch = torch.exp(-(w1[..., None] ** 2) - (b[:, None] - a[..., None]) ** 2)
    cut = [(channel - patch).clamp(0, 1) for channel in image.unbind(1)]
    return torch.stack(cut, 1).to(image.dtype)


def cutdiff_reference(image, shape, center):
    return reference.cutdiff(image, shape.reshape(-1, 3), center)


def rotate_eager(image, angle):
    batch, channels, height, width = image.shape
    radians = torch.deg2rad(angle.reshape(-1))
    cos, sin = torch.cos(radians), torch.sin(radians)
    x, y = torch.stack([cos, -sin]) * (2 / width), torch.stack([sin, cos]) * (2 / height)
    grid = offsets(height, width, angle.dtype, angle.device) @ torch.stack([x, y], -1).movedim(1, 0)
    grid = grid.unflatten(1, (height, width))
    if angle.dim() == 0 and batch % 2 == 0 and image.is_contiguous():
        pictures = image.view(batch // 2, 2 * channels, height, width)
    else:
        pictures = image
    grid = grid.expand(len(pictures), -1, -1, -1)
    # In the grid's dtype, as autocast does it: coordinates in bfloat16 would be off by a pixel.
    turned = functional.grid_sample(pictures.to(grid.dtype), grid, align_corners=False)
    return turned.view(image.shape).to(image.dtype)


def rotate_reference(image, angle):
    return reference.rotate(image, angle.reshape(-1))


def rotate_kornia(image, angle):
    from kornia.geometry.transform import rotate

    wide = image.to(angle.dtype)  # as above
    return rotate(wide, angle.reshape(-1), align_corners=False).to(image.dtype)


def rotate_torchvision(image, angle):
    from torchvision.transforms.v2.functional import InterpolationMode, rotate

    # One angle, and a number.
    return rotate(image.float(), angle, InterpolationMode.BILINEAR).to(image.dtype)


mean_distance_loss_reference = reference.mean_distance_loss


def mean_distance_loss_eager(train, augmented, test):
    shift = train[0].detach()
    train, augmented, test = train - shift, augmented - shift, test - shift
    means = torch.stack([train.mean(0), augmented.mean(0)])
    squares = (test * test).sum(1, keepdim=True)
    distances = torch.addmm((means * means).sum(1) + squares, test, means.T, alpha=-2).sqrt()
    total = train.flatten().dot(train.flatten()) + augmented.flatten().dot(augmented.flatten())
    rows = len(train) + len(augmented) + len(test)
    mean = (len(train) * means[0] + len(augmented) * means[1] + test.sum(0)) / rows
    scale = torch.rsqrt((total + squares.sum()) / rows - mean.dot(mean))
    return distances.sum() / (2 * len(test)) * scale
