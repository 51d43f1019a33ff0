"""The study "Data Augmentation is a Hyperparameter" as jobs: pictures × detector × augmentation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, silhouette_score

from stssad_fast.augment.catalogue import Named
from stssad_fast.baselines import AugmentationPredictor, AutoEncoder, DeepSAD
from stssad_fast.errors import Diverged, InputError
from stssad_fast.experiments import problems, recommending
from stssad_fast.experiments.alignment import distances
from stssad_fast.experiments.jobs import Job
from stssad_fast.experiments.methods import BACKBONES, diverged, scored
from stssad_fast.experiments.plans import Part, pictures
from stssad_fast.experiments.problems import Problem, Task
from stssad_fast.experiments.testbeds import IDENTITY

Arrays = dict[str, NDArray[Any]]
Values = dict[str, Any]

KEPT = 100
"""Pictures of each kind (train, augmented; normal, anomalous) whose embeddings a job keeps."""

SHOWN = 4
"""Test pictures of each kind whose reconstructions a job keeps."""


@dataclass(frozen=True)
class Detector:
    """A detector of the study.

    Attributes:
        estimator: its class.
        vanilla: what it is called without an augmentation; None: it cannot do without.
    """

    estimator: type[AutoEncoder] | type[DeepSAD] | type[AugmentationPredictor]
    vanilla: str | None


DETECTORS: dict[str, Detector] = {
    "DAE": Detector(AutoEncoder, "AE"),
    "DeepSAD": Detector(DeepSAD, "DeepSVDD"),
    "AP": Detector(AugmentationPredictor, None),
}

# Written out, so that the key of a job tells what was fitted. Of AP, a picture is seen ``views``
# times in training, whatever the number of classes, ``views_per_batch`` of them in an update.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "DAE": {"width": 8, "hidden": 64, "epochs": 60, "batch_size": 32, "learning_rate": 5e-3},
        "DeepSAD": {
            "width": 8,
            "hidden": 32,
            "epochs": 60,
            "batch_size": 32,
            "learning_rate": 1e-3,
        },
        "AP": {
            "depth": 10,
            "widen": 1,
            "classes_per_picture": 8,
            "views": 40,
            "views_per_batch": 64,
            "learning_rate": 1e-3,
        },
    },
    "paper": {
        "DAE": {
            "width": 64,
            "hidden": 256,
            "epochs": 256,
            "batch_size": 1024,
            "learning_rate": 1e-3,
        },
        "DeepSAD": {
            "width": 32,
            "hidden": 128,
            "epochs": 150,
            "batch_size": 128,
            "learning_rate": 1e-4,
        },
        "AP": {
            "depth": 10,
            "widen": 4,
            "classes_per_picture": 8,
            "views": 200,
            "views_per_batch": 128,
            "learning_rate": 1e-3,
        },
    },
}
"""Parameters of each detector: "small", for a CPU, and "paper" (Appendix A and the code of the
detectors' authors)."""

HYPERPARAMETERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "small": {
        "epochs": (15, 30),
        "width": (16, 32),
        "weight_decay": (1e-5, 5e-5),
        "hidden": (16, 32),
    },
    "paper": {
        "epochs": (64, 128),
        "width": (128, 256),
        "weight_decay": (1e-5, 5e-5),
        "hidden": (64, 128),
    },
}
"""The 16 settings of DAE in Obs. 2, all combinations. "paper": as printed, its "number of features"
being that of the first block; "small": in the ratio of the two presets, weight decay alike."""


def hyperparameters(config: Mapping[str, Any]) -> str:
    """Those of :data:`HYPERPARAMETERS` in a job's configuration, as text.

    "" for a job with the preset's own, which names no weight decay.
    """
    own, names = config.get("parameters", {}), HYPERPARAMETERS["paper"]
    if not names.keys() <= own.keys():
        return ""
    return ", ".join(f"{name.replace('_', ' ')} {own[name]:g}" for name in names)


