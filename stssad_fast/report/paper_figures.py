"""The paper's figures, from plain data: Fig. 3, 5, 6, 7 and 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from stssad_fast.experiments.gallery import Gallery
from stssad_fast.experiments.lemma import LossGrid
from stssad_fast.experiments.recovered import Recovered
from stssad_fast.report.case import Array
from stssad_fast.report.collect import EMBEDDINGS_PER_SET, SEED, project
from stssad_fast.report.figures import KIND_ROLES, scatter
from stssad_fast.report.svg import ROLES, STYLE, new_axes, plain
from stssad_fast.report.wording import number

# Hues for values that have an order of their own, e.g. five sizes of patch.
_SERIES = ("train", "augmented", "start-a", "anomaly", "start-b", "test", "start-d", "start-c")
_ON_PICTURES = "#16191d"  # as dark on the heat map when the page goes dark


@dataclass(frozen=True)
class EmbeddingSets:
    """Embeddings, (n, D) each, of the four sets that an embedding map shows."""

    train: Array
    augmented: Array
    normal: Array
    anomalous: Array


@matplotlib.rc_context(STYLE)
def lemma(grid: LossGrid) -> Figure:
    """Fig. 7: the validation loss as colour, its negative gradient as arrows."""
    figure, axes = new_axes(5.2, 4.2)
    u, loss, descent = grid.u.numpy(), grid.loss.numpy(), grid.descent.numpy()
    pale = LinearSegmentedColormap.from_list("pale", ["#fffdf2", "#a9d8d0", "#4f9fc4"])
    levels = np.linspace(loss.min(), loss.max(), 15)
    filled = axes.contourf(u, u, loss.T, levels=levels, cmap=pale)
    axes.contour(u, u, loss.T, levels=levels, colors=_ON_PICTURES, linewidths=0.3, alpha=0.35)
    step = slice(None, None, max(len(u) // 13, 1))
    arrows = descent[step, step]
    axes.quiver(
        u[step],
        u[step],
        arrows[..., 0].T,
        arrows[..., 1].T,
        color=_ON_PICTURES,
        scale=18 * float(np.abs(arrows).max()),
        width=0.0035,
    )
    u1, u2, least = grid.minimum
    axes.plot(u1, u2, "*", ms=13, color="#d55e01", mec=_ON_PICTURES, mew=0.6, zorder=5)
    axes.annotate(
        f"{least:.3f}",
        (u1, u2),
        xytext=(12, 10),
        textcoords="offset points",
        color=_ON_PICTURES,
        bbox={"boxstyle": "round,pad=0.2", "fc": "#fffdf2", "ec": "none"},
    )
    axes.set(xlabel="u₁ (test point near the training point)", aspect="equal")
    axes.set_ylabel("u₂ (test point near the augmented point)")
    axes.grid(visible=False)
    bar = figure.colorbar(filled, ax=axes, shrink=0.9, ticks=MaxNLocator(6), format="%.2f")
    bar.set_label("validation loss")
    bar.outline.set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
def picture_rows(
    rows: Sequence[tuple[str, Array]],
    columns: Sequence[str] = (),
    below: Sequence[str] = (),
    *,
    axis: str = "",
) -> Figure:
    """Pictures in rows and columns (Fig. 5, 6a and 8).

    Args:
        rows: (name, pictures) of each row; pictures (n, C, H, W) in [0, 1], all of one shape.
        columns: Names above the columns.
        below: Words below the columns.
        axis: What the names of the columns are.

    Raises:
        ValueError: There is no picture, or the pictures differ in their shape.
    """
    if not rows or len({np.shape(p)[1:] for _, p in rows}) != 1 or not len(rows[0][1]):
        raise ValueError("rows must hold pictures (n, C, H, W) of one shape")
    arrays = [np.clip(np.asarray(pictures, dtype=float), 0, 1) for _, pictures in rows]
    height, width = arrays[0].shape[-2:]
    count = max(map(len, arrays))
    gap = max(round(0.05 * width), 1)
    sheet = np.zeros((len(rows) * (height + gap) - gap, count * (width + gap) - gap, 4))
    for i, pictures in enumerate(arrays):
        for j, picture in enumerate(pictures):
            top, left = i * (height + gap), j * (width + gap)
            tile = sheet[top : top + height, left : left + width]
            tile[..., :3], tile[..., 3] = picture[:3].transpose(1, 2, 0), 1
    across = min(0.95, 7.6 / count)
    labels = 0.08 * max((len(line) for name, _ in rows for line in name.split("\n")), default=0)
    words = 0.2 * ((1.2 if columns else 0) + (1.2 if axis else 0) + (2.4 if any(below) else 0))
    figure, axes = new_axes(
        across * count + labels + 0.2, across * height / width * len(rows) * 1.04 + words + 0.1
    )
    figure.set_dpi(150)  # at which the pictures are put into an SVG
    axes.imshow(sheet, interpolation="nearest" if width < 64 else "auto")
    middles = [j * (width + gap) + width / 2 for j in range(count)]
    axes.set_yticks(
        [i * (height + gap) + height / 2 for i in range(len(rows))],
        [plain(name) for name, _ in rows],
    )
    axes.set_xticks(middles[: len(columns)], [plain(name) for name in columns])
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(axis)
    for middle, text in zip(middles, below, strict=False):
        axes.annotate(
            text,
            (middle, 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -4),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8,
            color=ROLES["muted"],
        )
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.draw_without_rendering()  # arranged once, many rows cut the names beside them off
    return figure


def gallery(shown: Gallery) -> Figure:
    """Fig. 8: one picture under the local augmentations, from small patches to large ones."""
    rows = list(zip(shown.rows, shown.pictures.numpy(), strict=True))
    return picture_rows(rows, shown.columns, axis="size of the patch")


def learned_augmentation(cases: Sequence[tuple[str, Array, Array, Mapping[str, float]]]) -> Figure:
    """Fig. 5: a true anomaly above a normal picture under the augmentation that was learned.

    Args:
        cases: (name of the task, anomalous test picture (C, H, W), augmented normal picture
            (C, H, W), learned hyperparameters).
    """
    return picture_rows(
        [
            ("anomaly", np.stack([np.asarray(anomaly) for _, anomaly, _, _ in cases])),
            ("augmented", np.stack([np.asarray(augmented) for _, _, augmented, _ in cases])),
        ],
        [name for name, _, _, _ in cases],
        [
            "\n".join(f"{name} {number(value, 2)}" for name, value in values.items())
            for *_, values in cases
        ],
    )


@matplotlib.rc_context(STYLE)
def embedding_maps(maps: Sequence[tuple[str, EmbeddingSets]]) -> Figure:
    """Fig. 3b and 6b: embeddings on their two directions of largest variance, a panel per task.

    The paper does not say how it projects. Principal components keep distances as far as a plane
    can, and whether two sets lie in the same place is what the figure is to show.
    """
    figure = Figure(figsize=(0.4 + 3.4 * max(len(maps), 1), 3.4), layout="constrained")
    rng = np.random.default_rng(SEED)
    for panel, (title, sets) in enumerate(maps, 1):
        axes: Axes = figure.add_subplot(1, len(maps), panel)
        rows = {kind: np.asarray(getattr(sets, kind), dtype=float) for kind in KIND_ROLES}
        points, explained = project(
            {
                name: z[np.sort(rng.permutation(len(z))[:EMBEDDINGS_PER_SET])]
                for name, z in rows.items()
            }
        )
        groups = [
            (role, points[k], shape, size) for k, (role, shape, size, _) in KIND_ROLES.items()
        ]
        scatter(axes, groups, explained)
        axes.set_title(plain(title), fontsize=9)
    handles = [
        Line2D([], [], ls="", marker=shape, ms=size + 1.5, color=ROLES[role], mew=0, label=label)
        for role, shape, size, label in KIND_ROLES.values()
    ]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=2 if len(maps) < 2 else 4, frameon=False
    )
    return figure


@matplotlib.rc_context(STYLE)
def learned_against_true(runs: Sequence[Recovered]) -> Figure:
    """Fig. 3a: sizes and aspects that were learned, and a line to the true ones of each run."""
    figure, axes = new_axes(6.0, 4.4)
    sizes = sorted({run.true_size for run in runs})
    aspects = sorted({run.true_aspect for run in runs})
    for run in runs:
        role = _SERIES[sizes.index(run.true_size) % len(_SERIES)]
        axes.plot(
            [run.true_size, run.size],
            [run.true_aspect, run.aspect],
            color=ROLES[role],
            lw=0.8,
            alpha=0.45,
        )
        axes.plot(run.size, run.aspect, "o", ms=4.5, color=ROLES[role], mec=ROLES["card"], mew=0.5)
    truths = sorted({(run.true_size, run.true_aspect) for run in runs})
    for size, aspect in truths:
        role = _SERIES[sizes.index(size) % len(_SERIES)]
        axes.plot(size, aspect, "s", ms=9, mfc="none", mec=ROLES[role], mew=1.5)
    axes.set(xscale="log", yscale="log")
    _ticks(axes.xaxis, sizes)
    _ticks(axes.yaxis, aspects)
    axes.set_xlabel("size of the patch")
    axes.set_ylabel("aspect (width over height)")
    handles = [
        Line2D([], [], ls="", marker="s", ms=8, mfc="none", mec=ROLES["ink"], label="true"),
        Line2D([], [], marker="o", ms=4.5, lw=0.8, color=ROLES["ink"], label="learned, one run"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def size_trajectories(histories: Mapping[float, Sequence[Array]]) -> Figure:
    """Fig. 3c: the size over the iterations towards several true sizes.

    Mean and standard deviation over the runs are those of log size, which the axis shows and the
    gradient moves; a run that stopped earlier keeps its last size.

    Args:
        histories: True size to the sizes of each run, (iterations,).
    """
    figure, axes = new_axes(5.6, 3.6)
    for index, (truth, runs) in enumerate(sorted(histories.items())):
        length = max(map(len, runs))
        logs = np.log(
            [np.pad(np.asarray(run, dtype=float), (0, length - len(run)), "edge") for run in runs]
        )
        mean, iterations = logs.mean(0), np.arange(length)
        deviation = logs.std(0, ddof=1) if len(runs) > 1 else np.zeros(length)
        colour = ROLES[_SERIES[index % len(_SERIES)]]
        axes.axhline(truth, color=colour, lw=1, dashes=(4, 2))
        axes.fill_between(
            iterations,
            np.exp(mean - deviation),
            np.exp(mean + deviation),
            color=colour,
            alpha=0.2,
            lw=0,
        )
        axes.plot(iterations, np.exp(mean), color=colour, lw=1.8)
    axes.set_yscale("log")
    _ticks(axes.yaxis, sorted(histories))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("iteration")
    axes.set_ylabel("size of the patch")
    handles = [
        Line2D([], [], color=ROLES["ink"], lw=1, dashes=(4, 2), label="true size"),
        Line2D([], [], color=ROLES["ink"], lw=1.8, label="learned: mean ± standard deviation"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False)
    return figure


def _ticks(axis: Axis, values: Sequence[float]) -> None:
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
