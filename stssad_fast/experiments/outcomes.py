"""From the jobs of a run to single AUCs: the starts of one fit, and the choice among them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from stssad_fast.experiments.methods import METHODS, OURS
from stssad_fast.experiments.scores import CHANCE, Score
from stssad_fast.experiments.store import Record
from stssad_fast.tuning import ensemble
from stssad_fast.tuning.selection import Rule, criterion

RULES: dict[str, Rule] = {
    "chosen by shift": "score_shift",
    "chosen by S": "score_variance",
    "chosen by loss": "loss",
}

Judge = Callable[["Fit"], float | None]
"""AUC of a fit, None if it cannot be told."""


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
        judged = [(_criterion(record, rule), record) for record in self.records]
        found = [(value, record) for value, record in judged if value is not None]
        return max(found, key=lambda pair: pair[0], default=(None, None))[1]

    def aucs(self) -> list[float]:
        """AUC of every start."""
        return [auc_of(measured(record)) for record in self.records]


def measured(record: Record) -> dict[str, Any]:
    """What a job that knows one test set came to on it."""
    assert record.values is not None
    (found,) = record.values["tests"].values()
    assert isinstance(found, dict)
    return found


def _criterion(record: Record, rule: Rule) -> float | None:
    return criterion({**(record.values or {}), **measured(record)}, rule)


def auc_of(found: Mapping[str, Any]) -> float:
    """AUC on a test set, from what a job came to there; :data:`CHANCE` if it diverged."""
    return CHANCE if found["auc"] is None else float(found["auc"])


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


def chosen_auc(fit: Fit, rule: Rule) -> float:
    """AUC of the start that the rule keeps; :data:`CHANCE` if all diverged."""
    chosen = fit.chosen(rule)
    return CHANCE if chosen is None else auc_of(measured(chosen))


def ensemble_auc(fit: Fit, scores: Sequence[NDArray[Any]], labels: NDArray[np.int64]) -> float:
    """AUC of all starts together (:mod:`stssad_fast.tuning.ensemble`).

    Args:
        fit: with starts that did not all diverge.
        scores: of the test pictures, by each start that did not diverge.
        labels: of the same, 0 normal and 1 anomalous.
    """
    found = [measured(record) | {"scores": measured(record)["auc"]} for record in fit.records]
    together = ensemble.combine(scores, scores, ensemble.weights(found))
    return float(roc_auc_score(labels, together))


def scores(records: Sequence[Record], starts: int, judge: Judge) -> list[Score]:
    """The AUC of every task, method and seed that is complete; of a tuned one, the judge's."""
    found = list(_untuned(records))
    for fit in fits(records, starts):
        auc = judge(fit)
        if auc is not None:
            found.append(Score(fit.task, fit.method, fit.seed, auc))
    return found


def ablation(records: Sequence[Record], starts: int, together: Judge) -> list[Score]:
    """Of our method: every rule, all starts together, their mean AUC, and that of the best.

    The best start needs labels: it is what a perfect choice would reach.

    Args:
        records, starts: as for :func:`fits`.
        together: AUC of all starts together.
    """
    found = []
    for fit in fits(records, starts):
        if fit.method != OURS:
            continue
        for name, rule in RULES.items():
            found.append(Score(fit.task, name, fit.seed, chosen_auc(fit, rule)))
        if (auc := together(fit)) is not None:
            found.append(Score(fit.task, "all together", fit.seed, auc))
        found.append(Score(fit.task, "mean of starts", fit.seed, float(np.mean(fit.aucs()))))
        found.append(Score(fit.task, "best start", fit.seed, max(fit.aucs())))
    return found


def _untuned(records: Iterable[Record]) -> Iterator[Score]:
    for record in records:
        if METHODS[record.config["method"]].kind == "tuned" or record.values is None:
            continue
        for name, task in record.config["tasks"].items():
            auc = auc_of(record.values["tests"][name])
            yield Score(task, record.config["method"], record.config["seed"], auc)
