"""One bilevel step: update the parameters, and differentiate the validation loss through it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from stssad_fast.tuning.convolution import LeanConvolutions

Tensors = dict[str, Tensor]
Loss = Callable[[Tensors, Tensors], Tensor]


class BilevelStep(NamedTuple):
    """What :func:`bilevel_step` returns; every tensor is detached."""

    parameters: Tensors
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
    exact. Momentum enters ``theta'`` as a constant, and the gradient stays exact. Nothing waits
    for the device.

    Args:
        train_loss: ``L_trn(theta, a)``, a scalar.
        validation_loss: ``L_val(theta, a)``, a scalar.
        parameters: ``theta`` by name.
        hyperparameters: ``a`` by name.
        learning_rate: of the SGD step.
        momentum: of the SGD step.
        velocity: the accumulated gradient by name, moved on in place; absent: zero.
        first_order: drop the second term (``FO`` in the paper's tables).
    """
    theta = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    a = {name: value.detach().requires_grad_() for name, value in hyperparameters.items()}

    convolutions = LeanConvolutions(() if first_order else theta.values())
    with convolutions:
        inner = train_loss(theta, a)
    gradients = list(
        torch.autograd.grad(
            inner, list(theta.values()), create_graph=not first_order, materialize_grads=True
        )
    )
    # The last pass needs the graph of the gradients, not their values.
    edges = [get_gradient_edge(g) if g.requires_grad else None for g in gradients]
    inner = inner.detach()
    updated: Tensors = {}
    with torch.no_grad():
        for name, value in theta.items():
            direction = gradients.pop(0)
            if velocity is not None:
                direction = velocity[name].mul_(momentum).add_(direction)
            updated[name] = (value - learning_rate * direction).requires_grad_()
            del direction

    outer = validation_loss(updated, a)
    wanted = list(a.values()) if first_order else [*a.values(), *updated.values()]
    found = torch.autograd.grad(outer, wanted, allow_unused=True)
    outer = outer.detach()
    total = {
        name: torch.zeros_like(a[name]) if part is None else part
        for name, part in zip(a, found, strict=False)
    }
    pairs = [
        (edge, v)
        for edge, v in zip(edges, found[len(a) :], strict=False)
        if v is not None and edge is not None
    ]
    if pairs:
        convolutions.weights = False
        indirect = torch.autograd.grad(
            [edge for edge, _ in pairs],
            list(a.values()),
            [-learning_rate * v for _, v in pairs],
            allow_unused=True,
        )
        for name, part in zip(a, indirect, strict=True):
            if part is not None:
                total[name] = total[name] + part
    return BilevelStep(
        {name: value.detach() for name, value in updated.items()},
        {name: value.detach() for name, value in total.items()},
        inner,
        outer,
    )
