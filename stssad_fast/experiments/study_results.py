"""From the jobs of the study to AUCs, and to what an augmentation is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stssad_fast.augment import catalogue
from stssad_fast.augment.catalogue import Named
from stssad_fast.experiments.outcomes import auc_of
from stssad_fast.experiments.relative import Relative, relative
from stssad_fast.experiments.store import Record
from stssad_fast.experiments.study import DETECTORS, hyperparameters
from stssad_fast.experiments.testbeds import GENERATORS, IDENTITY, SEMANTIC

VANILLA = str(IDENTITY)


@dataclass(frozen=True)
class Result:
    """What a detector came to on one task with one seed.

    Attributes:
        detector: "DAE", "DeepSAD" or "AP".
        augmentation: as :class:`catalogue.Named` is written; "identity" for the vanilla one.
        generator: what made the anomalies; "semantic" where they are of another class.
        normal: number of the normal class.
        test, task: name of the test set in its job, and in tables.
        seed: of the job.
        hyperparameters: as text, where the job tries others than the preset's (Obs. 2); else "".
        values: what the job found on this test set.
        record: the job.
    """

    detector: str
    augmentation: str
    generator: str
    normal: int
    test: str
    task: str
    seed: int
    hyperparameters: str
    values: Mapping[str, Any]
    record: Record

    @property
    def auc(self) -> float:
        """Area under the ROC curve, in [0, 1]; :data:`CHANCE` if the detector diverged."""
        return auc_of(self.values)

    @property
    def diverged(self) -> bool:
        """Whether the detector did; then ``values`` has nothing else, and the job no arrays."""
        return self.values["auc"] is None


def results(records: Iterable[Record]) -> list[Result]:
    """Every task of every detector that is done."""
    return [
        Result(
            record.config["detector"],
            record.config["augmentation"],
            generator(record, test),
            record.config["data"]["options"]["normal"],
            test,
            task,
            record.config["seed"],
            hyperparameters(record.config),
            record.values["tests"][test],
            record,
        )
        for record in records
        if "detector" in record.config and record.values is not None
        for test, task in record.config["tasks"].items()
    ]


def generator(record: Record, test: str) -> str:
    """What made the anomalies of a job's test set."""
    return test if test in record.config["data"]["options"]["generators"] else SEMANTIC


def generators(found: Iterable[Result]) -> list[str]:
    """Generators of the results, those of the study first and "semantic" last."""
    known = dict.fromkeys(result.generator for result in found)
    order = [*GENERATORS, *(g for g in known if g not in (*GENERATORS, SEMANTIC)), SEMANTIC]
    return [name for name in order if name in known]


def augmentations(found: Iterable[Result]) -> list[str]:
    """Augmentations of the results, in the order of the catalogue; the identity last."""
    names = list(catalogue.TITLES)
    known = {result.augmentation for result in found}
    place = {a: (a == VANILLA, names.index(Named.parse(a).name), a) for a in known}
    return sorted(known, key=place.__getitem__)


def detectors(found: Iterable[Result]) -> list[str]:
    """Detectors of the results, in the order of the study."""
    known = {result.detector for result in found}
    return [name for name in DETECTORS if name in known]


def task_means(
    found: Iterable[Result], detector: str, augmentation: str, generator: str
) -> dict[str, float]:
    """AUC of every task, the mean over its seeds."""
    groups: dict[str, list[float]] = {}
    for result in found:
        key = (result.detector, result.augmentation, result.generator)
        if key == (detector, augmentation, generator):
            groups.setdefault(result.task, []).append(result.auc)
    return {task: float(np.mean(aucs)) for task, aucs in groups.items()}


def common(found: Sequence[Result]) -> list[Result]:
    """Of one detector's results, those on a task with a seed that all its augmentations have."""
    runs: dict[str, set[tuple[str, int]]] = {}
    for result in found:
        runs.setdefault(result.augmentation, set()).add((result.task, result.seed))
    shared = set.intersection(*runs.values()) if runs else set()
    return [result for result in found if (result.task, result.seed) in shared]


def gains(
    found: Iterable[Result], detector: str, augmentation: str, kind: str, over: str = VANILLA
) -> dict[str, float]:
    """AUC of every task minus that of the augmentation ``over``, means over the seeds of both."""
    names = (augmentation, over)
    both = common([r for r in found if r.detector == detector and r.augmentation in names])
    before = task_means(both, detector, over, kind)
    after = task_means(both, detector, augmentation, kind)
    return {task: after[task] - before[task] for task in before if task in after}


@dataclass(frozen=True)
class Mean:
    """Mean AUC over tasks, and how many runs it is of: tasks and seeds, of those of its column."""

    auc: float
    runs: int
    expected: int


def table(found: Sequence[Result]) -> dict[tuple[str, str, str], Mean]:
    """Table 1: by (augmentation, detector, generator), the mean over the tasks that are done."""
    runs: dict[tuple[str, str], dict[str, set[tuple[str, int]]]] = {}
    for r in found:
        column = runs.setdefault((r.detector, r.generator), {})
        column.setdefault(r.augmentation, set()).add((r.task, r.seed))
    cells: dict[tuple[str, str, str], Mean] = {}
    for (detector, kind), column in runs.items():
        expected = len(set().union(*column.values()))
        for augmentation, own in column.items():
            means = task_means(found, detector, augmentation, kind)
            mean = float(np.mean(list(means.values())))
            cells[augmentation, detector, kind] = Mean(mean, len(own), expected)
    return cells


def relatives(found: Sequence[Result], detector: str, kind: str) -> dict[str, Relative]:
    """Every augmentation against the vanilla detector, on the tasks and seeds that both have.

    A task counts once: what is compared are means over seeds. Empty without a vanilla form.

    Args:
        found: results.
        detector: of the results.
        kind: a generator of the results.
    """
    compared = {}
    for augmentation in augmentations(found):
        differences = list(gains(found, detector, augmentation, kind).values())
        if differences and augmentation != VANILLA:
            compared[augmentation] = relative(differences)
    return compared


def distance_table(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Table 2: MMD by augmentation and generator, mean over classes and tasks."""
    groups: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if "encoder" not in record.config or record.values is None:
            continue
        for augmentation, tests in record.values["mmd"].items():
            for test, value in tests.items():
                kinds = groups.setdefault(augmentation, {})
                kinds.setdefault(generator(record, test), []).append(value)
    return {
        augmentation: {kind: float(np.mean(values)) for kind, values in kinds.items()}
        for augmentation, kinds in groups.items()
    }
