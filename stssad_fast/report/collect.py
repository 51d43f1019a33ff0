"""From a fitted estimator and its pictures to the plain numbers that the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from stssad_fast.report.case import Array, ReportCase

PICTURES_PER_ROW = 8
EMBEDDINGS_PER_SET = 650  # three sets: below 2,000 points on one picture
SEED = 0


@dataclass(frozen=True)
class Start:
    """One start of the tuning, as the table and the trajectories show it."""

    number: int
    chosen: bool
    initial: dict[str, float]
    final: dict[str, float]
    train_loss: float
    validation_loss: float
    score_variance: float
    score_shift: float
    auc: float | None
    stopped: str
    iteration: int
    seconds: float
    history: dict[str, Array]


@dataclass(frozen=True)
class Facts:
    """Everything that one case of the report says.

    `scores` (M,) and `labels` (M,) cover the whole test set; `train_sample`, `augmented_sample` and
    `test_sample` are pictures; `points` maps "train", "augmented", "test" to (n, 2) projected
    embeddings, of which those of the test set belong to the test pictures `point_index`. `together`
    says that the scores are of all starts, not of the chosen one.
    """

    case: ReportCase
    starts: list[Start]
    chosen: Start
    scores: Array
    threshold: float
    labels: Array | None
    auc: float | None
    train_sample: Tensor
    augmented_sample: Tensor
    points: dict[str, Array]
    point_index: Array
    explained: tuple[float, float]
    kind_auc: list[tuple[str, int, float]] = field(default_factory=list)
    together: bool = False

    @property
    def hyperparameters(self) -> list[str]:
        """Names of the tuned hyperparameters, those that some start has a history of."""
        return [n for n in self.chosen.final if any(n in s.history for s in self.starts)]

    @property
    def both_classes(self) -> bool:
        """Whether the test set is known to hold normal and anomalous pictures."""
        return self.labels is not None and len(np.unique(self.labels)) == 2

    @property
    def seconds(self) -> float:
        """Time that all starts took together."""
        return float(np.nansum([start.seconds for start in self.starts]))


def area_under_roc(labels: Array | None, scores: Array) -> float | None:
    """Area under the ROC curve over the finite scores; None without both classes."""
    if labels is None or len(labels) != len(scores):
        return None
    finite = np.isfinite(scores)
    if len(np.unique(labels[finite])) < 2:
        return None
    return float(roc_auc_score(labels[finite], scores[finite]))


def collect(case: ReportCase) -> Facts:
    """Compute scores, embeddings and samples of a case.

    Raises:
        ValueError: `labels`, `kinds` or `names` do not match the test pictures, or a label is
            neither 0 nor 1.
    """
    _check(case)
    estimator = case.estimator
    labels = None if case.labels is None else np.asarray(case.labels).astype(int).ravel()
    scores = np.asarray(estimator.anomaly_scores(case.test_images), dtype=float).ravel()
    starts = [
        _start(i, raw, i == estimator.chosen_start_, labels)
        for i, raw in enumerate(estimator.starts_)
    ]
    rng = np.random.default_rng(SEED)
    train = case.train_images[_sample(len(case.train_images), EMBEDDINGS_PER_SET, rng)]
    point_index = _sample(len(case.test_images), EMBEDDINGS_PER_SET, rng)
    augmented = augment(estimator.augmentation_, train)
    embeddings = {
        "train": estimator.embed(train),
        "augmented": estimator.embed(augmented),
        "test": estimator.embed(case.test_images[point_index]),
    }
    points, explained = project(embeddings)
    return Facts(
        case=case,
        starts=starts,
        chosen=starts[estimator.chosen_start_],
        scores=scores,
        threshold=float(np.asarray(estimator.threshold_)),
        labels=labels,
        auc=area_under_roc(labels, scores),
        train_sample=train[:PICTURES_PER_ROW],
        augmented_sample=augmented[:PICTURES_PER_ROW],
        points=points,
        point_index=point_index,
        explained=explained,
        kind_auc=_auc_by_kind(case.kinds, labels, scores),
        together=bool(getattr(estimator, "members_", ())),
    )


def augment(augmentation: nn.Module, images: Tensor) -> Tensor:
    """The tuned augmentation on `images`, with the same random draws in every report."""
    state = [*augmentation.parameters(), *augmentation.buffers()]
    device = state[0].device if state else images.device
    generator = torch.Generator(device=device).manual_seed(SEED)
    with torch.no_grad():
        augmented: Tensor = augmentation(images.to(device), generator=generator)
    return augmented.to(images.device)


def _check(case: ReportCase) -> None:
    count = len(case.test_images)
    for what in ("labels", "kinds", "names"):
        values = getattr(case, what)
        if values is not None and len(values) != count:
            raise ValueError(f"{len(values)} {what} were given for {count} test pictures")
    if case.labels is not None and not np.isin(np.asarray(case.labels), (0, 1)).all():
        raise ValueError("labels must be 0 (normal) or 1 (anomalous)")


def _start(index: int, raw: Mapping[str, Any], chosen: bool, labels: Array | None) -> Start:
    history = {name: _numbers(values) for name, values in raw.get("history", {}).items()}
    length = max((len(values) for values in history.values()), default=0)
    history.setdefault("iteration", np.arange(length, dtype=float))
    scores = raw.get("scores")
    return Start(
        number=index + 1,
        chosen=chosen,
        initial={name: _number(value) for name, value in raw["initial"].items()},
        final={name: _number(value) for name, value in raw["final"].items()},
        train_loss=_number(raw.get("train_loss")),
        validation_loss=_number(raw.get("validation_loss")),
        score_variance=_number(raw.get("score_variance")),
        score_shift=_number(raw.get("score_shift")),
        auc=None if scores is None else area_under_roc(labels, _numbers(scores)),
        stopped=str(raw.get("stopped", "")),
        iteration=int(raw.get("iteration", 0)),
        seconds=_number(raw.get("seconds")),
        history={n: v for n, v in history.items() if len(v) == len(history["iteration"])},
    )


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _numbers(values: Any) -> Array:
    try:
        numbers = np.array([_number(value) for value in values])
    except (TypeError, ValueError):  # a history of something that is no number is not for plotting
        return np.empty(0)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _sample(count: int, at_most: int, rng: np.random.Generator) -> Array:
    return rng.permutation(count)[:at_most]


def project(embeddings: dict[str, Array]) -> tuple[dict[str, Array], tuple[float, float]]:
    """The two directions of largest variance of all rows together, and their shares of it."""
    stack = np.concatenate([np.asarray(rows, dtype=float) for rows in embeddings.values()])
    stack = stack.reshape(len(stack), -1)
    finite = np.isfinite(stack).all(axis=1)
    points = np.full((len(stack), 2), np.nan)
    points[finite] = 0.0
    shares = np.zeros(2)
    if finite.any() and np.ptp(stack[finite], axis=0).max() > 0:
        pca = PCA(n_components=min(2, int(finite.sum()), stack.shape[1]), random_state=SEED)
        found = pca.fit_transform(stack[finite])
        points[finite, : found.shape[1]] = found
        shares[: found.shape[1]] = pca.explained_variance_ratio_
    ends = np.cumsum([len(rows) for rows in embeddings.values()])[:-1]
    split = dict(zip(embeddings, np.split(points, ends), strict=True))
    return split, (float(shares[0]), float(shares[1]))


def _auc_by_kind(
    kinds: Sequence[str] | None, labels: Array | None, scores: Array
) -> list[tuple[str, int, float]]:
    """Each anomalous kind against all normal test pictures: (kind, pictures, AUC)."""
    if kinds is None or labels is None:
        return []
    names = np.asarray([str(kind) for kind in kinds])
    rows = []
    for kind in sorted(set(names[labels == 1])):
        chosen = (labels == 0) | ((labels == 1) & (names == kind))
        auc = area_under_roc(labels[chosen], scores[chosen])
        if auc is not None:
            rows.append((str(kind), int(((labels == 1) & (names == kind)).sum()), auc))
    return rows
