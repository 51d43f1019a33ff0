"""Memory for time: the activations inside a network's parts are computed again when needed."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


def parts(network: nn.Module) -> Iterator[nn.Module]:
    """Children of a network, and the blocks of those that are a sequence of blocks."""
    for child in network.children():
        blocks = list(child.children())
        if isinstance(child, nn.Sequential) and any(list(b.children()) for b in blocks):
            yield from blocks
        else:
            yield child


@contextmanager
def recomputed(
    network: nn.Module,
    wanted: bool = True,
    where: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[None]:
    """Inside, a forward pass keeps, of the first half of the network, its parts' inputs alone.

    Pictures are largest there. The backward computes the rest again, with the parameters and
    buffers that the part had then, also if they were put there by ``functional_call``. A part that
    holds nothing to train is not touched, and random layers would draw anew: for networks without
    them. What the forward pass ran in is to be made by ``where``.
    """
    able = [part for part in parts(network) if list(part.parameters())]
    patched = able[: len(able) // 2] if wanted else []
    for part in patched:
        part.forward = _recomputing(part, part.forward, where)
    try:
        yield
    finally:
        for part in patched:
            del part.forward


def _recomputing(
    part: nn.Module,
    plain: Callable[..., Tensor],
    where: Callable[[], AbstractContextManager[Any]],
) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        tensors = {**dict(part.named_parameters()), **dict(part.named_buffers())}
        first = True

        def run(x: Tensor) -> Tensor:
            nonlocal first
            if first:
                first = False
                return plain(x)
            with where():
                result: Tensor = functional_call(part, tensors, (x,))
            return result

        found: Tensor = checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)
        return found

    return forward
