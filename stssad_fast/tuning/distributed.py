"""One start, tuned by several processes to the result of one: each takes its share of every batch.

All that depends on several pictures is a sum: the statistics of batch norm, the cross-entropy, and
in the validation loss counts, means, squared norms and distances. Rows and patch centres are drawn
for the whole batch on every rank, from the same generator, as one process draws them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stssad_fast.augment import Augmentation
from stssad_fast.datasets import Pictures
from stssad_fast.errors import InputError
from stssad_fast.ops.batch_norm import follow, has_kernel
from stssad_fast.tuning.batch_norm import TrainingBatchNorm
from stssad_fast.tuning.hypergradient import Tensors
from stssad_fast.tuning.ranks import Ranks
from stssad_fast.tuning.tuner import Tuner, TunerConfig
from stssad_fast.tuning.validation import loss_over_all


class DistributedTuner(Tuner):
    """:class:`Tuner` on several ranks; results are those of one process, up to rounding.

    All ranks take every step together. What they hold is the same after it, bit for bit.

    Args:
        ranks: that work on it. All give the same other arguments.

    Raises:
        InputError: the detector holds ``nn.SyncBatchNorm``.
    """

    def __init__(
        self,
        ranks: Ranks,
        detector: nn.Module,
        augmentation: Augmentation,
        train: Pictures,
        test: Pictures,
        config: TunerConfig,
        generator: torch.Generator,
    ) -> None:
        self.ranks = ranks
        if any(isinstance(module, nn.SyncBatchNorm) for module in detector.modules()):
            raise InputError(
                "the detector holds torch.nn.SyncBatchNorm, which cannot be differentiated twice; "
                "use nn.BatchNorm2d, whose statistics are made those of all ranks"
            )
        super().__init__(detector, augmentation, train, test, config, generator)
        self.read_every = 1  # so that all find the end in the same step; they wait in each anyway
        distance = partial(mean_distance_loss, ranks)
        self._sweep = partial(loss_over_all, distance=distance, total=ranks.total)

    def _enter(self, tensors: Tensors) -> Tensors:
        return dict(zip(tensors, self.ranks.spread(list(tensors.values())), strict=True))

    def _share(self, rows: Tensor) -> Tensor:
        return self.ranks.own(rows)

    def _norm(self) -> "CommonBatchNorm":
        return CommonBatchNorm(self.ranks)

    def _cross_entropy(self, logit: Tensor, truth: Tensor) -> Tensor:
        own = F.binary_cross_entropy_with_logits(logit, truth, reduction="sum").double()
        found, count = self.ranks.total(torch.stack([own, own.new_tensor(len(logit))])).unbind()
        return (found / count.detach()).to(logit.dtype)

    def _distance(self, embedding: Tensor, counts: Sequence[int]) -> Tensor:
        return mean_distance_loss(self.ranks, *embedding.split(list(counts)))


class CommonBatchNorm(TrainingBatchNorm):
    """By the statistics of all ranks' rows together, running statistics too.

    Arguments are own, with weight and bias from :meth:`Ranks.spread`; differentiable to any order.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        if function is has_kernel:
            return False  # of the statistics of its argument alone
        return super().__torch_function__(function, types, arguments, options)

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
        axes = [axis for axis in range(x.dim()) if axis != 1]
        each = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        wide, number = x if x.dtype == torch.float64 else x.float(), x.numel() // x.shape[1]
        # Sums about this rank's own mean, a constant: one round, and squares keep their digits.
        own = wide.detach().sum(axes, dtype=torch.float64) / max(number, 1)
        wide = wide - own.to(wide.dtype).view(each)
        own = own.to(wide.dtype).double()
        first = wide.sum(axes, dtype=torch.float64)
        second = wide.square().sum(axes, dtype=torch.float64)
        moments = [first + number * own, second + 2 * own * first + number * own.square()]
        sums = self.ranks.total(torch.stack([*moments, torch.full_like(own, number)]))
        count = sums[2].detach()
        mean = sums[0] / count
        var = sums[1] / count - mean.square()
        common_mean, scale = self.ranks.spread([mean, (var + eps).rsqrt()])
        scale = scale if weight is None else scale * weight
        shift = (own - common_mean) * scale
        shift = shift if bias is None else shift + bias
        y = wide * scale.to(wide.dtype).view(each) + shift.to(wide.dtype).view(each)
        follow(running_mean, running_var, mean.detach(), var.detach(), count, momentum)
        return y.to(x.dtype)


def mean_distance_loss(ranks: Ranks, train: Tensor, augmented: Tensor, test: Tensor) -> Tensor:
    """``L_val`` (Eq. 2-3) of the rows of all ranks, from sums over the ranks.

    Like :func:`stssad_fast.ops.mean_distance_loss` of all rows, whose edge cases are the same: all
    rows equal: loss and gradient 0; a distance of 0 has subgradient 0. Arithmetic is in float64,
    about a common shift, so that a large mean costs no digits. Differentiable to any order.

    Args:
        ranks: whose rows these are.
        train, augmented, test: own embeddings (n, D); of each set some ranks may have none.

    Returns:
        a common scalar in the dtype of ``train``; not a number if an embedding is not finite.

    Raises:
        ValueError: a set is empty on all ranks.
    """
    dtype, sets = train.dtype, [rows.double() for rows in (train, augmented, test)]
    shift, unit = _frame(ranks, torch.cat(sets))
    sets = [(rows - shift) / unit for rows in sets]
    own = torch.stack([rows.sum(0) for rows in sets])
    many = own.new_tensor([[len(rows)] for rows in sets])
    sums, many = ranks.total(torch.cat([own, many], 1)).split([own.shape[1], 1], 1)
    counts = [int(count) for count in many.flatten().tolist()]
    for name, count in zip(("train", "augmented", "test"), counts, strict=True):
        if count == 0:
            raise ValueError(f"{name} has no rows on any rank; expected at least one embedding")
    centers = [sums[0] / counts[0], sums[1] / counts[1], sums.sum(0) / sum(counts)]
    to_train, to_augmented, middle = ranks.spread(centers)
    distances = _norm(sets[2] - to_train).sum() + _norm(sets[2] - to_augmented).sum()
    squares = (torch.cat(sets) - middle).square().sum()
    distance, square = ranks.total(torch.stack([distances, squares])).unbind()
    norm = torch.where(square == 0, 1.0, square).sqrt()  # all rows are equal, and distances 0
    return (distance / (2 * counts[2]) * sum(counts) ** 0.5 / norm).to(dtype)


@torch.no_grad()
def _frame(ranks: Ranks, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The greatest entries (D,), from which all rows are taken, and the largest range of a column.

    The loss depends on neither shift nor scale, so these are constants to every derivative. Rows
    that are all equal become exactly 0, others between -1 and 0.
    """
    ends = rows.new_full((2, rows.shape[1]), -torch.inf)
    if len(rows):
        ends = torch.stack([rows.amax(0), (-rows).amax(0)])
    top, bottom = ranks.greatest(ends)
    unit = (top + bottom).amax()
    return top, torch.where(unit > 0, unit, 1.0)


def _norm(rows: Tensor) -> Tensor:
    """Norm (N,) of each row; 0, gradient included, for a zero row."""
    square = rows.square().sum(-1)
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())
