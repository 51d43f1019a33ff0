"""A job of an experiment, and what it came to."""

from __future__ import annotations

import hashlib
import json
import platform
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from stssad_fast.devices import versions
from stssad_fast.errors import InputError

JSON: TypeAlias = Any
"""None, bool, int, finite float, str, and lists and dicts (with str as keys) of these."""

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Work: TypeAlias = Callable[[dict[str, JSON], dict[str, str]], tuple[dict[str, JSON], Arrays]]
"""What computes a job: (config, sources) -> (values, arrays).

A function of a module that other processes can import. It sets its random seeds itself, from
``config``: several jobs may run in one process, one after another.
"""

FORMAT = "stssad_fast job 1"
"""Part of every key: raise it when the same configuration comes to mean something else."""


@dataclass(frozen=True)
class Job:
    """One of the independent parts of an experiment.

    Attributes:
        config: everything that the result depends on, but for the machine. 1 and 1.0 differ.
        label: for people, e.g. "blowhole · ST-SSAD · size 0.01 · seed 0".
        group: jobs of one group, e.g. a method, take about as long as each other.
        sources: what depends on the machine, such as the folders of data sets; not in the key.
    """

    config: dict[str, JSON]
    label: str
    group: str
    sources: dict[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """32 hex digits that stand for ``config``.

        Raises:
            TypeError, ValueError: ``config`` is no JSON, or holds NaN or infinity.
        """
        text = json.dumps([FORMAT, self.config], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Outcome:
    """What a job came to.

    Attributes:
        values: its results, JSON; None if it failed.
        arrays: results for which JSON is no place.
        reason: why it failed; None if it did not.
        seconds: that it took.
        about: versions and device of what computed it.
    """

    values: dict[str, JSON] | None = None
    arrays: Arrays = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0
    about: dict[str, JSON] = field(default_factory=dict)


Event: TypeAlias = tuple[Job, Outcome | None] | None
"""A job has begun (outcome None) or ended; None: nothing happened for a fraction of a second."""

Executor: TypeAlias = Callable[[Work, Sequence[Job]], Generator[Event, None, None]]
"""Runs each job once and tells when it begins and ends. Closed, it ends all."""


def attempt(work: Work, job: Job, threads: int) -> Outcome:
    """Run a job in this process; whatever exception it raises becomes the reason of its failure.

    Args:
        threads: of torch, while the job runs and after.
    """
    torch.set_num_threads(threads)
    began = time.perf_counter()
    try:
        values, arrays = _checked(*work(job.config, job.sources))
        outcome = Outcome(values, arrays)
    except Exception as error:
        outcome = Outcome(reason=_reason(error))
    return replace(outcome, seconds=time.perf_counter() - began, about=_about(threads))


def _checked(values: JSON, arrays: Arrays) -> tuple[dict[str, JSON], Arrays]:
    """Both as a store gives them back."""
    if not isinstance(values, dict):
        raise InputError(f"the job's values are a {type(values).__name__}; expected a dict")
    try:
        kept: dict[str, JSON] = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the job's values cannot be kept as JSON ({error}); expected text, finite numbers, "
            "lists and dicts of Python, and None where there is no number"
        ) from error
    given = {name: np.asarray(array) for name, array in arrays.items()}
    if objects := [name for name, array in given.items() if array.dtype.hasobject]:
        raise InputError(f"the job's array {objects[0]} holds objects; expected numbers or text")
    return kept, given


def _reason(error: Exception) -> str:
    """The message, and where it comes from unless it is meant for users; no path of the machine."""
    if isinstance(error, InputError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = ", ".join(f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in frames)
    return f"{type(error).__name__}: {error} ({where})"


def _about(threads: int) -> dict[str, JSON]:
    return {
        **versions(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
    }
