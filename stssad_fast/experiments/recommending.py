"""Recommendation as jobs, one for each candidate and seed; and how good it is, where labels are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from stssad_fast.augment.catalogue import Named
from stssad_fast.experiments import problems
from stssad_fast.experiments.jobs import Job
from stssad_fast.experiments.plans import Part, pictures
from stssad_fast.experiments.problems import Problem
from stssad_fast.experiments.store import Record
from stssad_fast.recommendation import PARAMETERS, Changing, Learned

Arrays = dict[str, NDArray[Any]]
Values = dict[str, Any]

KEPT = 200
"""Embeddings of each kind that a job keeps, for the figures."""

SHOWN = 6
"""Augmented pictures that it keeps."""

CLOSE = 0.03
"""A first choice whose AUC is so much below the best one's is as good."""


def folders(train: Path, test: Path, image_size: int, channels: int | None, on_error: str) -> Part:
    """A user's pictures: a folder of normal ones, and one to find anomalies in."""
    source = json.dumps([str(train), str(test)])
    options = {"image_size": image_size, "channels": channels or "auto", "on_error": on_error}
    return Part("folders", source, options, str)


def plan(
    parts: Sequence[Part],
    candidates: Sequence[Named],
    seeds: Sequence[int],
    parameters: Mapping[str, Any],
) -> list[Job]:
    """One job for each training set, candidate and seed, seeds outermost.

    Args:
        parts: what to read.
        candidates: to be compared.
        seeds: of every candidate.
        parameters: of the detectors, in place of :data:`PARAMETERS`.

    Raises:
        InputError: pictures cannot be read.
    """
    read = [(part, *pictures(part)) for part in parts]
    return [
        Job(
            {
                "data": data,
                "tasks": tasks,
                "candidate": str(candidate),
                "parameters": {**PARAMETERS, **parameters},
                "seed": seed,
            },
            f"{part.names('*') if len(tasks) > 1 else ''} · {candidate.title} · seed {seed}".lstrip(
                " ·"
            ),
            "candidate",
            {"data": part.source},
        )
        for seed in seeds
        for part, data, tasks in read
        for candidate in candidates
    ]


def work(config: Mapping[str, Any], sources: Mapping[str, str]) -> tuple[Values, Arrays]:
    """Do one job of :func:`plan`.

    Returns:
        per test set ``separation``, ``alignment`` and ``variance`` (:class:`Evidence`), and the AUC
        where labels are known. Arrays: what the figures show.

    Raises:
        InputError: the pictures are missing or others than when the job was planned.
    """
    problem = problems.read_planned(config["data"], sources["data"])
    candidate, seed = Named.parse(config["candidate"]), config["seed"]
    learned = Learned(problem.train, candidate, seed, config["parameters"])
    tests: dict[str, Values] = {}
    arrays = _shown(problem, candidate, seed)
    for name, task in problem.tests.items():
        found = learned.judge(task.images)
        tests[name] = {
            "separation": found.separation,
            "alignment": found.alignment,
            "variance": found.variance,
            "auc": None
            if len(np.unique(task.labels)) < 2
            else float(roc_auc_score(task.labels, learned.scores(task.images))),
        }
        arrays[f"test/{name}"] = found.test.astype(np.float32)
        arrays["held_out"] = found.held_out.astype(np.float32)
        if len(problem.tests) == 1:
            rows = {k: v[:KEPT].astype(np.float16) for k, v in found.embeddings.items()}
            arrays |= {f"embedding/{kind}": array for kind, array in rows.items()}
    return {"train_loss": learned.train_loss, "tests": tests}, arrays


def _shown(problem: Problem, candidate: Named, seed: int) -> Arrays:
    """A few training pictures and what the candidate makes of them, as bytes."""
    images = problem.train[:SHOWN]
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made = Changing(candidate)(images, generator=draws)
    return {
        name: np.round(array.clamp(0, 1).numpy() * 255).astype(np.uint8)
        for name, array in (("pictures", images), ("augmented", made))
    }


@dataclass(frozen=True)
class Ranked:
    """A candidate on one test set, over all seeds.

    Attributes:
        candidate: which.
        separations: of every seed; candidates are ranked by the mean.
        alignment, variance, train_loss: means over the seeds.
        auc: mean; None without labels.
        records: the jobs.
    """

    candidate: Named
    separations: tuple[float, ...]
    alignment: float
    variance: float
    train_loss: float
    auc: float | None
    records: tuple[Record, ...]

    @property
    def separation(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.separations))


def ranking(records: Sequence[Record], task: str) -> list[Ranked]:
    """Candidates by their mean separation on a task, the best first.

    Means are over the seeds that every candidate has or, where there is none, over those it has.

    Args:
        records: jobs of :func:`plan` that are done.
        task: its name, as a value of ``tasks``.
    """
    groups: dict[str, list[tuple[Record, Values]]] = {}
    for record in records:
        for test, name in record.config["tasks"].items():
            if name == task and record.values is not None:
                own = record.values["tests"][test]
                groups.setdefault(record.config["candidate"], []).append((record, own))
    seeds = [{record.config["seed"] for record, _ in found} for found in groups.values()]
    shared = set.intersection(*seeds) if seeds else set()
    ranked = []
    for text, done in groups.items():
        found = [(r, own) for r, own in done if not shared or r.config["seed"] in shared]
        values = [own for _, own in found]
        aucs = [own["auc"] for own in values if own["auc"] is not None]
        means = {k: float(np.mean([own[k] for own in values])) for k in ("alignment", "variance")}
        ranked.append(
            Ranked(
                Named.parse(text),
                tuple(own["separation"] for own in values),
                means["alignment"],
                means["variance"],
                float(np.mean([r.values["train_loss"] for r, _ in found if r.values])),
                float(np.mean(aucs)) if aucs else None,
                tuple(record for record, _ in found),
            )
        )
    return sorted(ranked, key=lambda row: -row.separation)


@dataclass(frozen=True)
class Agreement:
    """How well the ranking without labels agrees with the AUC on one task.

    Attributes:
        task: its name.
        correlation: Spearman's, of separation and AUC over the candidates; None if either is the
            same for all.
        chosen, best: AUC of the first choice, and the largest.
        first: the first choice.
    """

    task: str
    correlation: float | None
    chosen: float
    best: float
    first: Named

    @property
    def close(self) -> bool:
        """Whether the first choice is within :data:`CLOSE` of the best."""
        return self.best - self.chosen <= CLOSE


def agreements(records: Sequence[Record]) -> list[Agreement]:
    """One for every task with labels; each over the mean of the seeds."""
    tasks = dict.fromkeys(name for record in records for name in record.config["tasks"].values())
    found = []
    for task in tasks:
        rows = [row for row in ranking(records, task) if row.auc is not None]
        if len(rows) < 2:
            continue
        aucs = [float(row.auc) for row in rows if row.auc is not None]
        separations = [row.separation for row in rows]
        constant = np.ptp(aucs) == 0 or np.ptp(separations) == 0
        correlation = None if constant else float(spearmanr(separations, aucs).statistic)
        found.append(Agreement(task, correlation, aucs[0], max(aucs), rows[0].candidate))
    return found
