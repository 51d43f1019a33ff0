"""What the runs of an experiment have learned, as figures: after Fig. 3, 5 and 6 of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stssad_fast.augment import Augmentation, CutDiff, Rotation
from stssad_fast.errors import InputError
from stssad_fast.experiments import problems
from stssad_fast.experiments.jobs import Job
from stssad_fast.experiments.methods import OURS
from stssad_fast.experiments.outcomes import Fit
from stssad_fast.experiments.problems import Problem
from stssad_fast.experiments.recovered import recovered
from stssad_fast.experiments.store import Record, Store
from stssad_fast.report.case import Array
from stssad_fast.report.paper_figures import (
    EmbeddingSets,
    embedding_maps,
    learned_against_true,
    learned_augmentation,
    picture_rows,
    size_trajectories,
)
from stssad_fast.report.plot import Plot
from stssad_fast.tuning.selection import Rule

SHOWN = 6
"""Tasks in a figure that has a column for each."""

CLASSES = 3
"""Tasks in the figure of classes, which has three rows for each."""

PICTURES = 8
"""Pictures in a row of it."""

FIGURE_6 = ("6/9", "2/6")
"""Tasks of the paper's figure of classes; where a run has them, they are shown first."""


def learned_plots(
    name: str, jobs: Sequence[Job], store: Store, fits: Sequence[Fit], selection: Rule
) -> list[Plot]:
    """Figures of our method's fits, of the first seed where one is enough.

    Args:
        name: "defects", "semantic" or "demonstrative".
        jobs: the plan, which knows where the pictures are.
        store: the arrays that the jobs have left.
        fits: whole ones, of any method.
        selection: the rule that chooses among starts.
    """
    chosen = [(fit, fit.chosen(selection)) for fit in fits if fit.method == OURS]
    kept = [(fit, record) for fit, record in chosen if record is not None]
    if not kept:
        return []
    seed = min(fit.seed for fit, _ in kept)
    first = [(fit, record) for fit, record in kept if fit.seed == seed]
    step = max(1, -(-len(first) // SHOWN))
    spread = [p for i, p in enumerate(first) if i % step == 0 or p[0].task in FIGURE_6]
    some = sorted(spread, key=lambda pair: pair[0].task not in FIGURE_6)[:SHOWN]
    plots = []
    if name == "demonstrative":
        plots += _demonstrative(kept, store, selection)
    else:
        sources = {job.key: job for job in jobs}
        read = [(fit, record, problem_of(sources[record.key])) for fit, record in some]
        plots.append(_defects(read) if name == "defects" else _semantic(read[:CLASSES]))
    maps = [(fit.task, sets) for fit, record in some if (sets := _embeddings(store, record, jobs))]
    if maps:
        plots.append(
            Plot(
                "embeddings",
                "Embeddings",
                "First two principal components of each task's embeddings. Tuning aims at training "
                "and augmented pictures lying where the test pictures lie.",
                embedding_maps(maps[:4]),
            )
        )
    return plots


def problem_of(job: Job) -> Problem:
    """The pictures of a job."""
    data = job.config["data"]
    return problems.read(data["reader"], job.sources["data"], data["options"])


def _augmentation(record: Record) -> Augmentation:
    assert record.values is not None
    kind = {"cutdiff": CutDiff, "rotation": Rotation}[record.config["parameters"]["augmentation"]]
    return kind(**record.values["final"])


@torch.no_grad()
def _defects(read: Sequence[tuple[Fit, Record, Problem]]) -> Plot:
    cases = []
    for fit, record, problem in read:
        assert record.values is not None
        (name,) = record.config["tests"]
        test = problem.tests[name]
        anomaly = test.images[int(np.flatnonzero(test.labels)[0])]
        generator = torch.Generator().manual_seed(1)
        made = _augmentation(record)(problem.train[:1], generator=generator)[0]
        cases.append(
            (fit.task.replace("/", "\n"), anomaly.numpy(), made.numpy(), record.values["final"])
        )
    return Plot(
        "learned",
        "What was learned",
        "A test picture with the anomaly, and a normal one under the augmentation that was tuned "
        "without labels.",
        learned_augmentation(cases),
    )


@torch.no_grad()
def _semantic(read: Sequence[tuple[Fit, Record, Problem]]) -> Plot:
    rows: list[tuple[str, Array]] = []
    for fit, record, problem in read:
        assert record.values is not None
        (name,) = record.config["tests"]
        test = problem.tests[name]
        anomalies = test.images[torch.from_numpy(np.flatnonzero(test.labels)[:PICTURES])]
        normal = problem.train[:PICTURES]
        angle = record.values["final"]["angle"]
        rows += [
            (f"{fit.task}: normal", normal.numpy()),
            (f"rotated {angle:.0f}°", _augmentation(record)(normal).numpy()),
            ("anomalies", anomalies.numpy()),
        ]
    return Plot(
        "learned",
        "What was learned",
        "Of each task: normal pictures, the same under the rotation that was tuned without labels, "
        "and anomalies.",
        picture_rows(rows),
    )


def _demonstrative(kept: Sequence[tuple[Fit, Record]], store: Store, rule: Rule) -> list[Plot]:
    histories: dict[float, list[Array]] = {}
    runs = []
    for fit, record in kept:
        (found,) = recovered([fit], rule)
        runs.append(found)
        history = _arrays(store, record).get("history/size")
        if found.true_aspect == 1 and history is not None:
            histories.setdefault(found.true_size, []).append(history)
    plots = [
        Plot(
            "recovered",
            "Learned against true",
            "Size and aspect that were learned; a line leads from the truth to each run. A patch "
            "turned by more than 45° counts with the inverse of its aspect.",
            learned_against_true(runs),
        )
    ]
    if histories:
        plots.append(
            Plot(
                "trajectories",
                "Sizes over the iterations",
                "Of the start that was kept, mean and standard deviation over the seeds, for "
                "anomalies of aspect 1.",
                size_trajectories(dict(sorted(histories.items()))),
            )
        )
    return plots


def _embeddings(store: Store, record: Record, jobs: Sequence[Job]) -> EmbeddingSets | None:
    arrays = _arrays(store, record)
    names = [f"embedding/{name}" for name in ("train", "augmented", "test")]
    if not all(name in arrays and np.isfinite(arrays[name]).all() for name in names):
        return None  # not in this folder, or too large for the half precision they are kept in
    (name,) = record.config["tests"]
    labels = problem_of(next(job for job in jobs if job.key == record.key)).tests[name].labels
    train, augmented, test = (arrays[name] for name in names)
    return EmbeddingSets(train, augmented, test[labels == 0], test[labels == 1])


def _arrays(store: Store, record: Record) -> Mapping[str, Any]:
    """None where the line of the job came from elsewhere, without them."""
    try:
        return store.arrays(record.key)
    except InputError:
        return {}
