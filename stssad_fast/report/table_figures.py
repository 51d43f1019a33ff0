"""The table of an experiment as charts: every task and method, and where ours is ahead."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from stssad_fast.experiments.scores import Summary
from stssad_fast.experiments.tables import p_text
from stssad_fast.report.svg import ROLES, STYLE, new_axes, plain

OURS, OTHER, BETTER = "train", "muted", "anomaly"
_ROW = 0.2  # inches


@matplotlib.rc_context(STYLE)
def auc_dots(summary: Summary) -> Figure:
    """A panel per method and a row per task: means, single runs, and ours for comparison."""
    methods, tasks = summary.methods, summary.tasks
    labels = 0.075 * max((len(task) for task in tasks), default=0)
    panel = min(max(6.5 / max(len(methods), 1), 0.74), 2.2)
    size = (labels + panel * len(methods) + 0.2, _ROW * (len(tasks) + 1.5) + 1.1)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.03, wspace=0.02))
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    heights = [*range(len(tasks)), len(tasks) + 0.5]
    for axes, method in zip(panels, methods, strict=True):
        own = method == summary.ours
        axes.axvline(0.5, color=ROLES["muted"], lw=0.7, dashes=(3, 3))
        for height, task in zip(heights, [*tasks, None], strict=True):
            row = summary.means if task is None else {m: summary.cells[task, m] for m in methods}
            mean = row[method].mean
            reference = row[summary.ours].mean if summary.ours in row else None
            keys = [] if task is None else [(task, method, seed) for seed in summary.seeds]
            values = [summary.runs[key] for key in keys if key in summary.runs]
            role = OURS if own else OTHER
            if not own and mean is not None and reference is not None:
                role = BETTER if mean > reference else OTHER
                axes.plot([mean, reference], [height] * 2, color=ROLES[role], lw=1, alpha=0.5)
                axes.plot(reference, height, "|", color=ROLES[OURS], ms=7, mew=1.6)
            axes.plot(
                values, [height] * len(values), "o", ms=2.6, mew=0, alpha=0.45, color=ROLES[role]
            )
            if mean is not None:
                axes.plot(mean, height, "o", ms=5, color=ROLES[role], mec=ROLES["card"], mew=0.7)
        axes.set_title(method, fontsize=8.5, fontweight="bold" if own else "normal")
        axes.set(xlim=(-0.03, 1.03), xticks=[0, 0.5, 1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(length=0, labelsize=8)
        axes.grid(axis="x", visible=False)
        axes.axhline(len(tasks) - 0.25, color=ROLES["muted"], lw=0.7)
    if len(panels):
        panels[0].set_yticks(heights, [*map(plain, tasks), "mean"])
        panels[0].set_ylim(len(tasks) + 1.1, -0.7)
    figure.supxlabel("AUC on the test pictures", fontsize=9, color=ROLES["muted"])
    handles = [_marker("o", OTHER, "method, mean", 5), _marker("o", OTHER, "single runs", 2.6)]
    if summary.comparisons:
        handles = [
            _marker("o", OURS, summary.ours, 5),
            _marker("|", OURS, f"{summary.ours}, for comparison", 8),
            handles[0],
            _marker("o", BETTER, f"mean above {summary.ours}", 5),
            handles[1],
        ]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=3 if size[0] < 8 else 5, frameon=False
    )
    return figure


@matplotlib.rc_context(STYLE)
def differences(summary: Summary) -> Figure:
    """For every method, by how much ours is ahead on each task, and the p-value."""
    others = [method for method in summary.methods if method != summary.ours]
    figure, axes = new_axes(6.2, 0.3 * max(len(others), 1) + 0.9)
    axes.axvline(0, color=ROLES["muted"], lw=1)
    for height, method in enumerate(others):
        gaps = np.array(
            [
                np.mean([ours - other for ours, other in pairs])
                for task in summary.tasks
                if (pairs := _pairs(summary, task, method))
            ]
        )
        for role, chosen in ((OURS, gaps >= 0), (BETTER, gaps < 0)):
            axes.plot(
                gaps[chosen],
                np.full(chosen.sum(), height),
                "o",
                ms=5,
                mfc="none",
                mec=ROLES[role],
                mew=1.1,
            )
        if len(gaps):
            axes.plot(np.median(gaps), height, "|", ms=15, mew=2.2, color=ROLES["ink"])
        axes.annotate(
            p_text(summary.comparisons[method].p_value),
            (1.02, height),
            xycoords=("axes fraction", "data"),
            va="center",
            annotation_clip=False,
        )
    axes.annotate(
        "p-value", (1.02, 1.01), xycoords="axes fraction", va="bottom", color=ROLES["muted"]
    )
    axes.set_yticks(range(len(others)), others)
    axes.set_ylim(len(others) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.tick_params(length=0)
    axes.set_xlabel(f"mean AUC of {summary.ours} \u2212 mean AUC of the method")
    handles = [
        _marker("o", OURS, f"{summary.ours} ahead", 5, hollow=True),
        _marker("o", BETTER, "method ahead", 5, hollow=True),
        _marker("|", "ink", "median task", 9),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
    return figure


def _pairs(summary: Summary, task: str, method: str) -> list[tuple[float, float]]:
    """AUCs of ours and of another method, of every seed that both have."""
    keys = [((task, summary.ours, seed), (task, method, seed)) for seed in summary.seeds]
    runs = summary.runs
    return [(runs[ours], runs[other]) for ours, other in keys if ours in runs and other in runs]


def _marker(shape: str, role: str, label: str, size: float, *, hollow: bool = False) -> Line2D:
    face = "none" if hollow else ROLES[role]
    width = 1.6 if shape == "|" else 1.1 if hollow else 0
    return Line2D(
        [], [], ls="", marker=shape, ms=size, mfc=face, mec=ROLES[role], mew=width, label=label
    )
