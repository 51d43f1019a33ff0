"""How far augmented pictures are from a task's anomalies: the MMD of the study's Appendix G."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stssad_fast.datasets import batches, mean_and_std
from stssad_fast.datasets.images import resize
from stssad_fast.detectors import BackboneDetector
from stssad_fast.experiments.problems import Problem
from stssad_fast.tuning.mmd import mmd

SAMPLE = 256
"""M: pictures of each of the two sets, at most."""

SMALLEST = 64  # pixels; below, a network of ImageNet has nothing left to pool


@torch.no_grad()
def distances(
    problem: Problem, augmentations: Mapping[str, nn.Module], encoder: nn.Module, seed: int = 0
) -> dict[str, dict[str, float]]:
    """MMD between augmented training pictures and each task's anomalies (Eq. 1 and 2).

    The sums of Eq. 1 are means here, so that sets of unequal size can be compared and the numbers
    do not grow with M. Pictures below 64 px are enlarged to that.

    Args:
        problem: pictures and labels of its tasks.
        augmentations: by name; called with pictures (B, C, H, W) and a ``generator``.
        encoder: a pretrained network that gives embeddings (B, D), normalised as
            :class:`stssad_fast.detectors.BackboneDetector` says; in evaluation mode.
        seed: of the samples and of the augmentations.

    Returns:
        By augmentation, then by test set, at least 0.

    Raises:
        InputError: the encoder cannot take such pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = problem.train.shape[1:]
    scale = max(1.0, SMALLEST / min(height, width))
    size = (round(height * scale), round(width * scale))
    network = BackboneDetector(encoder, channels, size, *mean_and_std(problem.train), False).eval()

    def embedded(pictures: Tensor) -> Tensor:
        shown = pictures if scale == 1 else resize(pictures, size)
        return torch.cat([network.embed(part) for part in batches(shown)]).double()

    def sample(pictures: Tensor) -> Tensor:
        return pictures[torch.randperm(len(pictures), generator=generator)[:SAMPLE]]

    anomalies = {
        name: embedded(sample(task.images[torch.from_numpy(task.labels == 1)]))
        for name, task in problem.tests.items()
    }
    normal = sample(problem.train)
    found = {}
    for name, augmentation in augmentations.items():
        draws = torch.Generator().manual_seed(seed)
        changed = embedded(augmentation(normal, generator=draws))
        found[name] = {task: float(mmd(changed, theirs)) for task, theirs in anomalies.items()}
    return found
