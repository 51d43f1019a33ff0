"""The paper's experiments as lists of jobs: task × method × start × seed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from stssad_fast.errors import InputError
from stssad_fast.experiments import problems, settings
from stssad_fast.experiments.jobs import Job
from stssad_fast.experiments.methods import METHODS, OURS, starts

SIZES = (0.01, 0.02, 0.04, 0.08, 0.16)
ASPECTS = (0.25, 0.5, 1.0, 2.0, 4.0)

DEFECTS = (
    *("AE", "DeepSVDD", "RS-CO", "RD-CO", "RS-CP", "RD-CP", "RS-CD", "RD-CD"),
    *(OURS, "MMD1", "MMD2", "FO"),
)
"""Columns of Table 1."""

SEMANTIC = ("AE", "DeepSVDD", "RS-RO", "RD-RO", OURS, "MMD1", "MMD2", "FO")
"""Columns of Table 2."""


@dataclass(frozen=True)
class Part:
    """The jobs that share a training set.

    Attributes:
        reader, source, options: of :func:`problems.read`.
        names: of the test sets, as the tables call them: test set to task.
    """

    reader: str
    source: str
    options: dict[str, Any]
    names: Callable[[str], str]


def defects(data: Sequence[str | Path], image_size: int, channels: int) -> list[Part]:
    """Table 1: every kind of defect of every category in the folders ``data``."""
    options = {"image_size": image_size, "channels": channels}
    return [
        Part("defects", str(folder), options, partial("{}/{}".format, _title(folder)))
        for folder in (category for root in data for category in problems.categories(root))
    ]


def _title(folder: Path) -> str:
    return problems.printable(folder.resolve().name)


def semantic(
    data: str, normal: Sequence[int], image_size: int, train_limit: int, test_limit: int
) -> list[Part]:
    """Table 2: each class of ``normal`` against every other one."""
    limits = {"train_limit": train_limit, "test_limit": test_limit}
    return [
        Part(
            "semantic",
            data,
            {"normal": digit, "image_size": image_size, **limits},
            f"{digit}/{{}}".format,
        )
        for digit in normal
    ]


def demonstrative(
    data: str,
    image_size: int,
    train_limit: int,
    test_limit: int,
    sizes: Sequence[float] = SIZES,
    aspects: Sequence[float] = ASPECTS,
) -> list[Part]:
    """Fig. 3: anomalies that CutDiff has made, of every size and aspect."""
    options = {
        "image_size": image_size,
        "train_limit": train_limit,
        "test_limit": test_limit,
        "sizes": list(sizes),
        "aspects": list(aspects),
    }
    return [Part("made", data, options, str)]


def plan(
    parts: Sequence[Part],
    methods: Sequence[str],
    seeds: Sequence[int],
    parameters: Mapping[str, Mapping[str, Any]],
    tasks: Sequence[str] | None = None,
) -> list[Job]:
    """Every job, seeds outermost, so that whatever has ended makes whole rows.

    Args:
        parts: what to read; all of it is read here, once.
        methods: columns.
        seeds: of every method.
        parameters: by kind of method (:class:`methods.Method`), what all of the kind share;
            "tuned" and "random" need an ``augmentation``.
        tasks: names of the tasks to do; None: all.

    Raises:
        InputError: pictures cannot be read, a method or task is unknown or planned twice, no task
            is chosen, or a method does not go with the parameters.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(
            f"there is no method {unknown[0]}; choose from {', '.join(METHODS)}",
        )
    for name in methods:
        if METHODS[name].kind == "tuned" and METHODS[name].parameters:
            try:
                settings.check({**parameters["tuned"], **METHODS[name].parameters})
            except InputError as error:
                raise InputError(
                    f"method {name} cannot be planned with these parameters: {error}"
                ) from error
    found = [(part, *pictures(part)) for part in parts]
    jobs = [
        job
        for seed, (part, data, tasks) in product(seeds, found)
        for job in _of(part, data, tasks, methods, seed, parameters)
    ]
    _check_distinct(jobs)
    if tasks is None:
        return jobs
    if not tasks:
        raise InputError("no task is chosen; name one, or leave --tasks out to do all")
    known = dict.fromkeys(name for job in jobs for name in job.config["tasks"].values())
    if missing := [name for name in tasks if name not in known]:
        raise InputError(f"there is no task {missing[0]}; choose from {', '.join(known)}")
    return [job for job in jobs if set(job.config["tasks"].values()) & set(tasks)]


def pictures(part: Part) -> tuple[dict[str, Any], dict[str, str]]:
    """What a job's configuration says of a part's pictures, and the task of every test set."""
    problem = problems.read(part.reader, part.source, part.options)
    data = {"reader": part.reader, "options": part.options, "digest": problem.digest()}
    return data, {test: part.names(test) for test in problem.tests}


def _of(
    part: Part,
    data: Mapping[str, Any],
    tasks: dict[str, str],
    methods: Sequence[str],
    seed: int,
    parameters: Mapping[str, Mapping[str, Any]],
) -> Iterator[Job]:
    for name in methods:
        method = METHODS[name]
        shared = {**parameters[method.kind], **method.parameters}
        config: dict[str, Any] = {"data": data, "method": name, "parameters": shared, "seed": seed}
        sources = {"data": part.source}
        if method.kind != "tuned":
            label = f"{part.names('*')} · {name} · seed {seed}"
            yield Job({**config, "tests": list(tasks), "tasks": tasks}, label, name, sources)
            continue
        for (test, task), start in product(tasks.items(), starts(shared)):
            where = ", ".join(f"{key} {value:g}" for key, value in start.items())
            own = {"tests": [test], "tasks": {test: task}, "start": start}
            label = f"{task} · {name} · {where} · seed {seed}"
            yield Job({**config, **own}, label, name, sources)


def _check_distinct(jobs: Sequence[Job]) -> None:
    """Refuse a plan of two jobs that would be one number of the table."""
    seen = set()
    for job in jobs:
        method, seed = job.config["method"], job.config["seed"]
        for task in job.config["tasks"].values():
            place = task, method, seed, str(job.config.get("start"))
            if place in seen:
                raise InputError(
                    f"{task} · {method} is planned twice; name every method, class and starting "
                    "point once, and give data sets whose folders have different names"
                )
            seen.add(place)
