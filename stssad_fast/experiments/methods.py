"""The columns of the paper's tables: what is fitted in one job, and what it leaves."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from stssad_fast.baselines import AutoEncoder, DeepSVDD, FrozenFeatures
from stssad_fast.detectors import efficientnet_lite0
from stssad_fast.errors import Diverged
from stssad_fast.estimator import AUGMENTATIONS, STSSAD
from stssad_fast.experiments import problems
from stssad_fast.experiments.paper import OURS as OURS
from stssad_fast.experiments.problems import Problem
from stssad_fast.outliers import OutlierScores

Arrays = dict[str, NDArray[Any]]
Values = dict[str, Any]

KEPT = 200
"""Pictures of each kind whose embeddings a tuned job keeps, for the figures."""


@dataclass(frozen=True)
class Method:
    """A column of the tables.

    Attributes:
        kind: "tuned": fitted on the test set of one task, from one start; all others see the
            training set alone, so that one fit serves every task.
        parameters: of :class:`STSSAD`, or of the baseline's estimator.
    """

    kind: Literal["tuned", "random", "autoencoder", "deep_svdd", "frozen"]
    parameters: dict[str, Any] = field(default_factory=dict)


_RANDOM = {"RS": "random_static", "RD": "random_dynamic"}
_AUGMENTATIONS = {"CO": "cutout", "CP": "cutpaste", "CD": "cutdiff", "RO": "rotation"}

METHODS: dict[str, Method] = {
    "AE": Method("autoencoder"),
    "DeepSVDD": Method("deep_svdd"),
    "frozen": Method("frozen"),
    **{
        f"{draw}-{name}": Method("random", {"augmentation": augmentation, "strategy": strategy})
        for name, augmentation in _AUGMENTATIONS.items()
        for draw, strategy in _RANDOM.items()
    },
    OURS: Method("tuned"),
    "ST-SSAD-C": Method("tuned", {"validation_distance": "centroid"}),
    "MMD1": Method("tuned", {"validation_distance": "mmd"}),
    "MMD2": Method("tuned", {"validation_distance": "mmd_raw"}),
    "FO": Method("tuned", {"strategy": "first_order"}),
    "untuned": Method("tuned", {"hyper_learning_rate": 1e-30}),  # stays at its starts
}


BACKBONES: dict[str, Callable[[], nn.Module]] = {"efficientnet_lite0": efficientnet_lite0}
"""Pretrained networks by the name that a job's configuration holds."""


def starts(parameters: Mapping[str, Any]) -> list[dict[str, float]]:
    """Starting points of a tuned method."""
    given = parameters.get("starts")
    return list(given or AUGMENTATIONS[parameters["augmentation"]].starts())


def work(config: Mapping[str, Any], sources: Mapping[str, str]) -> tuple[Values, Arrays]:
    """Do one job: read its pictures, fit, and score every test set.

    Args:
        config: ``data`` (reader, options, digest), ``tests``, ``method``, ``parameters``, ``seed``,
            and ``start`` for a tuned method.
        sources: ``data``: where the pictures are.

    Returns:
        per test set its AUC and, for a start, the criteria of selection; hyperparameters and
        losses. Arrays: the scores of every test picture, history and embeddings of a start. Of a
        detector that diverged :func:`diverged`.

    Raises:
        InputError: the pictures are missing or others than when the job was planned.
    """
    problem = problems.read_planned(config["data"], sources["data"])
    method = METHODS[config["method"]]
    try:
        if method.kind == "tuned":
            return _tuned(config, problem)
        scores = _scores(config, method, problem)
    except Diverged:
        return diverged(config["tests"]), {}
    values = {name: {"auc": _auc(problem, name, found)} for name, found in scores.items()}
    return {"tests": values}, {f"scores/{k}": v.astype(np.float32) for k, v in scores.items()}


def diverged(tests: Iterable[str]) -> Values:
    """Values of a job whose detector cannot score: ``stopped``, and no AUC on any test set."""
    return {"tests": {name: {"auc": None} for name in tests}, "stopped": "diverged"}


def scored(model: OutlierScores, images: Tensor) -> NDArray[np.float64]:
    """Anomaly scores (M,) of test pictures.

    Raises:
        Diverged: they are not finite.
    """
    scores = model.anomaly_scores(images)
    if not np.isfinite(scores).all():
        raise Diverged("the scores of test pictures are not finite; lower the learning rate")
    return scores


def _auc(problem: Problem, name: str, scores: NDArray[np.float64]) -> float:
    return float(roc_auc_score(problem.tests[name].labels, scores))


def _scores(
    config: Mapping[str, Any], method: Method, problem: Problem
) -> dict[str, NDArray[np.float64]]:
    parameters, seed = _resolved(config, problem), config["seed"]
    model: Any
    if method.kind == "random":
        # As many steps of training as a tuned method has, all but one of them without a validation
        # loss; that of the last is of training pictures, so that no test picture is seen.
        updates = parameters.pop("updates", 1)
        steps = parameters.pop("warm_up") + parameters.pop("iterations") * updates
        model = STSSAD(**parameters, warm_up=steps - 1, iterations=1, random_state=seed)
        model.fit(problem.train, problem.train)
    elif method.kind == "frozen":
        model = FrozenFeatures(**parameters).fit(problem.train)
    else:
        kind = {"autoencoder": AutoEncoder, "deep_svdd": DeepSVDD}[method.kind]
        model = kind(**parameters, random_state=seed).fit(problem.train)
    return {name: scored(model, problem.tests[name].images) for name in config["tests"]}


def _tuned(config: Mapping[str, Any], problem: Problem) -> tuple[Values, Arrays]:
    (name,) = config["tests"]
    test = problem.tests[name]
    parameters = {**_resolved(config, problem), "starts": [config["start"]]}
    model = STSSAD(**parameters, random_state=config["seed"])
    model.fit(problem.train, test.images)
    start = model.starts_[0]
    scores = np.array(start["scores"])
    kept = ("initial", "final", "iteration", "stopped", "train_loss", "validation_loss")
    values = {key: start[key] for key in kept}
    criteria = {key: start[key] for key in ("score_variance", "score_shift")}
    values["tests"] = {name: {"auc": _auc(problem, name, scores), **criteria}}
    normal = problem.train[:KEPT]
    generator = torch.Generator().manual_seed(config["seed"])
    with torch.no_grad():
        augmented = model.augmentation_.cpu()(normal, generator=generator)
    embeddings = {"train": normal, "augmented": augmented, "test": test.images}
    return values, {
        f"scores/{name}": scores.astype(np.float32),
        **{f"history/{k}": np.array(v, np.float32) for k, v in start["history"].items()},
        **{f"embedding/{k}": model.embed(v).astype(np.float16) for k, v in embeddings.items()},
    }


def _resolved(config: Mapping[str, Any], problem: Problem) -> dict[str, Any]:
    """Parameters as the estimator takes them: a network for its name, steps for epochs."""
    parameters = dict(config["parameters"])
    if name := parameters.pop("backbone", None):
        parameters["backbone"] = BACKBONES[name]()
    if epochs := parameters.pop("warm_up_epochs", None):
        parameters["warm_up"] = epochs * math.ceil(len(problem.train) / parameters["batch_size"])
    return parameters
