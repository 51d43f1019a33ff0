"""Autoencoders: AE, and DAE if they are given augmented pictures."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stssad_fast.baselines.trained import Trained
from stssad_fast.datasets import Images, Pictures
from stssad_fast.detectors import ConvAutoEncoder


class AutoEncoder(Trained[ConvAutoEncoder]):
    """Scores a picture by how badly it is reconstructed (Golan & El-Yaniv 2018; AE in the paper).

    With an augmentation it is a denoising one, DAE: it learns to give the picture for what the
    augmentation made of it, ``mean (f(aug(x)) - x)**2``. The score is of the picture itself. The
    study trained for 256 epochs in batches of 1024, at Adam's defaults.

    Args:
        augmentation: a name of :mod:`stssad_fast.augment.catalogue`, or a module
            ``(image, *, generator)`` that keeps the shape; ``"identity"``: AE.
        augmentation_settings: hyperparameters of a named augmentation.
        width: channels of the first of four blocks; 64 as published.
        hidden: dimensions of the code, which is the embedding.
        epochs: passes over the training pictures; 256 as published.
        batch_size: pictures per update; a single one left over waits for the next epoch.
        learning_rate: of Adam.
        weight_decay: factor of the weights in Adam's gradient, 0 or more.
        random_state: seed; with an int, two fits on a CPU are equal to the last bit.
        device: ``"auto"`` (a GPU if there is one), or a torch device.

    Attributes:
        network_, augmentation_: as in :class:`Trained`; more: :class:`Baseline`.
    """

    def __init__(
        self,
        augmentation: str | nn.Module = "identity",
        *,
        augmentation_settings: Mapping[str, float] | None = None,
        width: int = 16,
        hidden: int = 256,
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.augmentation = augmentation
        self.augmentation_settings = augmentation_settings
        self.width = width
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.device = device

    def reconstruct(self, images: Images) -> NDArray[np.float32]:
        """Reconstructions (N, C, H, W) in [0, 1]."""
        return self._batchwise(self._checked(images), self.network_).numpy()

    def _network(self, train: Pictures) -> ConvAutoEncoder:
        channels, height, width = train.shape[1:]
        return ConvAutoEncoder(channels, (height, width), self.width, self.hidden)

    def _loss(self, network: ConvAutoEncoder, images: Tensor, generator: torch.Generator) -> Tensor:
        made: Tensor = network(self._augmented(images, generator))
        return (made - images).square().flatten(1).mean(1).mean()

    def _score(
        self, network: ConvAutoEncoder, images: Tensor, generator: torch.Generator
    ) -> Tensor:
        return network.score(images)

    def _embed(self, network: ConvAutoEncoder, images: Tensor) -> Tensor:
        code: Tensor = network.encoder(images)
        return code
