"""AP: a classifier of augmentations knows normal pictures by telling what was done to them."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils._param_validation import Interval, Options
from torch import Tensor, nn

from stssad_fast.baselines.trained import Trained, same_shape
from stssad_fast.datasets import Pictures, mean_and_std
from stssad_fast.detectors import WideResNet
from stssad_fast.errors import InputError


class AugmentationPredictor(Trained[WideResNet]):
    """Scores a picture by how badly its augmentations are told apart (Golan & El-Yaniv 2018).

    A Wide ResNet learns which of the K classes of the augmentation was applied (rotation by 0, 90,
    180 or 270 degrees; flipped or not), by cross-entropy. The score is
    ``-sum_k softmax(f(aug_k(x)))_k``, between -K and 0, over all K (the study, 2.4). What is
    random in ``aug_k`` is drawn from one seed in every call that scores. The embedding is the
    pooled features of the picture as it is.

    Args:
        augmentation: a name of :mod:`stssad_fast.augment.catalogue` other than ``"identity"``, or
            a module with ``classes``, at least 2, and ``of_class(image, k, *, generator)``.
        augmentation_settings: hyperparameters of a named augmentation.
        depth: layers: 10, as published, 16, 22 or 28.
        widen: factor of the channels, 16, 32 and 64 in the three stages; 4 as published.
        classes_per_picture: each update sees every picture in all K classes if there are no more
            than these, otherwise in so many different ones, drawn at random: GEOM has 72.
        epochs: passes over the training pictures; as published, so many that each is seen about
            200 times: 50 with four classes.
        batch_size: pictures per update, each in several classes; a single one left over waits for
            the next epoch. As published, 128 with the classes counted.
        learning_rate: of Adam.
        random_state: seed; with an int, two fits on a CPU are equal to the last bit.
        device: ``"auto"`` (a GPU if there is one), or a torch device.

    Attributes:
        network_, augmentation_: as in :class:`Trained`; more: :class:`Baseline`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Trained._parameter_constraints,
        "depth": [Options(Integral, {10, 16, 22, 28})],
        "widen": [Interval(Integral, 1, None, closed="left")],
        "classes_per_picture": [Interval(Integral, 1, None, closed="left")],
    }

    augmentation_: nn.Module

    def __init__(
        self,
        augmentation: str | nn.Module = "rotate",
        *,
        augmentation_settings: Mapping[str, float] | None = None,
        depth: int = 10,
        widen: int = 1,
        classes_per_picture: int = 8,
        epochs: int = 50,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.augmentation = augmentation
        self.augmentation_settings = augmentation_settings
        self.depth = depth
        self.widen = widen
        self.classes_per_picture = classes_per_picture
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device

    def _network(self, train: Pictures) -> WideResNet:
        channels, height, width = train.shape[1:]
        side = min(height, width)
        return WideResNet(
            channels, self._classes(), self.depth, self.widen, side, *mean_and_std(train)
        )

    def _classes(self) -> int:
        found = getattr(self.augmentation_, "classes", 1)
        if not isinstance(found, int) or found < 2 or not hasattr(self.augmentation_, "of_class"):
            raise InputError(
                f"augmentation is {self.augmentation!r}, which has no classes to tell apart. Give "
                "another than 'identity', or a module with classes (at least 2) and of_class"
            )
        return found

    @torch.no_grad()
    def _of_class(self, images: Tensor, k: int, generator: torch.Generator) -> Tensor:
        of_class: Any = self.augmentation_.of_class
        return same_shape(of_class(images, k, generator=generator), images)

    def _loss(self, network: WideResNet, images: Tensor, generator: torch.Generator) -> Tensor:
        classes = self._classes()
        chosen = self._chosen(len(images), classes, generator)
        parts, labels = [], []
        for k in range(classes):
            rows = images[chosen[:, k]]
            if len(rows):
                parts.append(self._of_class(rows, k, generator))
                labels.append(chosen.new_full((len(rows),), k, dtype=torch.long))
        return F.cross_entropy(network(torch.cat(parts)), torch.cat(labels))

    def _chosen(self, count: int, classes: int, generator: torch.Generator) -> Tensor:
        """Which classes each picture is seen in: (count, classes), true or false."""
        chosen = torch.ones(count, classes, dtype=torch.bool, device=generator.device)
        if classes <= self.classes_per_picture:
            return chosen
        order = torch.rand(chosen.shape, generator=generator, device=generator.device).argsort(1)
        return chosen.scatter(1, order[:, self.classes_per_picture :], False)

    def _score(self, network: WideResNet, images: Tensor, generator: torch.Generator) -> Tensor:
        certain = images.new_zeros(len(images))
        for k in range(self._classes()):
            logits = network(self._of_class(images, k, generator))
            certain += logits.softmax(1)[:, k]
        return -certain

    def _embed(self, network: WideResNet, images: Tensor) -> Tensor:
        return network.embed(images)
