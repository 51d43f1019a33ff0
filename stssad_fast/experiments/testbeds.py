"""Where the study compares augmentations: classes in the wild, and anomalies made on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stssad_fast.augment import catalogue
from stssad_fast.errors import InputError
from stssad_fast.experiments.plans import Part, semantic

GENERATORS = ("cutout", "flip", "invert")
"""What makes the anomalies of the controlled testbed (the study, 3)."""

SEMANTIC = "semantic"
"""Stands in the place of a generator where anomalies are pictures of another class."""

SWEEP = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""Widths of the erased square as shares of the picture's: CutOut-c (Fig. 4a)."""

wild = semantic
"""Part of every normal class against every other class (:func:`plans.semantic`)."""


def controlled(
    data: str,
    normal: Sequence[int],
    image_size: int,
    train_limit: int,
    test_limit: int,
    generators: Sequence[str] = GENERATORS,
) -> list[Part]:
    """Part of every normal class, whose held-out pictures ``generators`` make anomalous.

    Args:
        data: a labelled set, as for :func:`plans.semantic`.
        normal: class numbers.
        image_size: side in pixels.
        train_limit, test_limit: pictures of a class, at most; half of the test ones are changed.
        generators: names in the catalogue.

    Raises:
        InputError: a generator is unknown, named twice, or leaves pictures as they are.
    """
    possible = [name for name in catalogue.NAMES if name != "identity"]
    if wrong := [g for g in generators if g not in possible or generators.count(g) > 1]:
        raise InputError(
            f"generator {wrong[0]} is unknown or named twice; choose from {', '.join(possible)}, "
            "each once"
        )
    limits = {"train_limit": train_limit, "test_limit": test_limit}
    return [
        Part(
            "controlled",
            data,
            {
                "normal": label,
                "generators": list(generators),
                "image_size": image_size,
                **limits,
            },
            f"{label} {{}}".format,
        )
        for label in normal
    ]


@dataclass(frozen=True)
class Augmentation:
    """An augmentation of the catalogue, with the settings that are not its defaults."""

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Augmentation:
        """From "cutout" or "cutout:size=0.2" or "noise:std=0.1:..."; see :meth:`__str__`.

        Raises:
            InputError: there is no such augmentation or setting.
        """
        name, *parts = text.split(":")
        try:
            settings = {k: float(v) for k, _, v in (part.partition("=") for part in parts)}
        except ValueError as error:
            raise InputError(
                f"augmentation {text!r} is not understood ({error}); expected NAME or "
                "NAME:SETTING=NUMBER, e.g. cutout:size=0.2"
            ) from error
        found = cls(name, settings)
        found.made()
        return found

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{k}={v:g}" for k, v in self.settings.items())])

    def made(self) -> catalogue.PictureAugmentation:
        """The module."""
        return catalogue.make(self.name, **self.settings)

    @property
    def title(self) -> str:
        """As the study prints it: "CutPaste-scar", "CutOut-0.2"."""
        numbers = "".join(f"-{value:g}" for value in self.settings.values())
        return catalogue.TITLES[self.name] + numbers

    @property
    def family(self) -> str:
        """One of the values of :data:`catalogue.FAMILIES`."""
        return catalogue.FAMILIES[self.name]


IDENTITY = Augmentation("identity")
"""The vanilla detector's."""


def generator_title(name: str) -> str:
    """A generator as a heading, "Sem." for :data:`SEMANTIC`."""
    return "Sem." if name == SEMANTIC else catalogue.TITLES[name]
