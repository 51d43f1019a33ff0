"""A sphere around the normal pictures: DeepSVDD, and DeepSAD, which keeps augmented ones out."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from stssad_fast.baselines.trained import Trained
from stssad_fast.datasets import Pictures, batches, mean_and_std
from stssad_fast.detectors import SVDDNetwork

EPS = 1e-6
"""Added to a squared distance that is divided by; of DeepSAD's authors."""


class DeepSVDD(Trained[SVDDNetwork]):
    """Scores a picture by its squared distance to the centre of the normal ones (Ruff et al. 2018).

    The objective is the paper's one-class one, with weight decay 1e-6. The centre is the mean
    embedding before training, and stays.

    Args:
        width: channels of the first of three blocks; 32 as published.
        hidden: dimensions of the embedding.
        epochs: passes over the training pictures; 150 as published.
        batch_size: pictures per update; a single one left over waits for the next epoch.
        learning_rate: of Adam.
        random_state: seed; with an int, two fits on a CPU are equal to the last bit.
        device: ``"auto"`` (a GPU if there is one), or a torch device.

    Attributes:
        network_: the trained network; more attributes: :class:`Baseline`.
    """

    weight_decay = 1e-6

    def __init__(
        self,
        *,
        width: int = 16,
        hidden: int = 128,
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 1e-4,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.width = width
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device

    def _network(self, train: Pictures) -> SVDDNetwork:
        channels, height, width = train.shape[1:]
        size = (height, width)
        return SVDDNetwork(channels, size, self.width, self.hidden, *mean_and_std(train))

    def _prepare(self, network: SVDDNetwork, train: Pictures, device: torch.device) -> None:
        network.train()  # with the statistics that it will be trained with
        _center(network, train, device)

    def _loss(self, network: SVDDNetwork, images: Tensor, generator: torch.Generator) -> Tensor:
        return network.score(images).mean()

    def _score(self, network: SVDDNetwork, images: Tensor, generator: torch.Generator) -> Tensor:
        return network.score(images)

    def _embed(self, network: SVDDNetwork, images: Tensor) -> Tensor:
        embedding: Tensor = network(images)
        return embedding


class DeepSAD(DeepSVDD):
    """DeepSVDD that also drives augmented pictures away from the centre (Ruff et al. 2020).

    The loss is ``mean d(x) + mean 1 / (d(aug(x)) + 1e-6)`` with ``d(x) = ||f(x) - c||**2``, as in
    the code of DeepSAD's authors; the study prints the norms without the squares (2.4). ``d(x)`` is
    the score. Pictures and augmented ones go through batch norm together.

    The centre begins as in :class:`DeepSVDD`. The study finds it anew after every update; here it
    moves after every epoch, to the mean embedding of the training pictures as they would be scored
    then. No entry of it comes nearer to 0 than 0.1: otherwise all could shrink to the point 0.

    Args:
        augmentation: a name of :mod:`stssad_fast.augment.catalogue`, or a module
            ``(image, *, generator)`` that keeps the shape; ``"identity"``: the first term alone,
            which is what the study compares with.
        augmentation_settings: hyperparameters of a named augmentation.
        width: channels of the first of three blocks; 32 as published.
        hidden: dimensions of the embedding.
        epochs: passes over the training pictures; 150 as published.
        batch_size: pictures per update, and as many augmented ones; a single one left over waits
            for the next epoch. 128 as published.
        learning_rate: of Adam.
        random_state: seed; with an int, two fits on a CPU are equal to the last bit.
        device: ``"auto"`` (a GPU if there is one), or a torch device.

    Attributes:
        network_, augmentation_: as in :class:`Trained`; more: :class:`Baseline`.
    """

    def __init__(
        self,
        augmentation: str | nn.Module = "rotate",
        *,
        augmentation_settings: Mapping[str, float] | None = None,
        width: int = 16,
        hidden: int = 128,
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 1e-4,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(
            width=width,
            hidden=hidden,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            random_state=random_state,
            device=device,
        )
        self.augmentation = augmentation
        self.augmentation_settings = augmentation_settings

    def _loss(self, network: SVDDNetwork, images: Tensor, generator: torch.Generator) -> Tensor:
        both = images
        if self.augmentation_ is not None:
            both = torch.cat([images, self._augmented(images, generator)])
        distances = network.score(both)
        count = len(images)
        loss = distances[:count].mean()
        if self.augmentation_ is not None:
            loss = loss + (distances[count:] + EPS).reciprocal().mean()
        return loss

    def _end_epoch(self, network: SVDDNetwork, train: Pictures, device: torch.device) -> None:
        network.eval()  # as it scores
        _center(network, train, device)
        network.train()


@torch.no_grad()
def _center(network: SVDDNetwork, train: Pictures, device: torch.device) -> None:
    """Put the centre at the mean embedding of the pictures."""
    network.set_center(torch.cat([network(x.to(device)) for x in batches(train)]).mean(0))
