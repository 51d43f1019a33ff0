"""One bilevel step: update the parameters, and differentiate the validation loss through it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Loss = Callable[[Tensors, Tensors], Tensor]


class BilevelStep(NamedTuple):
    """What :func:`bilevel_step` returns; every tensor is detached."""

    parameters: Tensors
    velocity: Tensors
    gradient: Tensors
    train_loss: Tensor
    validation_loss: Tensor


def bilevel_step(
    train_loss: Loss,
    validation_loss: Loss,
    parameters: Tensors,
    hyperparameters: Tensors,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    velocity: Tensors | None = None,
    first_order: bool = False,
) -> BilevelStep:
    """Gradient of ``a -> L_val(theta'(a), a)`` with ``theta'(a)`` one SGD step (paper, Eq. 5).

    With ``v = dL_val/dtheta'``::

        d L_val / da = dL_val/da |theta'  -  lr * d/da <grad_theta L_trn(theta, a), v>

    The second term is one reverse pass over the graph of the inner gradient, so the result is
    exact; it never holds the graphs of both passes at once. Momentum enters ``theta'`` as a
    constant, and the gradient stays exact.

    Args:
        train_loss: ``L_trn(theta, a)``, a scalar.
        validation_loss: ``L_val(theta, a)``, a scalar.
        parameters: ``theta`` by name.
        hyperparameters: ``a`` by name.
        learning_rate: of the SGD step.
        momentum: of the SGD step; ``velocity`` holds the accumulated gradient (absent: zero).
        first_order: drop the second term (``FO`` in the paper's tables).
    """
    theta = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    a = {name: value.detach().requires_grad_() for name, value in hyperparameters.items()}

    inner = train_loss(theta, a)
    gradients = torch.autograd.grad(
        inner, list(theta.values()), create_graph=not first_order, materialize_grads=True
    )
    stepped, moved = {}, {}
    with torch.no_grad():
        for (name, value), gradient in zip(theta.items(), gradients, strict=True):
            direction = gradient.detach()
            if momentum and velocity:
                direction = momentum * velocity[name] + direction
            moved[name] = direction
            stepped[name] = value.detach() - learning_rate * direction
    updated = {name: value.requires_grad_() for name, value in stepped.items()}

    outer = validation_loss(updated, a)
    names, count = list(a), len(a)
    found = torch.autograd.grad(outer, [*a.values(), *updated.values()], allow_unused=True)
    total = {
        name: torch.zeros_like(a[name]) if part is None else part
        for name, part in zip(names, found[:count], strict=True)
    }
    if not first_order:
        pairs = [
            (gradient, v)
            for gradient, v in zip(gradients, found[count:], strict=True)
            if v is not None and gradient.requires_grad
        ]
        if pairs:
            indirect = torch.autograd.grad(
                [gradient for gradient, _ in pairs],
                list(a.values()),
                [-learning_rate * v for _, v in pairs],
                allow_unused=True,
            )
            for name, part in zip(names, indirect, strict=True):
                if part is not None:
                    total[name] = total[name] + part
    return BilevelStep(
        {name: value.detach() for name, value in updated.items()},
        moved,
        {name: value.detach() for name, value in total.items()},
        inner.detach(),
        outer.detach(),
    )
