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
    recompute: bool = False,
    enter: Callable[[Tensors], Tensors] = dict,
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
        recompute: compute the inner gradient twice, so that the graph of it need not be held while
            the validation loss is differentiated: less memory, more time, the same numbers.
        enter: differentiable; what the losses are given for parameters or hyperparameters.
    """
    theta = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    a = {name: value.detach().requires_grad_() for name, value in hyperparameters.items()}

    entered, entered_a = enter(theta), enter(a)
    convolutions = LeanConvolutions(() if first_order else entered.values())
    with convolutions:
        inner = train_loss(entered, entered_a)
    del entered
    again = recompute and not first_order
    gradients = _gradients(inner, theta, create_graph=not (first_order or recompute), keep=again)
    # The last pass needs the graph of the gradients, not their values.
    edges = [get_gradient_edge(g) if g.requires_grad else None for g in gradients]
    updated: Tensors = {}
    with torch.no_grad():
        for name, value in theta.items():
            direction = gradients.pop(0)
            if velocity is not None:
                direction = velocity[name].mul_(momentum).add_(direction)
            updated[name] = (value - learning_rate * direction).requires_grad_()
            del direction

    entered = enter(updated)
    lean = LeanConvolutions(entered.values() if first_order else ())
    lean.weights = not first_order
    with lean:
        outer = validation_loss(entered, entered_a)
    wanted = list(a.values()) if first_order else [*a.values(), *updated.values()]
    found = torch.autograd.grad(outer, wanted, allow_unused=True)
    total = {
        name: torch.zeros_like(a[name]) if part is None else part
        for name, part in zip(a, found, strict=False)
    }
    directions = list(found[len(a) :])
    del found
    if again:
        gradients = _gradients(inner, theta, create_graph=True)
        edges = [get_gradient_edge(g) if g.requires_grad else None for g in gradients]
        del gradients
    ends, weights = [], []
    for edge in edges[: len(directions)]:
        v = directions.pop(0)
        if v is not None and edge is not None:
            ends.append(edge)
            weights.append(-learning_rate * v)
        del v
    if ends:
        convolutions.weights = False
        indirect = torch.autograd.grad(ends, list(a.values()), weights, allow_unused=True)
        for name, part in zip(a, indirect, strict=True):
            if part is not None:
                total[name] = total[name] + part
    return BilevelStep(
        {name: value.detach() for name, value in updated.items()},
        {name: value.detach() for name, value in total.items()},
        inner.detach(),
        outer.detach(),
    )


def _gradients(
    loss: Tensor, theta: Tensors, create_graph: bool, keep: bool = False
) -> list[Tensor]:
    found = torch.autograd.grad(
        loss,
        list(theta.values()),
        retain_graph=create_graph or keep,
        create_graph=create_graph,
        materialize_grads=True,
    )
    return list(found)
