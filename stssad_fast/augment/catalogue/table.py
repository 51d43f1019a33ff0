"""Every augmentation by its name, with its family and what it is called."""

import inspect
from typing import NamedTuple

from stssad_fast.augment.catalogue.base import Identity, PictureAugmentation
from stssad_fast.augment.catalogue.colour import Color, Invert
from stssad_fast.augment.catalogue.elementwise import Blur, Mask, Noise
from stssad_fast.augment.catalogue.geometric import Crop, Flip, Geom, Rotate
from stssad_fast.augment.catalogue.mixed import SimCLR
from stssad_fast.augment.catalogue.patches import RandomCutOut, RandomCutPaste, Scar, SoftPatch
from stssad_fast.errors import InputError


class _Entry(NamedTuple):
    kind: type[PictureAugmentation]
    family: str
    title: str


_CATALOGUE = {
    "identity": _Entry(Identity, "none", "Identity"),
    "crop": _Entry(Crop, "geometric", "Crop"),
    "rotate": _Entry(Rotate, "geometric", "Rotate"),
    "flip": _Entry(Flip, "geometric", "Flip"),
    "geom": _Entry(Geom, "geometric", "GEOM"),
    "cutout": _Entry(RandomCutOut, "local", "CutOut"),
    "cutpaste": _Entry(RandomCutPaste, "local", "CutPaste"),
    "cutpaste_scar": _Entry(Scar, "local", "CutPaste-scar"),
    "blur": _Entry(Blur, "elementwise", "Blur"),
    "noise": _Entry(Noise, "elementwise", "Noise"),
    "mask": _Entry(Mask, "elementwise", "Mask"),
    "invert": _Entry(Invert, "color", "Invert"),
    "color": _Entry(Color, "color", "Color"),
    "simclr": _Entry(SimCLR, "mixed", "SimCLR"),
    "cutdiff": _Entry(SoftPatch, "local", "CutDiff"),
}

NAMES: tuple[str, ...] = tuple(name for name in _CATALOGUE if name != "cutdiff")
"""Those of the study; "cutdiff", with a fixed shape, joins them where it is named."""
FAMILIES: dict[str, str] = {name: entry.family for name, entry in _CATALOGUE.items()}
TITLES: dict[str, str] = {name: entry.title for name, entry in _CATALOGUE.items()}


def make(name: str, **settings: float) -> PictureAugmentation:
    """An augmentation by its name.

    Args:
        name: one of ``NAMES``, or ``cutdiff``.
        settings: its continuous hyperparameters, by default those of the study:

            - ``crop``: ``min_area`` in (0, 1], the least share of the area, 0.08;
            - ``flip``, ``invert``: ``probability`` in [0, 1] of the change, 0.5;
            - ``cutout``: ``size`` in (0, 1], the sides of the rectangle as a share of the
              picture's (CutOut-c), otherwise drawn for every picture;
            - ``cutdiff``: ``size``, 0.01, ``aspect``, 1, and ``angle`` in degrees, 0, of ST-SSAD's
              soft patch;
            - ``noise``: ``std`` of the noise, positive, 0.1;
            - ``mask``: ``probability`` in (0, 1] that a value becomes 0, 0.1;
            - ``color``, ``simclr``: ``strength`` in (0, 2.5] of the change of colours, 1.

    Raises:
        InputError: there is no such augmentation or setting, a setting is out of its range, or
            kornia is not installed, which colours, blurs and copied patches need.
    """
    if name not in _CATALOGUE:
        raise InputError(f"augmentation is {name!r}; choose one of {', '.join(_CATALOGUE)}")
    kind = _CATALOGUE[name].kind
    known = inspect.signature(kind).parameters
    for setting in settings:
        if setting not in known:
            choices = ", ".join(known) or "no settings"
            raise InputError(f"setting {setting!r} of {name!r}, which has {choices}")
    return kind(**settings)
