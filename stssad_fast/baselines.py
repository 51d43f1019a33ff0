"""Detectors that are not tuned, as estimators with the methods of STSSAD (paper, 4)."""

from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from stssad_fast.datasets import Images, Pictures, ReadAhead, as_pictures, batches, mean_and_std
from stssad_fast.detectors import (
    MIN_IMAGE_SIZE,
    BackboneDetector,
    ConvAutoEncoder,
    SVDDNetwork,
)
from stssad_fast.devices import find_device
from stssad_fast.errors import InputError
from stssad_fast.tuning import selection
from stssad_fast.tuning.density import GaussianDensity

Callback = Callable[[int, int], None]
"""Called with the epochs done and to do."""

Scores = NDArray[np.float64]

Network = ConvAutoEncoder | SVDDNetwork

MIN_STD = 1e-3


class Baseline(OutlierMixin, BaseEstimator):
    """Learns from normal pictures alone; no test picture is seen before it is scored.

    Pictures are whatever :class:`stssad_fast.STSSAD` takes.

    Attributes:
        image_shape_: (C, H, W) of the training pictures.
        threshold_: anomaly score above which a picture is predicted anomalous, the 95th percentile
            of the training scores; ``-offset_``.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"device": [str]}

    device: str

    def fit(self, train_images: Images, *, callback: Callback | None = None) -> Self:
        """Learn what is normal.

        Args:
            train_images: normal pictures, at least 2.
            callback: called after every epoch with the epochs done and to do.

        Raises:
            InputError: the pictures or the device cannot be used, or training diverged.
            ValueError: a parameter is out of range.
        """
        self._validate_params()
        device = find_device(self.device)
        train = as_pictures(
            train_images, name="train_images", split="train", min_side=MIN_IMAGE_SIZE, min_count=2
        )
        self.image_shape_ = tuple(train.shape[1:])
        train = train.to(device) if isinstance(train, Tensor) else train
        scores = self._learn(train, device, callback)
        self.threshold_ = float(np.quantile(scores, 0.95))
        self.offset_ = -self.threshold_
        return self

    def anomaly_scores(self, images: Images) -> Scores:
        """Scores (N,); higher is more anomalous."""
        return self._scores(self._checked(images))

    def score_samples(self, images: Images) -> Scores:
        """Negative :meth:`anomaly_scores` (N,); higher is more normal."""
        return -self.anomaly_scores(images)

    def decision_function(self, images: Images) -> Scores:
        """:meth:`score_samples` minus ``offset_`` (N,): negative for predicted anomalies."""
        return self.score_samples(images) - self.offset_

    def predict(self, images: Images) -> NDArray[np.int64]:
        """1 for normal, -1 for anomalous (N,)."""
        return np.where(self.decision_function(images) < 0, -1, 1)

    def _checked(self, images: Images) -> Pictures:
        check_is_fitted(self, "threshold_")
        checked = as_pictures(images, min_side=MIN_IMAGE_SIZE)
        if tuple(checked.shape[1:]) != self.image_shape_:
            raise InputError(
                f"images are {tuple(checked.shape[1:])} (channels, height, width), the estimator "
                f"was fitted on {self.image_shape_}. Convert or resize them"
            )
        return checked

    def _learn(self, train: Pictures, device: torch.device, callback: Callback | None) -> Scores:
        """Learn, and return scores (N,) of the training pictures for the threshold."""
        raise NotImplementedError

    def _scores(self, images: Pictures) -> Scores:
        raise NotImplementedError


class _Trained(Baseline):
    """A network whose own score of the training pictures is made small, by Adam."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Baseline._parameter_constraints,
        "width": [Interval(Integral, 1, None, closed="left")],
        "hidden": [Interval(Integral, 1, None, closed="left")],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    weight_decay: ClassVar[float] = 0.0

    width: int
    hidden: int
    epochs: int
    batch_size: int
    learning_rate: float
    random_state: int | np.random.RandomState | None

    def _network(self, train: Pictures) -> Network:
        """A new network; called with the global generator seeded."""
        raise NotImplementedError

    def _prepare(self, network: Network, train: Pictures, device: torch.device) -> None:
        """What has to be known of the training pictures before the first update."""

    def _loss(self, network: Network, images: Tensor) -> Tensor:
        """The number that training makes small."""
        return network.score(images).mean()

    def _learn(self, train: Pictures, device: torch.device, callback: Callback | None) -> Scores:
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.network_ = self._network(train).to(device)
        self._prepare(network, train, device)
        optimizer = torch.optim.Adam(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        generator = torch.Generator().manual_seed(seed)
        network.train()
        for epoch in range(1, self.epochs + 1):
            total = torch.zeros((), device=device)
            for images in _shuffled(train, self.batch_size, generator):
                loss = self._loss(network, images.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
            if not torch.isfinite(total):
                raise InputError(f"{type(self).__name__} diverged in epoch {epoch}; {_CALMER}")
            if callback:
                callback(epoch, self.epochs)
        network.eval()
        scores = self._scores(train)
        if not np.isfinite(scores).all():
            raise InputError(f"{type(self).__name__} diverged in the last epoch; {_CALMER}")
        return scores

    @torch.no_grad()
    def _scores(self, images: Pictures) -> Scores:
        device = next(self.network_.parameters()).device
        parts = [self.network_.score(part.to(device)).cpu() for part in batches(images)]
        return torch.cat(parts).double().numpy()


class AutoEncoder(_Trained):
    """Scores a picture by how badly it is reconstructed (Golan & El-Yaniv 2018; AE in the paper).

    Args:
        width: channels of the first of four blocks; 64 as published.
        hidden: dimensions of the code.
        epochs: passes over the training pictures; 256 as published.
        batch_size: pictures per update; a single one left over waits for the next epoch.
        learning_rate: of Adam.
        random_state: seed; with an int, two fits on a CPU are equal to the last bit.
        device: ``"auto"`` (a GPU if there is one), or a torch device.

    Attributes:
        network_: the trained network; more attributes: :class:`Baseline`.
    """

    def __init__(
        self,
        *,
        width: int = 16,
        hidden: int = 256,
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ) -> None:
        self.width = width
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device

    def _network(self, train: Pictures) -> Network:
        channels, height, width = train.shape[1:]
        return ConvAutoEncoder(channels, (height, width), self.width, self.hidden)


class DeepSVDD(_Trained):
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
        device: str = "auto",
    ) -> None:
        self.width = width
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device

    def _network(self, train: Pictures) -> Network:
        channels, height, width = train.shape[1:]
        mean, std = mean_and_std(train)
        return SVDDNetwork(
            channels, (height, width), self.width, self.hidden, mean, std.clamp_min(MIN_STD)
        )

    @torch.no_grad()
    def _prepare(self, network: Network, train: Pictures, device: torch.device) -> None:
        assert isinstance(network, SVDDNetwork)
        network.train()  # with the statistics that it will be trained with
        network.set_center(torch.cat([network(x.to(device)) for x in batches(train)]).mean(0))


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

    def __init__(self, backbone: nn.Module, *, device: str = "auto") -> None:
        self.backbone = backbone
        self.device = device

    def embed(self, images: Images) -> NDArray[np.float32]:
        """Embeddings (N, D)."""
        return selection.embed(self.detector_, self._checked(images))

    def _learn(self, train: Pictures, device: torch.device, callback: Callback | None) -> Scores:
        channels, height, width = train.shape[1:]
        mean, std = mean_and_std(train)
        with torch.random.fork_rng(devices=[]):
            self.detector_ = BackboneDetector(
                self.backbone, channels, (height, width), mean, std.clamp_min(MIN_STD), False
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


_CALMER = "lower learning_rate or raise batch_size"


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
