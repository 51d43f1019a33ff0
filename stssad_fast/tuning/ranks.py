"""The processes of one fit (``torch.distributed``): what they exchange, and how it is derived.

Tensors are of two kinds. Some are *common*: every rank holds the same numbers (parameters, means,
losses). Others are *own*: each rank holds its share of the rows (pictures, activations). They
meet in two functions only, which are each other's derivative, so that both can be differentiated
to any order: :meth:`Ranks.total` makes something common of what is own, :meth:`Ranks.spread` lets
each rank use for its rows what is common.

A gradient is of the kind of what it belongs to: that of a common loss for a common tensor is
common, on every rank the whole gradient of the one loss. The loss counts once, not once for each
rank that holds a copy of it: where the backward of ``total`` would add the ranks' equal gradients,
as that of ``torch.distributed.nn.functional.all_reduce`` does, the result would be multiplied by
the number of ranks. What is common enters the computation of what is own through ``spread`` alone,
else its gradient is that of one rank's rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from stssad_fast.errors import InputError

T = TypeVar("T")


class Ranks:
    """The processes of the default group. Every method but :meth:`own` is for all of them at once.

    Args:
        device: of the tensors that are added up.

    Attributes:
        rank, size: number of this process, from 0, and of all.

    Raises:
        InputError: there is no process group, or none for this device.
    """

    def __init__(self, device: torch.device) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise InputError(
                "distributed is True, and this process belongs to no group; call "
                "torch.distributed.init_process_group in a script that torchrun starts, or leave "
                "distributed at False"
            )
        able = [part.split(":")[0] for part in dist.get_backend_config().split(",")]
        if device.type not in able:
            raise InputError(
                f"the process group joins {', '.join(able)}, and the device is {device}; "
                "initialise it with 'gloo' for a CPU, 'nccl' for GPUs, or choose another device"
            )
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = device

    def own(self, rows: Tensor) -> Tensor:
        """The share of this rank of rows (N, ...) that all ranks have; it may be empty."""
        count = len(rows)
        return rows[count * self.rank // self.size : count * (self.rank + 1) // self.size]

    def total(self, value: Tensor) -> Tensor:
        """The sum over the ranks; differentiable to any order."""
        found: tuple[Tensor, ...] = _Total.apply(self, value)
        return found[0]

    def spread(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The same numbers, for the rows of each rank; differentiable to any order."""
        return list(_Spread.apply(self, *values))

    def greatest(self, value: Tensor) -> Tensor:
        """The greatest over the ranks, entry by entry; a constant to every derivative."""
        found = value.detach().clone()
        with self._reached():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return found

    def summed(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The sums over the ranks, of all tensors of a dtype in one message."""
        found = list(values)
        for dtype in dict.fromkeys(value.dtype for value in values):
            places = [i for i, value in enumerate(values) if value.dtype == dtype]
            flat = torch.cat([values[i].detach().reshape(-1) for i in places])
            with self._reached():
                dist.all_reduce(flat)
            parts = flat.split([values[i].numel() for i in places])
            for i, part in zip(places, parts, strict=True):
                found[i] = part.view(values[i].shape)
        return found

    def gathered(self, value: T) -> list[T]:
        """What every rank gives, in the order of the ranks; anything that can be pickled."""
        found: list[Any] = [None] * self.size
        with self._reached():
            dist.all_gather_object(found, value)
        return found

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return bool(self.greatest(torch.tensor(int(flag), device=self.device)))

    def agreed(self, asked: Callable[[], bool]) -> Callable[[], bool]:
        """Ask once, on every rank; what is returned gives the answer of any."""
        answer = self.any(asked())
        return lambda: answer

    def first(self, function: Callable[[], T]) -> T:
        """What rank 0 gets from ``function``, which it alone calls; or its InputError."""
        found: list[Any] = [None]
        if self.rank == 0:
            try:
                found = [function()]
            except InputError as error:
                found = [error]
        with self._reached():
            dist.broadcast_object_list(found, 0)
        if isinstance(found[0], InputError):
            raise found[0]
        result: T = found[0]
        return result

    @contextmanager
    def joined(self) -> Iterator[None]:
        """What raises InputError in here on one rank raises it on all, at the end of the block."""
        mine: InputError | None = None
        try:
            yield
        except InputError as error:
            mine = error
        errors = self.gathered(None if mine is None else str(mine))
        if mine is not None:
            raise mine
        for rank, message in enumerate(errors):
            if message is not None:
                raise InputError(f"rank {rank} of {self.size}: {message}")

    def compare(self, digest: str, what: str) -> None:
        """Raise InputError unless all ranks have the same digest of ``what``."""
        digests = self.gathered(digest)
        other = [rank for rank, found in enumerate(digests) if found != digests[0]]
        if other:
            raise InputError(
                f"the {what} of rank {', '.join(map(str, other))} differ from those of rank 0; "
                "give the same to all, each takes its share itself"
            )

    @contextmanager
    def _reached(self) -> Iterator[None]:
        # NCCL sends what is not a tensor by way of the present GPU.
        cuda = self.device.type == "cuda"
        try:
            with torch.cuda.device(self.device) if cuda else nullcontext():
                yield
        except RuntimeError as error:  # what torch.distributed raises for a lost connection
            raise InputError(
                f"another process of this fit has ended or does not answer ({error}). Start all of "
                "them again; from a checkpoint, resume goes on"
            ) from error


class _Total(Function):
    """Own to common."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        return tuple(ranks.summed(values))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Spread.apply(ctx.ranks, *grads)


class _Spread(Function):
    """Common to own."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Total.apply(ctx.ranks, *grads)