@dataclass(frozen=True)
class Comparison:
    """A part of the study: every detector with every augmentation on the pictures of some parts.

    Attributes:
        parts: what to read.
        detectors: keys of :data:`DETECTORS`.
        augmentations: what they are trained with; the identity is left out for one without a
            vanilla form.
        varied: values of parameters, of which every combination is trained in the place of
            the preset's; none: the preset's.
    """

    parts: Sequence[Part]
    detectors: Sequence[str]
    augmentations: Sequence[Named]
    varied: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def plan(
    comparisons: Sequence[Comparison],
    seeds: Sequence[int],
    parameters: Mapping[str, Mapping[str, Any]],
) -> list[Job]:
    """Every job of the comparisons once, seeds outermost.

    One job trains one detector and scores all test sets of its training pictures.

    Args:
        comparisons: may overlap.
        seeds: of every job.
        parameters: of each detector; see :data:`PRESETS`.

    Raises:
        InputError: pictures cannot be read, a detector is unknown, or there is nothing to do.
    """
    for name in (name for comparison in comparisons for name in comparison.detectors):
        if name not in DETECTORS:
            raise InputError(f"there is no detector {name}; choose from {', '.join(DETECTORS)}")
    read = [(c, [(part, *pictures(part)) for part in c.parts]) for c in comparisons]
    jobs: dict[str, Job] = {}
    for seed in seeds:
        for comparison, parts in read:
            for job in _of(comparison, parts, seed, parameters):
                jobs.setdefault(job.key, job)
    if not jobs:
        raise InputError(
            "there is nothing to do; name a class, a detector and an augmentation that the "
            "detector can be trained with (AP: one other than identity)"
        )
    return list(jobs.values())


def _of(
    comparison: Comparison,
    parts: Sequence[tuple[Part, dict[str, Any], dict[str, str]]],
    seed: int,
    parameters: Mapping[str, Mapping[str, Any]],
) -> Iterator[Job]:
    names, values = comparison.varied.keys(), comparison.varied.values()
    settings = [dict(zip(names, chosen, strict=True)) for chosen in product(*values)]
    every = product(settings, parts, comparison.augmentations, comparison.detectors)
    for setting, (part, data, tasks), augmentation, detector in every:
        if augmentation == IDENTITY and DETECTORS[detector].vanilla is None:
            continue
        config = {
            "data": data,
            "tasks": tasks,
            "detector": detector,
            "augmentation": str(augmentation),
            "parameters": _resolved({**parameters[detector], **setting}, augmentation),
            "seed": seed,
        }
        label = f"{part.names('*')} · {detector} · {augmentation.title} · seed {seed}"
        label += f" · {hyperparameters(config)}" if setting else ""
        yield Job(config, label, detector, {"data": part.source})


