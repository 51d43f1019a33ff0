"""The validation loss over all test pictures, with its exact gradient, a batch at a time."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from stssad_fast.ops import mean_distance_loss
from stssad_fast.tuning.hypergradient import Tensors


def loss_over_all(
    embed: Callable[[Tensors, Tensor], Tensor],
    parameters: Tensors,
    train: Tensor,
    augmented: Tensor,
    batches: Callable[[], Iterable[Tensor]],
    distance: Callable[[Tensor, Tensor, Tensor], Tensor] = mean_distance_loss,
    total: Callable[[Tensor], Tensor] = torch.Tensor.clone,
) -> Tensor:
    """``L_val`` (Eq. 2-3) against every test picture; one batch's graph is held at a time.

    A first sweep embeds all test pictures without a graph, and gives the loss and its gradient
    ``g`` to every test embedding ``z``. A second embeds each batch again, with a graph, and pulls
    its rows of ``g`` back: ``sum_i g_i dz_i/dtheta`` is what the test set adds to the gradient.
    Nothing is approximated, but what is returned can be differentiated once only.

    Args:
        embed: ``(theta, pictures (n, C, H, W))`` to embeddings (n, D), each from its own picture
            alone: with batch norm's running statistics.
        parameters: ``theta`` by name; all require gradients, if gradients are enabled.
        train, augmented: pictures (N, C, H, W), held in the graph as a whole.
        batches: gives all test pictures, the same each time it is called.
        distance: of the embeddings of training, augmented and test pictures.
        total: differentiable sum over the processes that share the pictures; default: one.

    Returns:
        a scalar; not a number if an embedding is not finite.
    """
    with torch.no_grad():
        test = torch.cat([embed(parameters, batch) for batch in batches()])
    both = embed(parameters, torch.cat([train, augmented]))
    strange = total((~torch.isfinite(both)).sum() + (~torch.isfinite(test)).sum())
    if strange > 0:
        return math.nan * total(both.sum())  # diverged; the op would raise
    test.requires_grad_(torch.is_grad_enabled())
    loss = distance(both[: len(train)], both[len(train) :], test)
    if not torch.is_grad_enabled():
        return loss
    (wanted,) = torch.autograd.grad(loss, test, retain_graph=True)
    theta = list(parameters.values())
    found = [torch.zeros_like(value) for value in theta]
    begin = 0
    for batch in batches():
        embedding = embed(parameters, batch)
        rows = wanted[begin : begin + len(batch)]
        begin += len(batch)
        own = torch.autograd.grad(embedding, theta, rows, materialize_grads=True)
        torch._foreach_add_(found, own)
    parts = [(value * gradient).sum() for value, gradient in zip(theta, found, strict=True)]
    linear = total(torch.stack(parts).sum())  # its gradient is what the sweep has found
    return loss + (linear - linear.detach())
