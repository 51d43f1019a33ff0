"""From the jobs of a run to single AUCs: the starts of one fit, and the choice among them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stssad_fast.experiments.methods import METHODS, OURS
from stssad_fast.experiments.scores import Score
from stssad_fast.experiments.store import Record

Rule = Literal["score_shift", "score_variance"]
RULES: dict[str, Rule] = {"shift": "score_shift", "S": "score_variance"}


@dataclass(frozen=True)
class Fit:
    """One fit of a tuned method: all its starts, on one task with one seed.

    Attributes:
        task, method, seed: which.
        records: one per start, those that diverged included.
    """

    task: str
    method: str
    seed: int
    records: list[Record]

    def chosen(self, rule: Rule) -> Record | None:
        """The start that the rule keeps; None if every start diverged."""
        found = [record for record in self.records if measured(record).get(rule) is not None]
        return max(found, key=lambda record: float(measured(record)[rule]), default=None)

    def aucs(self) -> list[float]:
        """AUC of every start that did not diverge."""
        found = (measured(record)["auc"] for record in self.records)
        return [float(auc) for auc in found if auc is not None]


def measured(record: Record) -> dict[str, Any]:
    """What a job that knows one test set came to on it."""
    assert record.values is not None
    (found,) = record.values["tests"].values()
    assert isinstance(found, dict)
    return found


def fits(records: Iterable[Record], starts: int) -> list[Fit]:
    """The fits all of whose starts are done.

    Args:
        records: jobs that are done.
        starts: how many starts a fit has.
    """
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        if METHODS[record.config["method"]].kind == "tuned":
            (task,) = record.config["tasks"].values()
            key = task, record.config["method"], record.config["seed"]
            groups.setdefault(key, []).append(record)
    return [Fit(*key, found) for key, found in groups.items() if len(found) == starts]


def scores(records: Sequence[Record], starts: int, rule: Rule) -> list[Score]:
    """The AUC of every task, method and seed that is complete; of a tuned one, the chosen start's.

    A fit whose starts have all diverged tells nothing apart: its AUC is 0.5.
    """
    found = list(_untuned(records))
    for fit in fits(records, starts):
        chosen = fit.chosen(rule)
        auc = 0.5 if chosen is None else float(measured(chosen)["auc"])
        found.append(Score(fit.task, fit.method, fit.seed, auc))
    return found


def ablation(records: Sequence[Record], starts: int) -> list[Score]:
    """Of our method: the choice by either rule, the mean of all starts, and the best of them.

    The best start needs labels: it is what a perfect choice would reach.
    """
    found = []
    for fit in fits(records, starts):
        aucs = fit.aucs()
        if fit.method != OURS or not aucs:
            continue
        for name, rule in RULES.items():
            chosen = fit.chosen(rule)
            assert chosen is not None
            auc = float(measured(chosen)["auc"])
            found.append(Score(fit.task, f"chosen by {name}", fit.seed, auc))
        found.append(Score(fit.task, "mean of starts", fit.seed, float(np.mean(aucs))))
        found.append(Score(fit.task, "best start", fit.seed, max(aucs)))
    return found


def _untuned(records: Iterable[Record]) -> Iterator[Score]:
    for record in records:
        if METHODS[record.config["method"]].kind == "tuned" or record.values is None:
            continue
        for name, task in record.config["tasks"].items():
            auc = record.values["tests"][name]["auc"]
            yield Score(task, record.config["method"], record.config["seed"], auc)
