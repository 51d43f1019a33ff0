"""Baselines whose network is trained, on normal pictures or on augmented ones too."""

import copy
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn

from stssad_fast.augment import catalogue
from stssad_fast.baselines.base import Baseline, Callback
from stssad_fast.datasets import Pictures, ReadAhead, batches
from stssad_fast.errors import Diverged, InputError
from stssad_fast.outliers import Scores

Network = TypeVar("Network", bound=nn.Module)


class Trained(Baseline, Generic[Network]):
    """A network that Adam trains to make a loss of its pictures small.

    Attributes:
        network_: the trained network.
        augmentation_: module that augmented the training pictures; None if nothing did.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Baseline._parameter_constraints,
        "augmentation": [str, nn.Module],
        "augmentation_settings": [None, dict],
        "width": [Interval(Integral, 1, None, closed="left")],
        "hidden": [Interval(Integral, 1, None, closed="left")],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
    }

    augmentation: str | nn.Module = "identity"
    augmentation_settings: Mapping[str, float] | None = None
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    random_state: int | np.random.RandomState | None

    network_: Network
    augmentation_: nn.Module | None

    def _network(self, train: Pictures) -> Network:
        """A new network; called with the global generator seeded."""
        raise NotImplementedError

    def _prepare(self, network: Network, train: Pictures, device: torch.device) -> None:
        """What has to be known of the training pictures before the first update."""

    def _loss(self, network: Network, images: Tensor, generator: torch.Generator) -> Tensor:
        """The number that training makes small."""
        raise NotImplementedError

    def _end_epoch(self, network: Network, train: Pictures, device: torch.device) -> None:
        """What is to be done after every epoch; leaves the network in training."""

    def _score(self, network: Network, images: Tensor, generator: torch.Generator) -> Tensor:
        """Scores (B,) of a batch."""
        raise NotImplementedError

    def _embed(self, network: Network, images: Tensor) -> Tensor:
        """Embeddings (B, D) of a batch."""
        raise NotImplementedError

    def _learn(self, train: Pictures, device: torch.device, callback: Callback | None) -> Scores:
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self.augmentation_ = _made(self.augmentation, self.augmentation_settings, device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not those of GPUs, too
            network = self.network_ = self._network(train).to(device)
        self._prepare(network, train, device)
        optimizer = torch.optim.Adam(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        order = torch.Generator().manual_seed(seed)
        draws = torch.Generator(device).manual_seed(seed + 1)
        network.train()
        for epoch in range(1, self.epochs + 1):
            total = torch.zeros((), device=device)
            for images in _shuffled(train, self.batch_size, order):
                loss = self._loss(network, images.to(device), draws)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
            if not torch.isfinite(total):
                raise Diverged(f"{type(self).__name__} diverged in epoch {epoch}; {_CALMER}")
            self._end_epoch(network, train, device)
            if callback:
                callback(epoch, self.epochs)
        network.eval()
        scores = self._scores(train)
        if not np.isfinite(scores).all():
            raise Diverged(f"{type(self).__name__} diverged in the last epoch; {_CALMER}")
        return scores

    @torch.no_grad()
    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """What the augmentation makes of pictures (B, C, H, W): themselves if there is none."""
        if self.augmentation_ is None:
            return images
        return same_shape(self.augmentation_(images, generator=generator), images)

    def _scores(self, images: Pictures) -> Scores:
        # Anew in every call, so that the same call gives the same scores.
        generator = torch.Generator(self._device).manual_seed(0)
        found = self._batchwise(images, lambda part: self._score(self.network_, part, generator))
        return found.double().numpy()

    def _embeddings(self, images: Pictures) -> NDArray[np.float32]:
        return self._batchwise(images, lambda part: self._embed(self.network_, part)).numpy()

    @torch.no_grad()
    def _batchwise(self, images: Pictures, found: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([found(part.to(self._device)).cpu() for part in batches(images)])

    @property
    def _device(self) -> torch.device:
        return next(self.network_.parameters()).device


_CALMER = "lower learning_rate or raise batch_size"


def _made(
    augmentation: str | nn.Module, settings: Mapping[str, float] | None, device: torch.device
) -> nn.Module | None:
    """An augmentation of the catalogue or a copy of a module; None for the identity."""
    if isinstance(augmentation, str):
        made = catalogue.make(augmentation, **(settings or {}))
        return None if augmentation == "identity" else made.to(device)
    if settings:
        raise InputError(
            "augmentation_settings belong to a named augmentation; "
            f"{type(augmentation).__name__} is a module, which has its own. Leave them at None"
        )
    return copy.deepcopy(augmentation).to(device)


def same_shape(augmented: Tensor, images: Tensor) -> Tensor:
    """What an augmentation made of pictures, if that is of their shape.

    Raises:
        InputError: it is not.
    """
    if augmented.shape != images.shape:
        raise InputError(
            f"augmentation gives {tuple(augmented.shape)} for pictures {tuple(images.shape)}; give "
            "one that keeps their shape"
        )
    return augmented


def _shuffled(pictures: Pictures, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """All pictures in a random order, ``size`` at a time, the next being read meanwhile."""
    order = torch.randperm(len(pictures), generator=generator)
    if len(order) % size == 1:
        order = order[:-1]  # batch norm needs two
    parts = order.split(size)
    ahead = ReadAhead(pictures)
    for index, part in enumerate(parts):
        images = ahead[part]
        if index + 1 < len(parts):
            ahead.announce(parts[index + 1])
        yield images
