"""MMD of augmented pictures and anomalies: the definition, and what it is near to."""

import numpy as np
import torch
from torch import nn

from stssad_fast.augment import catalogue
from stssad_fast.experiments import alignment
from stssad_fast.experiments.problems import Problem, Task


class Flat(nn.Module):
    mean, std = 0.0, 1.0

    def forward(self, image):
        return image.flatten(1)


def problem(side=64, count=6):
    pictures = torch.rand(2 * count, 1, side, side, generator=torch.Generator().manual_seed(0))
    pictures[:, :, : side // 2] *= 0.1  # dark above
    labels = np.repeat([0, 1], count)
    changed = torch.cat([pictures[:count], pictures[count:].flip(2)])
    return Problem(pictures[:count], {"flip": Task(changed, labels)})


def test_equation_1_with_means():
    def kernel(x, y):
        return (x.double().flatten() @ y.double().flatten() / 4096 + 1) ** 3

    given = problem()
    identity = {"identity": catalogue.make("identity")}
    found = alignment.distances(given, identity, Flat())["identity"]["flip"]
    first, second = given.train, given.tests["flip"].images[6:]
    pairs = [(first, first, 1), (second, second, 1), (first, second, -2)]
    expected = sum(s * np.mean([kernel(x, y) for x in a for y in b]) for a, b, s in pairs)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_aligned_augmentation_is_nearest_whatever_the_size():
    names = ("identity", "flip", "invert")
    chosen = {name: catalogue.make(name) for name in names}
    chosen["flip"] = catalogue.make("flip", probability=1.0)
    for side in (16, 64):
        found = alignment.distances(problem(side), chosen, Flat())
        assert min(found, key=lambda name: found[name]["flip"]) == "flip"
        assert found == alignment.distances(problem(side), chosen, Flat())


def test_a_sample_is_compared_and_small_pictures_are_enlarged(monkeypatch):
    monkeypatch.setattr(alignment, "SAMPLE", 2)
    seen = []

    class Counting(Flat):
        def forward(self, image):
            seen.append((len(image), *image.shape[1:]))
            return super().forward(image)

    alignment.distances(problem(16), {"identity": catalogue.make("identity")}, Counting())
    assert set(seen) == {(2, 1, 64, 64)}  # BackboneDetector tries two, too
