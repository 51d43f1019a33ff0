"""A network of a few hundred parameters, and pictures of a few pixels."""

import pytest
import torch
from torch import nn


class TinyDetector(nn.Module):
    def __init__(self, activation=nn.ReLU, norm=True):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            activation(),
            nn.Conv2d(4, 4, 3, 2, 1),
            activation(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(4, 4), activation(), nn.Linear(4, 1))

    def forward(self, image):
        embedding = self.body(image)
        return embedding, self.head(embedding)[:, 0]


@pytest.fixture
def make_detector():
    """``make_detector(**options)``: always the same initial network."""

    def make(**options):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return TinyDetector(**options)

    return make


@pytest.fixture
def pictures(generator):
    """Training and test pictures; a third of the latter has a dark patch."""
    train, test = (torch.rand(n, 1, 8, 8, generator=generator) / 2 + 0.5 for n in (12, 9))
    test[:3, :, 2:5, 3:6] = 0
    return train, test
