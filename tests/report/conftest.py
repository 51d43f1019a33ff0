"""A fitted estimator that was never fitted: plausible numbers for the report to show."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from stssad_fast.report import ReportCase


class FakeRotation(nn.Module):
    def __init__(self, angle: float) -> None:
        super().__init__()
        self.angle = nn.Parameter(torch.tensor(angle))

    def forward(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        c, s = math.cos(math.radians(self.angle.item())), math.sin(math.radians(self.angle.item()))
        theta = torch.tensor([[c, -s, 0.0], [s, c, 0.0]]).expand(len(images), 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


class FakeCutDiff(nn.Module):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(size))

    def forward(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        center = torch.rand(len(images), 2, 1, 1, generator=generator)
        rows = torch.linspace(0, 1, images.shape[-2])[:, None] - center[:, 0]
        columns = torch.linspace(0, 1, images.shape[-1])[None] - center[:, 1]
        patch = torch.exp(-(rows**2 + columns**2) / self.size)[:, None]
        return (images - patch).clamp(0, 1)


@dataclass
class FakeEstimator:
    augmentation: str
    augmentation_: nn.Module
    starts_: list[dict[str, Any]]
    score: Callable[[Tensor], np.ndarray]
    chosen_start_: int = 0
    threshold_: float = 0.0
    parameters: dict[str, Any] = field(default_factory=lambda: {"width": 16, "random_state": 0})
    members_: list[Any] = field(default_factory=list)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return self.parameters

    def embed(self, images: Tensor) -> np.ndarray:
        flat = images.flatten(1).numpy()
        weights = np.random.default_rng(0).normal(size=(flat.shape[1], 12))
        return np.tanh(flat @ weights / math.sqrt(flat.shape[1]))

    def anomaly_scores(self, images: Tensor) -> np.ndarray:
        return self.score(images)


def start(
    paths: dict[str, tuple[float, float]], *, steps: int = 100, loss: float = 0.2, seed: int = 0
) -> dict[str, Any]:
    """A start whose hyperparameters go from the first to the second number of their path."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, steps)
    way = 1 - np.exp(-4 * time)

    def walk(first: float, last: float, logarithmic: bool) -> list[float]:
        if logarithmic:
            return [*np.exp(np.log(first) + (np.log(last) - np.log(first)) * way)]
        return [*(first + (last - first) * way)]

    history: dict[str, list[Any]] = {"iteration": list(range(steps))}
    for name, (first, last) in paths.items():
        history[name] = walk(first, last, name in ("size", "aspect"))
    noise = rng.normal(size=(2, steps)) * 0.05
    history["train_loss"] = [*np.abs(loss + 0.4 * np.exp(-5 * time) + noise[0])]
    history["validation_loss"] = [None, *(1 + 0.15 * np.exp(-3 * time) + 0.2 * noise[1])[1:]]
    return {
        "initial": {name: first for name, (first, _) in paths.items()},
        "final": {name: last for name, (_, last) in paths.items()},
        "score_variance": 3.14 / (1 + (seed - 1.6) ** 2),
        "score_shift": 1 / (1 + (seed - 1.6) ** 2),
        "train_loss": loss,
        "validation_loss": 1.02,
        "iteration": steps * 4 // 5,
        "stopped": "no longer falling" if seed % 2 else "finished",
        "history": history,
        "seconds": 12.3,
        "unknown": object(),
    }


@pytest.fixture(scope="session")
def digits() -> ReportCase:
    """6 is normal, 9 the anomaly, rotation from four starts."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16).float()[:, None]
    sixes, nines = images[bunch.target == 6], images[bunch.target == 9]
    train, test = sixes[:100], torch.cat([sixes[100:], nines])
    labels = np.array([0] * len(sixes[100:]) + [1] * len(nines))
    ways = [(45.0, 2.1), (135.0, 179.1), (225.0, 180.2), (315.0, 358.2)]
    starts = [
        start({"angle": way}, loss=0.6 if i in (0, 3) else 0.1, steps=100 - 9 * i, seed=i)
        for i, way in enumerate(ways)
    ]
    mean = train.mean(0)
    for i, raw in enumerate(starts):
        noise = np.random.default_rng(i).normal(size=len(test)) * (2.5 if i in (0, 3) else 0.8)
        raw["scores"] = (labels + noise).tolist()

    def score(images: Tensor) -> np.ndarray:
        return (40 * (images - mean).square().mean((1, 2, 3)) - 3).numpy()

    estimator = FakeEstimator("rotation", FakeRotation(180.2), starts, score, 2, 0.5)
    names = [f"digit-{i:04d}.png" for i in range(len(test))]
    return ReportCase("Digits", estimator, train, test, labels, names=names)


@pytest.fixture(scope="session")
def textures() -> ReportCase:
    """Colour textures with dark spots, CutDiff from four starts; no labels."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(90, 3, 8, 8, generator=rng) * 0.3
    fine = torch.rand(90, 3, 64, 64, generator=rng) * 0.15
    images = (F.interpolate(coarse, 64, mode="bicubic") + fine + 0.35).clamp(0, 1)
    images[70:] = FakeCutDiff(0.01)(images[70:], generator=rng).detach()
    starts = [
        start(
            {"size": (10.0 ** -(4 - i), 0.0031 * (1 + i)), "aspect": (1, 1.2), "angle": (0, -5.0)},
            seed=i,
        )
        for i in range(4)
    ]

    def score(images: Tensor) -> np.ndarray:
        return np.exp(9 * (1 - images.amin((1, 2, 3)).numpy()))

    estimator = FakeEstimator("cutdiff", FakeCutDiff(0.0031), starts, score, 1, 4000.0)
    return ReportCase("Textures", estimator, images[:40], images[40:], notes=["Seeded noise."])
