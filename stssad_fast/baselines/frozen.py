"""A network that is not trained, and the density of what it sees."""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stssad_fast.baselines.base import Baseline, Callback
from stssad_fast.datasets import Pictures, mean_and_std
from stssad_fast.detectors import BackboneDetector
from stssad_fast.errors import InputError
from stssad_fast.outliers import Scores
from stssad_fast.tuning import selection
from stssad_fast.tuning.density import GaussianDensity


class FrozenFeatures(Baseline):
    """Scores a picture by what a network that is not trained sees in it, and how rare that is.

    A Gaussian density of the training embeddings, as in STSSAD: what to try first with a pretrained
    network, such as :func:`stssad_fast.detectors.efficientnet_lite0`. Nothing is random. For the
    threshold each training picture is scored by a density that it took no part in.

    Args:
        backbone: as for :class:`stssad_fast.detectors.BackboneDetector`; used in evaluation mode.
        device: ``"auto"`` (a GPU if there is one), or a torch device.

    Attributes:
        detector_: the backbone with its normalisation.
        density_: Gaussian density of the training embeddings; more attributes: :class:`Baseline`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Baseline._parameter_constraints,
        "backbone": [nn.Module],
    }

    def __init__(self, backbone: nn.Module, *, device: str | torch.device = "auto") -> None:
        self.backbone = backbone
        self.device = device

    def _learn(self, train: Pictures, device: torch.device, callback: Callback | None) -> Scores:
        channels, height, width = train.shape[1:]
        with torch.random.fork_rng(devices=[]):
            self.detector_ = BackboneDetector(
                self.backbone, channels, (height, width), *mean_and_std(train), False
            ).to(device)
        found = selection.embed(self.detector_, train)
        if not np.isfinite(found).all():
            raise InputError(
                "backbone gives embeddings that are not finite; check its weights, mean and std"
            )
        self.density_ = GaussianDensity.fit(found)
        return _held_out_scores(found)

    def _scores(self, images: Pictures) -> Scores:
        found = selection.distances(self.detector_, self.density_, images)
        return self.density_.score_at(found)

    def _embeddings(self, images: Pictures) -> NDArray[np.float32]:
        return selection.embed(self.detector_, images)


def _held_out_scores(embedding: NDArray[np.float32]) -> Scores:
    """Scores (N,) of embeddings (N, D), each by a density of four fifths that it is not among.

    With more dimensions than pictures, a density is much too sure of those it was fitted to.
    """
    folds = np.arange(len(embedding)) % min(5, len(embedding) // 2)
    if not folds.any():
        return GaussianDensity.fit(embedding).score(embedding)
    scores = np.empty(len(embedding))
    for fold in range(folds.max() + 1):
        density = GaussianDensity.fit(embedding[folds != fold])
        scores[folds == fold] = density.score(embedding[folds == fold])
    return scores
