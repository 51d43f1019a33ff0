"""Records of jobs of the study that nobody ran, with AUCs as they are told."""

from stssad_fast.experiments.store import Record

GENERATORS = ("cutout", "flip", "invert")


def record(detector, augmentation, aucs, normal=0, seed=0, parameters=None, **more):
    """A job's line; ``aucs`` by test set: generators, or class numbers as text."""
    parameters = parameters or {}
    made = set(aucs) <= set(GENERATORS)
    tests = {
        name: {"auc": auc, "normal": 1.0, "anomalous": 2.0, "silhouette": 0.1}
        | more.get("tests", {})
        for name, auc in aucs.items()
    }
    values = {"tests": tests, "change": 0.0, "train": 1.0, "augmented": 1.0, "silhouette": 0.0}
    return Record(
        key=f"{detector} {augmentation} {normal} {seed} {made} {parameters}",
        config={
            "data": {
                "reader": "testbeds",
                "options": {"normal": normal, "generators": list(GENERATORS)},
                "digest": "",
            },
            "tasks": {test: f"{normal}{' ' if made else '/'}{test}" for test in aucs},
            "detector": detector,
            "augmentation": augmentation,
            "parameters": parameters,
            "seed": seed,
        },
        label="",
        group=detector,
        status="done",
        values=values | {k: v for k, v in more.items() if k != "tests"},
        reason=None,
        seconds=1.0,
        when="2026-05-01T00:00:00+00:00",
        about={},
    )
