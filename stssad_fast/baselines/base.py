"""What all baselines share: fitted on normal pictures alone, then they score and embed."""

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stssad_fast.datasets import Images, Pictures, as_train
from stssad_fast.detectors import MIN_IMAGE_SIZE
from stssad_fast.devices import find_device
from stssad_fast.outliers import OutlierScores, Scores, all_or_nothing

Callback = Callable[[int, int], None]
"""Called with the epochs done and to do."""


class Baseline(OutlierScores):
    """Learns from normal pictures alone; no test picture is seen before it is scored.

    Pictures are whatever :class:`stssad_fast.STSSAD` takes.

    Attributes:
        image_shape_: (C, H, W) of the training pictures.
        threshold_: anomaly score above which a picture is predicted anomalous, the 95th percentile
            of the training scores; ``-offset_``.
    """

    device: str | torch.device

    @all_or_nothing
    def fit(self, train_images: Images, *, callback: Callback | None = None) -> Self:
        """Learn what is normal.

        Args:
            train_images: normal pictures, at least 2.
            callback: called after every epoch with the epochs done and to do.

        Raises:
            InputError: the pictures, the augmentation or the device cannot be used.
            Diverged: training did, an InputError, too.
            ValueError: a parameter is out of range.

        After an error, or Ctrl-C, what was fitted before is as it was.
        """
        self._validate_params()
        device = find_device(self.device)
        train = as_train(train_images, min_side=MIN_IMAGE_SIZE)
        self.image_shape_ = tuple(train.shape[1:])
        train = train.to(device) if isinstance(train, Tensor) else train
        scores = self._learn(train, device, callback)
        self._set_threshold(float(np.quantile(scores, 0.95)))
        return self

    def anomaly_scores(self, images: Images) -> Scores:
        return self._scores(self._checked(images))

    def embed(self, images: Images) -> NDArray[np.float32]:
        """Embeddings (N, D)."""
        return self._embeddings(self._checked(images))

    def _learn(self, train: Pictures, device: torch.device, callback: Callback | None) -> Scores:
        """Learn, and return scores (N,) of the training pictures for the threshold."""
        raise NotImplementedError

    def _scores(self, images: Pictures) -> Scores:
        raise NotImplementedError

    def _embeddings(self, images: Pictures) -> NDArray[np.float32]:
        raise NotImplementedError
