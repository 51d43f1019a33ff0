"""The demonstrative experiment: whether the anomalies' size and aspect were found (Section 4.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stssad_fast.experiments.methods import OURS
from stssad_fast.experiments.outcomes import Fit, measured
from stssad_fast.experiments.tables import Grid
from stssad_fast.tuning.selection import Rule

FACTOR = 2.0
"""A size within this factor of the truth counts as found."""

PERFECT = 0.99
"""An AUC from here on counts as the paper's 1.00."""

_MADE = re.compile(r"size ([\d.e-]+) aspect ([\d.e-]+)")


@dataclass(frozen=True)
class Recovered:
    """What one fit learned of anomalies whose size and aspect are known.

    Attributes:
        true_size, true_aspect: of the anomalies.
        size, aspect: learned, the aspect along the picture's sides (:func:`upright`).
        seed: of the fit.
        auc: on the test pictures.
    """

    true_size: float
    true_aspect: float
    size: float
    aspect: float
    seed: int = 0
    auc: float = 1.0

    @property
    def sized(self) -> bool:
        """Whether the size is within :data:`FACTOR` of the truth."""
        return 1 / FACTOR <= self.size / self.true_size <= FACTOR

    @property
    def directed(self) -> bool | None:
        """Whether the patch is wide where the truth is, and high where it is; None for a disc."""
        if self.true_aspect == 1:
            return None
        return (self.aspect > 1) == (self.true_aspect > 1)


def recovered(fits: Iterable[Fit], rule: Rule) -> list[Recovered]:
    """What the kept starts of our fits have learned; nothing of fits that diverged."""
    found = []
    for fit in fits:
        record = fit.chosen(rule)
        match = _MADE.fullmatch(fit.task)
        if fit.method != OURS or record is None or record.values is None or match is None:
            continue
        patch = upright(record.values["final"])
        truth = float(match[1]), float(match[2])
        auc = float(measured(record)["auc"])
        found.append(Recovered(*truth, patch["size"], patch["aspect"], fit.seed, auc))
    return found


def upright(final: Mapping[str, float]) -> dict[str, float]:
    """Size, and the aspect that a patch has along the picture's sides.

    A patch is the same when it is turned by 180°, or turned by 90° with the inverse aspect. The
    aspect is that of its box: ``sqrt`` of the ratio of its extents along the two axes, squared.
    """
    aspect, radians = final["aspect"], np.deg2rad(final["angle"])
    cos, sin = np.cos(radians) ** 2, np.sin(radians) ** 2
    width, height = aspect * cos + sin / aspect, cos / aspect + aspect * sin
    return {"size": final["size"], "aspect": float(np.sqrt(width / height))}


def recovered_table(found: Sequence[Recovered]) -> Grid:
    """A row for each task, all seeds side by side, and how many of each are found."""
    groups: dict[tuple[float, float], list[Recovered]] = {}
    for each in sorted(found, key=lambda r: (r.true_size, r.true_aspect, r.seed)):
        groups.setdefault((each.true_size, each.true_aspect), []).append(each)
    lines = [
        [
            f"{size:g}",
            f"{aspect:g}",
            ", ".join(f"{each.size:.2g}" for each in runs),
            ", ".join(f"{each.aspect:.2g}" for each in runs),
            ", ".join(f"{each.auc:.3f}" for each in runs),
        ]
        for (size, aspect), runs in groups.items()
    ]
    if found:
        lines.append(
            ["**found**", "", *(_counts(found, kind) for kind in ("size", "aspect", "auc"))]
        )
    caption = (
        f"Learned without labels, one number for each seed. Found: sizes within a factor of "
        f"{FACTOR:g} of the truth, aspects on the right side of 1 (where the truth is not 1), AUCs "
        f"of {PERFECT:g} and more, of all for each seed."
    )
    header = ["True size", "True aspect", "Learned size", "Learned aspect", "AUC"]
    return Grid("recovered-table", "Learned against true", caption, header, lines)


def _counts(found: Sequence[Recovered], kind: str) -> str:
    texts = []
    for seed in sorted({each.seed for each in found}):
        own = [each for each in found if each.seed == seed]
        hits = {
            "size": [each.sized for each in own],
            "aspect": [each.directed for each in own if each.directed is not None],
            "auc": [each.auc >= PERFECT for each in own],
        }[kind]
        texts.append(f"{sum(hits)} of {len(hits)}")
    return ", ".join(texts)
