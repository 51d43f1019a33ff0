"""The optimiser of the few hyperparameters: no step looks at a value, so a GPU never waits."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8


class HyperOptimizer:
    """Adam or SGD, in place and to the bits of ``torch.optim``.

    What depends on a count is looked up on the device, so that a CUDA graph can be replayed.

    Args:
        parameters: to move.
        kind: ``"adam"`` or ``"sgd"``.
        rates: learning rate of each iteration.
    """

    def __init__(self, parameters: Sequence[Tensor], kind: str, rates: Sequence[float]) -> None:
        self.parameters, self.kind = list(parameters), kind
        device = self.parameters[0].device if self.parameters else None
        counts = range(1, len(rates) + 1)
        self._tables = torch.tensor(
            [
                list(rates),
                [1 - BETAS[0] ** count for count in counts],
                [math.sqrt(1 - BETAS[1] ** count) for count in counts],
            ],
            dtype=torch.float64,
            device=device,
        )
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.means = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.squares = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], iteration: Tensor) -> None:
        """Move the parameters against the gradients; ``iteration`` (), an integer on the device."""
        rate = self._tables[0].index_select(0, iteration[None])[0]
        if self.kind == "sgd":
            for value, gradient in zip(self.parameters, gradients, strict=True):
                value.addcmul_(gradient, -rate.to(value.dtype).expand_as(value))
            return
        _, first, second = self._tables.index_select(1, self.count[None])[:, 0]
        for value, gradient, mean, square in zip(
            self.parameters, gradients, self.means, self.squares, strict=True
        ):
            mean.lerp_(gradient, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            scale = (square.sqrt() / second.to(value.dtype)).add_(EPSILON)
            value.sub_((rate / first).to(value.dtype) * mean / scale)
        self.count.add_(1)

    def state(self) -> dict[str, Tensor]:
        """What :meth:`load_state` needs to go on."""
        moments = {"mean": self.means, "square": self.squares}
        return {"count": self.count} | {
            f"{name}.{index}": value
            for name, values in moments.items()
            for index, value in enumerate(values)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go back to what :meth:`state` gave."""
        for name, value in self.state().items():
            value.copy_(state[name])
