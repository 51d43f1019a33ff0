"""What the methods of an experiment share: their settings, small ones and the paper's."""

import json
from collections.abc import Mapping
from typing import Any

from stssad_fast.errors import InputError
from stssad_fast.estimator import STSSAD

Settings = Mapping[str, Any]

# Written out, so that the key of a job tells what was fitted. Other defaults of the estimators are
# not in it: whoever changes one raises jobs.FORMAT, as a test in test_plans.py reminds.
_DETECTOR: dict[str, Any] = {
    "depth": 10,
    "width": 8,
    "batch_size": 32,
    "warm_up": 60,
    "iterations": 120,
    "updates": 3,
    "learning_rate": 0.02,
    "momentum": 0.9,
    "label_smoothing": 0.0,
    "unit_embedding": True,
}
_TUNING: dict[str, Any] = {
    "hyper_optimizer": "adam",
    "hyper_learning_rate": 0.05,
    "hyper_schedule": "constant",
    "parametrization": "log",
    "validation_norm": "joint",
    "smoothing": 0.9,
}
# In a job's key if they are not the default.
_IF_GIVEN = ("starts", "validation_distance", "jitter", "iterate_selection")
_BASELINE: dict[str, Any] = {"width": 8, "epochs": 60, "batch_size": 32}

# Appendix C.2. Warm-up there is in epochs, which a job turns into steps. The rows of Z are those of
# the network (3.1). The paper prints no step size for the augmentation: docs/results.md.
_PAPER = {
    "depth": 18,
    "width": 64,
    "unit_embedding": False,
    "parametrization": "cholesky",
    "hyper_optimizer": "sgd",
}
_PAPER_DEFECTS = {"batch_size": 32, "warm_up_epochs": 20, "updates": 1, "iterations": 500}
_PAPER_SEMANTIC = {
    "batch_size": 256,
    "warm_up_epochs": 40,
    "updates": 5,
    "iterations": 100,
    "hyper_learning_rate": 2.0,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "defects": {"small": {}, "paper": {**_PAPER, **_PAPER_DEFECTS}},
    "demonstrative": {"small": {}, "paper": {**_PAPER, **_PAPER_DEFECTS}},
    "semantic": {"small": {"width": 4}, "paper": {**_PAPER, **_PAPER_SEMANTIC}},
}
"""By experiment: "small", for a CPU, and "paper"."""

PICTURES: dict[str, dict[str, dict[str, int]]] = {
    "defects": {
        "small": {"image_size": 64, "channels": 1},
        "paper": {"image_size": 256, "channels": 3},
    },
    "demonstrative": {
        "small": {"image_size": 64, "train_limit": 400, "test_limit": 100},
        "paper": {"image_size": 256, "train_limit": 200, "test_limit": 40},
    },
    "semantic": {
        "small": {"image_size": 16, "train_limit": 500, "test_limit": 200},
        "paper": {"image_size": 32, "train_limit": 10**6, "test_limit": 10**6},
    },
}
"""What is read, by experiment and preset. MVTec AD has 280 good pictures of Carpet to train on; a
million are all of SVHN."""

AUGMENTATION = {"defects": "cutdiff", "demonstrative": "cutdiff", "semantic": "rotation"}

KNOWN = {*_DETECTOR, *_TUNING, *_IF_GIVEN, "warm_up_epochs"}
"""Parameters that experiments set: those of :class:`STSSAD`, and the warm-up in epochs."""


def parameters(
    experiment: str, preset: str, given: Settings, backbone: str | None = None
) -> dict[str, dict[str, Any]]:
    """Parameters by kind of method, for :func:`plans.plan`.

    Args:
        experiment: name of a preset's group.
        preset: "small" or "paper".
        given: parameters of :class:`STSSAD` that replace those of the preset.
        backbone: name of a pretrained network (:data:`methods.BACKBONES`) that takes the place of
            the ResNet.

    Raises:
        InputError: a parameter is not of :data:`KNOWN`, given in two ways, or out of range.
    """
    if unknown := sorted(set(given) - KNOWN):
        raise InputError(
            f"experiments do not set {unknown[0]}; expected one of {', '.join(sorted(KNOWN))}"
        )
    if {"warm_up", "warm_up_epochs"} <= set(given):
        raise InputError("warm_up and warm_up_epochs are both given; leave one out")
    merged = {**_DETECTOR, **_TUNING, **PRESETS[experiment][preset], **given}
    if "warm_up_epochs" in merged:
        del merged["warm_up_epochs" if "warm_up" in given else "warm_up"]
    detector = {k: v for k, v in merged.items() if k in _DETECTOR or k == "warm_up_epochs"}
    tuning = {k: v for k, v in merged.items() if k in _TUNING or k in _IF_GIVEN}
    if backbone is not None:
        for name in ("depth", "width"):
            del detector[name]
        detector["backbone"] = backbone
    baseline = {**_BASELINE, "width": merged["width"]}
    tuned = {**detector, **tuning, "augmentation": AUGMENTATION[experiment]}
    check(tuned)
    return {
        "tuned": tuned,
        "random": detector,
        "autoencoder": baseline,
        "deep_svdd": {**baseline, "width": min(merged["width"], 32)},  # 32 is the published one
        "frozen": {"backbone": backbone or "efficientnet_lite0"},
    }


def check(tuned: Settings) -> None:
    """Raise InputError for parameters of which every job would fail."""
    own = {k: v for k, v in tuned.items() if k not in ("warm_up_epochs", "backbone")}
    epochs = tuned.get("warm_up_epochs", 1)
    if type(epochs) is not int or not 1 <= epochs <= 10**6:
        raise InputError(f"warm_up_epochs is {epochs!r}; expected a whole number in [1, 10^6]")
    try:
        STSSAD(**own, device="cpu").check_parameters()
        json.dumps(own, allow_nan=False)  # a key has no NaN
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error
