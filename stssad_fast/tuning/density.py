"""Gaussian density on embeddings: the anomaly score (paper, 4)."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from torch import Tensor

Array = NDArray[np.float64]


class GaussianDensity:
    """Gaussian with Ledoit-Wolf covariance; the score is the negative log-likelihood.

    Fewer rows than dimensions is the normal case, hence the shrinkage.

    Attributes:
        mean: (D,).
        factor: (D, D), with ``factor @ factor.T`` the inverse covariance.
        constant: the score at the mean.
    """

    def __init__(self, mean: Array, factor: Array, constant: float) -> None:
        self.mean, self.factor, self.constant = mean, factor, constant

    @classmethod
    def fit(cls, embedding: NDArray[np.floating]) -> "GaussianDensity":
        """Fit to the embeddings (N, D) of the normal training pictures, N >= 2."""
        estimate = LedoitWolf().fit(embedding.astype(np.float64))
        values, vectors = np.linalg.eigh(estimate.covariance_)
        values = np.maximum(values, max(values.max() * 1e-12, np.finfo(np.float64).tiny ** 0.5))
        constant = 0.5 * (len(values) * np.log(2 * np.pi) + np.log(values).sum())
        return cls(estimate.location_, vectors / np.sqrt(values), float(constant))

    def distance(self, embedding: NDArray[np.floating]) -> Array:
        """Squared Mahalanobis distance (N,) of embeddings (N, D), at least the smallest normal."""
        whitened = (embedding.astype(np.float64) - self.mean) @ self.factor
        return np.maximum(np.square(whitened).sum(1), np.finfo(np.float64).tiny)

    def score(self, embedding: NDArray[np.floating]) -> Array:
        """Negative log-likelihood (N,) of embeddings (N, D); higher is more anomalous."""
        return self.score_at(self.distance(embedding))

    def score_at(self, distance: Array) -> Array:
        """The same, for a :meth:`distance` (N,)."""
        return self.constant + 0.5 * distance

    def state(self) -> dict[str, Tensor]:
        """The attributes as tensors."""
        return {
            "mean": torch.from_numpy(self.mean),
            "factor": torch.from_numpy(self.factor),
            "constant": torch.tensor(self.constant, dtype=torch.float64),
        }

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> "GaussianDensity":
        """The density that :meth:`state` describes."""
        return cls(state["mean"].numpy(), state["factor"].numpy(), state["constant"].item())
