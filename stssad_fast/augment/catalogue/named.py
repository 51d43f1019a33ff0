"""An augmentation of the catalogue as it is typed, printed, and made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stssad_fast.augment.catalogue.base import PictureAugmentation
from stssad_fast.augment.catalogue.table import FAMILIES, TITLES, make
from stssad_fast.errors import InputError


@dataclass(frozen=True)
class Named:
    """An augmentation of the catalogue, with the settings that are not its defaults.

    Attributes:
        name: a key of :data:`TITLES`.
        settings: of :func:`make`.
    """

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Named:
        """From "cutout", "cutout:size=0.2" or "cutdiff:size=0.01:aspect=4"; see :meth:`__str__`.

        Raises:
            InputError: there is no such augmentation or setting, or it is out of its range.
        """
        name, *parts = text.strip().split(":")
        try:
            settings = {k.strip(): float(v) for k, _, v in (part.partition("=") for part in parts)}
        except ValueError as error:
            raise InputError(
                f"augmentation {text!r} is not understood; expected NAME or NAME:SETTING=NUMBER, "
                "e.g. cutout:size=0.2"
            ) from error
        found = cls(name, settings)
        found.made()
        return found

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{k}={v:g}" for k, v in self.settings.items())])

    def made(self) -> PictureAugmentation:
        """The module."""
        return make(self.name, **self.settings)

    @property
    def title(self) -> str:
        """As the study prints it: "CutPaste-scar", "CutOut-0.2"; several settings with names."""
        numbers = [f"{value:g}" for value in self.settings.values()]
        if len(numbers) < 2:
            return "-".join([TITLES[self.name], *numbers])
        return ", ".join([TITLES[self.name], *(f"{k} {v:g}" for k, v in self.settings.items())])

    @property
    def family(self) -> str:
        """One of the values of :data:`FAMILIES`."""
        return FAMILIES[self.name]