def _resolved(parameters: Mapping[str, Any], augmentation: Named) -> dict[str, Any]:
    """Parameters as the estimator takes them: epochs and pictures for views."""
    found = dict(parameters)
    if "views" in found:
        classes = min(augmentation.made().classes, found["classes_per_picture"])
        found["epochs"] = math.ceil(found.pop("views") / classes)
        found["batch_size"] = max(2, found.pop("views_per_batch") // classes)
    return found


def plan_distances(
    parts: Sequence[Part], augmentations: Sequence[Named], encoder: str, seed: int = 0
) -> list[Job]:
    """One job for each part: the MMD of all augmentations to all of its test sets (Table 2).

    Args:
        parts: what to read.
        augmentations: all of the table.
        encoder: a key of :data:`methods.BACKBONES`; another network in Python:
            :func:`alignment.distances`.
        seed: of the samples.

    Raises:
        InputError: pictures cannot be read, or the encoder is unknown.
    """
    if encoder not in BACKBONES:
        raise InputError(f"there is no encoder {encoder}; choose from {', '.join(BACKBONES)}")
    jobs = []
    for part in parts:
        data, tasks = pictures(part)
        config = {
            "data": data,
            "tasks": tasks,
            "encoder": encoder,
            "augmentations": [str(augmentation) for augmentation in augmentations],
            "seed": seed,
        }
        jobs.append(Job(config, f"{part.names('*')} · MMD", "MMD", {"data": part.source}))
    return jobs


def work(config: Mapping[str, Any], sources: Mapping[str, str]) -> tuple[Values, Arrays]:
    """Do one job of :func:`plan`, :func:`plan_distances` or :func:`recommending.plan`.

    Returns:
        of a detector, per test set: AUC, mean scores of normal and anomalous pictures, and the
        silhouette of their embeddings; mean scores of training pictures and of a fresh draw of
        augmented ones, the silhouette of both, and ``change``, how far the augmentation moves
        a picture (root mean square over pixels, mean over pictures). Arrays: scores of all of
        these pictures, labels, some embeddings, of a DAE some reconstructions. Of a detector that
        diverged :func:`methods.diverged`. Of an encoder: ``mmd`` by augmentation and test set.

    Raises:
        InputError: the pictures are missing or others than when the job was planned.
    """
    if "candidate" in config:
        return recommending.work(config, sources)
    problem = problems.read_planned(config["data"], sources["data"])
    if "encoder" in config:
        chosen = {text: Named.parse(text).made() for text in config["augmentations"]}
        encoder = BACKBONES[config["encoder"]]()
        return {"mmd": distances(problem, chosen, encoder, config["seed"])}, {}
    try:
        return _trained(config, problem)
    except Diverged:
        return diverged(problem.tests), {}


def _trained(config: Mapping[str, Any], problem: Problem) -> tuple[Values, Arrays]:
    chosen, seed = Named.parse(config["augmentation"]), config["seed"]
    model: Any = DETECTORS[config["detector"]].estimator(
        augmentation=chosen.name,
        augmentation_settings=dict(chosen.settings) or None,
        random_state=seed,
        **config["parameters"],
    )
    model.fit(problem.train)
    draws = torch.Generator().manual_seed(2**32 + seed)  # other pictures than in training
    with torch.no_grad():
        augmented = chosen.made()(problem.train, generator=draws)
    change = (augmented - problem.train).square().flatten(1).mean(1).sqrt().mean()
    arrays: Arrays = {}
    tests: dict[str, Values] = {}
    values: Values = {"change": float(change), "tests": tests}
    for name, images in (("train", problem.train), ("augmented", augmented)):
        scores = model.anomaly_scores(images)
        values[name] = float(scores.mean())
        arrays[f"scores/{name}"] = scores.astype(np.float32)
        arrays[f"embedding/{name}"] = model.embed(images[:KEPT]).astype(np.float16)
    values["silhouette"] = _silhouette(arrays["embedding/train"], arrays["embedding/augmented"])
    for name, task in problem.tests.items():
        tests[name], kept = _tested(model, task)
        arrays |= {f"{what}/test/{name}": array for what, array in kept.items()}
    return values, arrays


def _tested(model: Any, task: Task) -> tuple[Values, Arrays]:
    """What a detector comes to on one test set."""
    scores, labels = scored(model, task.images), task.labels
    normal, anomalous = (np.flatnonzero(labels == label)[:KEPT] for label in (0, 1))
    embedding = {
        "normal": model.embed(task.images[torch.from_numpy(normal)]).astype(np.float16),
        "anomalous": model.embed(task.images[torch.from_numpy(anomalous)]).astype(np.float16),
    }
    values: Values = {
        "auc": float(roc_auc_score(labels, scores)),
        "normal": float(scores[labels == 0].mean()),
        "anomalous": float(scores[labels == 1].mean()),
        "silhouette": _silhouette(embedding["normal"], embedding["anomalous"]),
    }
    arrays: Arrays = {"scores": scores.astype(np.float32), "labels": labels.astype(np.int8)}
    arrays |= {f"embedding/{kind}": array for kind, array in embedding.items()}
    if isinstance(model, AutoEncoder):
        rows = np.concatenate([normal[:SHOWN], anomalous[:SHOWN]])
        images = task.images[torch.from_numpy(rows)]
        arrays |= {"rows": rows, "shown": _bytes(images.numpy())}
        arrays["rebuilt"] = _bytes(model.reconstruct(images))
    return values, arrays


def _silhouette(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Mean silhouette of two groups of embeddings, in [-1, 1]; 0 and less: they are mixed."""
    if min(len(first), len(second)) < 2:
        return None
    rows = np.concatenate([first, second]).astype(np.float64)
    if not np.isfinite(rows).all():
        return None
    return float(silhouette_score(rows, np.repeat([0, 1], [len(first), len(second)])))


def _bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
