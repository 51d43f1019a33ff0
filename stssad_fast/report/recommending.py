"""What a ranking of augmentations rests on, as a page: numbers, pictures, scores, embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stssad_fast.checkpoint import write_text
from stssad_fast.errors import InputError
from stssad_fast.experiments.jobs import Job
from stssad_fast.experiments.recommending import CLOSE, Agreement, Ranked, agreements, ranking
from stssad_fast.experiments.scores import NONE
from stssad_fast.experiments.store import Record, Store
from stssad_fast.experiments.tables import Grid, csv_text
from stssad_fast.report.case import Array
from stssad_fast.report.collect import project
from stssad_fast.report.plot import Plot
from stssad_fast.report.results import TABLE, write_run
from stssad_fast.report.study_figures import FAMILY_ROLES
from stssad_fast.report.svg import ROLES, STYLE
from stssad_fast.report.wording import number

EVIDENCE = 6
"""Candidates whose evidence is shown: so many of the best, and the last one."""

_EXPLAINED = (
    "Separation: how far the test set's scores lie above those of held-out normal pictures, in "
    "standard deviations; candidates are ranked by it. Alignment: L_val of training, augmented and "
    "test embeddings, low where they match. Variance: S of the test scores. Training loss: 0.69 "
    "where normal and augmented pictures cannot be told apart, and nothing is learned."
)


def write_recommendation(out: Path, jobs: Sequence[Job], store: Store) -> Path:
    """Write what a run has come to so far: table, figures and the page.

    Args:
        out: folder of the run.
        jobs: its plan, of one test set.
        store: what is known of them.

    Returns:
        The page.

    Raises:
        InputError: a file cannot be written.
    """
    records = [store.done[job.key] for job in jobs if job.key in store.done]
    (task,) = jobs[0].config["tasks"].values()
    ranked = ranking(records, task)
    grid = ranking_table(ranked)
    write_text(out / TABLE, grid.markdown())
    write_text(out / "ranking.csv", _csv(ranked))
    return write_run(
        out,
        "Which augmentation fits these pictures",
        jobs,
        store,
        figures=_plots(ranked, store) if ranked else [],
        settings=jobs[0].config["data"]["options"] | jobs[0].config["parameters"],
        notes=[advice(ranked)] if ranked else [],
        grids=[grid],
        footer="No label is used: the AUC, where the folders tell it, stands beside the ranking.",
    )


def advice(ranked: Sequence[Ranked]) -> str:
    """What to do with the ranking, in a sentence or two."""
    first = ranked[0]
    if first.separation <= 0:
        return (
            "No candidate sets the test pictures apart from normal ones: either they are normal, "
            "or none of these augmentations resembles what is wrong with them."
        )
    text = (
        f"{first.candidate.title} fits best: it sets the test pictures "
        f"{number(first.separation)} standard deviations apart from normal ones it has not seen."
    )
    near = [row.candidate.title for row in ranked[1:4] if min(first.separations) < row.separation]
    if near:
        text += f" Not clearly worse, as the seeds differ: {'; '.join(near)}."
    tunable = {"cutdiff": "cutdiff", "cutout": "cutdiff", "rotate": "rotation"}
    if name := tunable.get(first.candidate.name):
        text += f" Its strength can be tuned: stssad-fast tune --augmentation {name}."
    return text


def ranking_table(ranked: Sequence[Ranked]) -> Grid:
    """The ranking as a table; a column of AUCs if they are known."""
    labelled = any(row.auc is not None for row in ranked)
    header = ["", "Augmentation", "Family", "Separation", "Alignment", "Variance", "Training loss"]
    lines = [
        [
            str(place),
            f"**{row.candidate.title}**" if place == 1 else row.candidate.title,
            row.candidate.family,
            _spread(row.separations),
            f"{row.alignment:.3f}",
            number(row.variance),
            f"{row.train_loss:.3f}",
            *([NONE if row.auc is None else f"{row.auc:.3f}"] if labelled else []),
        ]
        for place, row in enumerate(ranked, 1)
    ]
    caption = _EXPLAINED + (" AUC: from labels, for comparison." if labelled else "")
    header = [*header, *(["AUC"] if labelled else [])]
    return Grid("ranking", "Ranking, without labels", caption, header, lines)


def agreement_table(records: Sequence[Record]) -> Grid:
    """How well the ranking does on the tasks of testbeds; the last row is their mean."""
    found = agreements(records)
    lines = [
        [
            each.task,
            NONE if each.correlation is None else f"{each.correlation:.2f}",
            each.first.title,
            f"{each.chosen:.3f}",
            f"{each.best:.3f}",
            "yes" if each.close else "no",
        ]
        for each in found
    ]
    if found:
        lines.append(["**mean**", *_means(found)])
    caption = (
        "For every task, Spearman's rank correlation over candidates of separation, which needs "
        "no label, and AUC, both means over the seeds; the AUC of the first choice, of the best "
        f"candidate, and whether the first is within {CLOSE} of it."
    )
    header = ["Task", "Rank correlation", "First choice", "its AUC", "best AUC", "within 0.03"]
    return Grid("recommend", "Recommended without labels, judged by them", caption, header, lines)


def _means(found: Sequence[Agreement]) -> list[str]:
    correlations = [each.correlation for each in found if each.correlation is not None]
    close = sum(each.close for each in found)
    return [
        f"{np.mean(correlations):.2f}" if correlations else NONE,
        "",
        f"{np.mean([each.chosen for each in found]):.3f}",
        f"{np.mean([each.best for each in found]):.3f}",
        f"{close} of {len(found)}",
    ]


def _spread(values: Sequence[float]) -> str:
    text = f"{np.mean(values):.2f}"
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):.2f}"


def _csv(ranked: Sequence[Ranked]) -> str:
    header = ["candidate", "family", "separation", "alignment", "variance", "train_loss", "auc"]
    return csv_text(
        header,
        [
            [
                str(row.candidate),
                row.candidate.family,
                row.separation,
                row.alignment,
                row.variance,
                row.train_loss,
                "" if row.auc is None else row.auc,
            ]
            for row in ranked
        ],
    )


def _plots(ranked: Sequence[Ranked], store: Store) -> list[Plot]:
    plots = [
        Plot(
            "separation",
            "Ranking",
            "Separation of the test set from held-out normal pictures, in standard deviations. "
            "Bars: means over the seeds; dots: single seeds.",
            separation_bars(ranked),
        )
    ]
    shown = list(ranked[:EVIDENCE]) + list(ranked[EVIDENCE:][-1:])
    try:
        arrays = {row.candidate.title: store.arrays(row.records[0].key) for row in shown}
    except InputError:  # jobs.jsonl alone was kept
        arrays = {}
    if arrays:
        plots.append(
            Plot(
                "evidence",
                "What the best candidates, and the last, make and see",
                "Left: training pictures as the augmentation changes them. Middle: log distance "
                "from the training pictures, of held-out normal, and of test pictures. Right: "
                "embeddings on their two principal axes. All of the first seed.",
                evidence(arrays),
            )
        )
    return plots


@matplotlib.rc_context(STYLE)
def separation_bars(ranked: Sequence[Ranked]) -> Figure:
    """A bar for each candidate, coloured by its family."""
    figure = Figure(figsize=(6.2, 0.27 * len(ranked) + 1.1), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(ranked):
        colour = ROLES[FAMILY_ROLES[row.candidate.family]]
        axes.barh(place, row.separation, 0.62, color=colour, alpha=0.55)
        axes.plot(row.separations, [place] * len(row.separations), "o", ms=4, mew=0, color=colour)
    axes.axvline(0, color=ROLES["muted"], lw=1)
    axes.set_yticks(range(len(ranked)), [row.candidate.title for row in ranked])
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("separation, standard deviations")
    families = dict.fromkeys(row.candidate.family for row in ranked)
    handles = [
        Patch(color=ROLES[FAMILY_ROLES[f]], alpha=0.55, label=f)
        for f in FAMILY_ROLES
        if f in families
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def evidence(rows: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Augmented pictures, scores and embeddings, one row for each candidate.

    Args:
        rows: by label, the arrays of a job (:func:`recommending.work`) of one test set.
    """
    figure = Figure(figsize=(8.6, 1.35 * len(rows) + 0.7), layout="constrained")
    grid = figure.add_gridspec(len(rows), 3, width_ratios=[2.6, 1.5, 1.1])
    for place, (label, arrays) in enumerate(rows.items()):
        axes = figure.add_subplot(grid[place, 0])
        strip = np.concatenate(list(_framed(arrays["augmented"][:5])), axis=1)
        axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(label, fontsize=9, loc="left")
        _histograms(figure.add_subplot(grid[place, 1]), arrays)
        _plane(figure.add_subplot(grid[place, 2]), arrays)
    handles = [
        Patch(color=ROLES["train"], alpha=0.55, label="normal"),
        Patch(color=ROLES["anomaly"], alpha=0.55, label="test"),
        Line2D([], [], ls="", marker="o", ms=5, mew=0, color=ROLES["augmented"], label="augmented"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False)
    return figure


def _framed(images: Array) -> Array:
    """Bytes (n, C, H, W) as (n, H, W) or (n, H, W, 3), with a white gap to the right."""
    pictures = images.transpose(0, 2, 3, 1)
    pictures = pictures[..., 0] if pictures.shape[-1] == 1 else pictures
    gap = max(1, pictures.shape[2] // 16)
    padding = [(0, 0), (0, 0), (0, gap), *[(0, 0)] * (pictures.ndim - 3)]
    return np.pad(pictures, padding, constant_values=255)


def _histograms(axes: Axes, arrays: Mapping[str, Array]) -> None:
    (test,) = (array for name, array in arrays.items() if name.startswith("test/"))
    groups = {"train": arrays["held_out"], "anomaly": test}
    edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), 28).tolist()
    for role, values in groups.items():
        weights = np.full(len(values), 1 / len(values))
        axes.hist(
            values, edges, weights=weights, histtype="stepfilled", color=ROLES[role], alpha=0.55
        )
    axes.set_yticklabels([])
    axes.tick_params(length=0, labelsize=8)
    axes.grid(visible=False)


def _plane(axes: Axes, arrays: Mapping[str, Array]) -> None:
    kinds = {"train": "train", "augmented": "augmented", "test": "anomaly"}
    points, _ = project({kind: arrays[f"embedding/{kind}"] for kind in kinds})
    for kind, role in kinds.items():
        axes.plot(*points[kind].T, "o", ms=2.6, mew=0, alpha=0.5, color=ROLES[role])
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
