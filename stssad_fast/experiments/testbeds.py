"""Where the study compares augmentations: classes in the wild, and anomalies made on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from stssad_fast.augment import catalogue
from stssad_fast.augment.catalogue import Named
from stssad_fast.errors import InputError
from stssad_fast.experiments.plans import Part

GENERATORS = ("cutout", "flip", "invert")
"""What makes the anomalies of the controlled testbed (the study, 3)."""

SEMANTIC = "semantic"
"""Stands in the place of a generator where anomalies are pictures of another class."""

SWEEP = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""Widths of the erased square as shares of the picture's: CutOut-c (Fig. 4a)."""


def testbeds(
    data: str,
    normal: Sequence[int],
    image_size: int,
    train_limit: int,
    test_limit: int,
    generators: Sequence[str] = GENERATORS,
) -> list[Part]:
    """Part of every normal class, with the test sets of both testbeds.

    In the wild, the anomalies are pictures of another class, each in turn; in the controlled
    testbed, ``generators`` have made them from held-out pictures of the normal class.

    Args:
        data: a labelled set, as for :func:`plans.semantic`.
        normal: class numbers.
        image_size: side in pixels.
        train_limit, test_limit: pictures of a class, at most; half of the held-out ones of the
            normal class are changed in the controlled testbed.
        generators: names in the catalogue; none: in the wild only.

    Raises:
        InputError: a generator is unknown, named twice, or leaves pictures as they are.
    """
    possible = [name for name in catalogue.NAMES if name != "identity"]
    if wrong := [g for g in generators if g not in possible or generators.count(g) > 1]:
        raise InputError(
            f"generator {wrong[0]} is unknown or named twice; choose from {', '.join(possible)}, "
            "each once"
        )
    options = {
        "generators": list(generators),
        "image_size": image_size,
        "train_limit": train_limit,
        "test_limit": test_limit,
    }
    return [
        Part("testbeds", data, {"normal": label, **options}, partial(_task, label, generators))
        for label in normal
    ]


def _task(normal: int, generators: Sequence[str], test: str) -> str:
    return f"{normal} {test}" if test in generators else f"{normal}/{test}"


IDENTITY = Named("identity")
"""The vanilla detector's."""


def generator_title(name: str) -> str:
    """A generator as a heading, "Sem." for :data:`SEMANTIC`."""
    return "Sem." if name == SEMANTIC else catalogue.TITLES[name]
