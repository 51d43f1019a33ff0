"""The study's figures, from plain data: what an augmentation is worth, and to which anomalies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from stssad_fast.augment.catalogue import Named
from stssad_fast.experiments.relative import Relative
from stssad_fast.experiments.tables import p_text
from stssad_fast.report.case import Array
from stssad_fast.report.figures import KIND_ROLES
from stssad_fast.report.svg import ROLES, STYLE

FAMILY_ROLES = {
    "geometric": "train",
    "local": "anomaly",
    "elementwise": "start-a",
    "color": "augmented",
    "mixed": "start-b",
    "none": "muted",
}
"""Colour of each family of augmentations."""

_ROW = 0.27  # inches


@matplotlib.rc_context(STYLE)
def relative_auc(
    panels: Mapping[str, Mapping[str, Relative]], vanilla: Mapping[str, str], ordered: bool = True
) -> Figure:
    """Fig. 2, 4a, 5, 10 to 12: relative AUC of every augmentation, a panel for each detector.

    A dot is the pseudo-median, its line the 95 % interval, small dots are single tasks.

    Args:
        panels: by detector, the rows by augmentation (as :class:`catalogue.Named` is
            written).
        vanilla: what each detector is compared with.
        ordered: rows by pseudo-median; False: as given.
    """
    count = max(map(len, panels.values()))
    figure = Figure(figsize=(4.1 * len(panels), _ROW * (count + 1) + 1.1), layout="constrained")
    families: dict[str, None] = {}
    for place, (detector, rows) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), place)
        names = list(rows)
        if ordered:
            names.sort(key=lambda name: rows[name].median or 0.0, reverse=True)
        axes.axvline(0, color=ROLES["muted"], lw=1)
        for height, name in enumerate(names):
            family = Named.parse(name).family
            families[family] = None
            _relative_row(axes, height, rows[name], ROLES[FAMILY_ROLES[family]])
        axes.set_yticks(range(len(names)), [Named.parse(name).title for name in names])
        for label, name in zip(axes.get_yticklabels(), names, strict=True):
            label.set_color(ROLES[FAMILY_ROLES[Named.parse(name).family]])
        axes.set_ylim(count - 0.4, -0.6)
        axes.tick_params(length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"AUC of {detector} minus AUC of {vanilla[detector]}")
        axes.annotate("p", (1.02, 1.0), xycoords="axes fraction", va="bottom", color=ROLES["muted"])
    handles = [Patch(color=ROLES[FAMILY_ROLES[f]], label=f) for f in FAMILY_ROLES if f in families]
    columns = 3 if len(panels) == 1 else 5  # as many as find room
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False)
    return figure


def _relative_row(axes: Axes, height: int, row: Relative, colour: str) -> None:
    axes.plot(
        row.differences, np.full(len(row.differences), height), "o", ms=2.6, mew=0, alpha=0.35,
        color=colour,
    )  # fmt: skip
    if row.interval is not None:
        axes.plot(row.interval, [height] * 2, color=colour, lw=2.2, solid_capstyle="butt")
    axes.plot([row.median or 0.0], [height], "o", ms=6, color=colour, mec=ROLES["card"], mew=0.8)
    axes.annotate(
        p_text(row.p_value),
        (1.02, height),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8,
        fontweight="bold" if row.verdict else "normal",
        color=ROLES["ink" if row.verdict else "muted"],
        annotation_clip=False,
    )


@matplotlib.rc_context(STYLE)
def class_bias(panels: Mapping[str, tuple[str, str, Sequence[str], Array, Array]]) -> Figure:
    """Fig. 3: AUC on each anomalous class, without and with an augmentation.

    Args:
        panels: by title, (name of the vanilla detector, of the other, classes, AUCs (n,) of the
            first and of the second).
    """
    most = max(len(classes) for _, _, classes, _, _ in panels.values())
    figure = Figure(figsize=(max(4.4, 0.5 * (most + 3)), 2.7 * len(panels)), layout="constrained")
    for place, (title, (before, after, classes, first, second)) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(len(panels), 1, place)
        at = np.array([*range(len(classes)), len(classes) + 0.5])
        for shift, values, role, name in (
            (-0.2, first, "muted", before),
            (0.2, second, "anomaly", after),
        ):
            heights = [*values, np.mean(values)]
            axes.bar(at + shift, heights, 0.38, color=ROLES[role], label=name)
        axes.axhline(0.5, color=ROLES["muted"], lw=0.7, dashes=(3, 3))
        axes.set_xticks(at, [*classes, "mean"])
        axes.set_ylim(min(0.4, float(np.min([first, second])) - 0.05), 1.0)
        axes.tick_params(length=0)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("AUC")
        axes.set_title(title, fontsize=9, loc="left")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    axes.set_xlabel("anomalous class")
    return figure


@matplotlib.rc_context(STYLE)
def error_histograms(panels: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Fig. 7, 15, 16: scores of three kinds of pictures, one panel for each augmentation.

    Args:
        panels: by title, scores (n,) by kind: "augmented", "normal" and "anomalous".
    """
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.7 * columns, 2.0 * rows + 0.8), layout="constrained")
    every = np.concatenate([scores for kinds in panels.values() for scores in kinds.values()])
    high = float(every.max()) or 1.0  # logarithmic: Invert's errors are a hundred times Identity's
    low = max(float(every.min()), 1e-6 * high)
    edges = np.geomspace(low, high if high > low else 2 * low, 41)
    for place, (title, kinds) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        for kind, scores in kinds.items():
            role = KIND_ROLES[kind][0]
            weights = np.full(len(scores), 1 / len(scores))
            axes.hist(
                np.clip(scores, edges[0], edges[-1]),
                edges.tolist(),
                weights=weights,
                histtype="stepfilled",
                color=ROLES[role],
                alpha=0.55,
            )
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_yticklabels([])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_xscale("log")
    figure.supxlabel("reconstruction error", fontsize=9, color=ROLES["muted"])
    kinds_shown = [kind for kind in KIND_ROLES if any(kind in each for each in panels.values())]
    handles = [
        Patch(color=ROLES[role], alpha=0.55, label=name)
        for role, _, _, name in (KIND_ROLES[kind] for kind in kinds_shown)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def embedding_plane(
    panels: Mapping[str, tuple[Mapping[str, Array], Mapping[str, Array]]], by_score: bool
) -> Figure:
    """Fig. 8, 9, 17: points of four kinds on a plane, and once more by their scores.

    Args:
        panels: by title, points (n, 2) and scores (n,) by kind, as in :data:`KIND_ROLES`.
        by_score: whether to draw each panel a second time, coloured by score.
    """
    wide = 2 if by_score else 1
    columns = wide if by_score else min(len(panels), 2)
    rows = -(-len(panels) * wide // columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows + 0.5), layout="constrained")
    place = 1
    for title, (points, scores) in panels.items():
        axes = _plane(figure, rows, columns, place, title)
        for kind, each in points.items():
            role, marker, *_ = KIND_ROLES[kind]
            axes.plot(*each.T, marker, ms=3.4, mew=0, alpha=0.75, color=ROLES[role])
        place += 1
        if by_score:
            axes = _plane(figure, rows, columns, place, "by anomaly score")
            values = np.concatenate(list(scores.values()))
            together = np.concatenate(list(points.values()))
            drawn = axes.scatter(
                together[:, 0],
                together[:, 1],
                c=values.argsort().argsort() / max(len(values) - 1, 1),
                s=9,
                cmap="viridis",
                linewidths=0,
            )
            bar = figure.colorbar(drawn, ax=axes, ticks=[0, 1], shrink=0.7)
            bar.ax.set_yticklabels(["lowest", "highest"], fontsize=8)
            bar.outline.set_visible(False)
            place += 1
    handles = [
        Line2D([], [], ls="", marker=marker, ms=5, color=ROLES[role], mew=0, label=name)
        for role, marker, _, name in KIND_ROLES.values()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False)
    return figure


def _plane(figure: Figure, rows: int, columns: int, place: int, title: str) -> Axes:
    axes: Axes = figure.add_subplot(rows, columns, place)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    return axes
