"""The folder of an experiment: what its jobs came to, one line for each that has ended."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stssad_fast.checkpoint import leftovers, replacing, write_text
from stssad_fast.errors import InputError
from stssad_fast.experiments.jobs import JSON, Job, Outcome
from stssad_fast.folders import at_work, entries, lock

JOBS, PLAN, ARRAYS = "jobs.jsonl", "plan.json", "arrays"
BEGIN = '{"key": '  # of a line
_WRITTEN = (
    *(("", name) for name in (PLAN, "*.md", "*.csv", "*.html")),
    *((ARRAYS, "*.npz"), ("figures", "*.svg"), ("figures", "*.png")),
)
"""Where files lie that are written as a whole while the folder is claimed, and their names."""

PATIENCE = 1.0  # seconds to wait for who only looks whether the folder is in use


@dataclass(frozen=True)
class Record:
    """A line of jobs.jsonl: a job that has ended.

    Attributes:
        key, config, label, group: of the :class:`Job`.
        status: "done" or "failed".
        values: results, None if it failed.
        reason: why it failed, None if it did not.
        seconds: that it took.
        when: it ended, ISO 8601, UTC.
        about: versions and device of what computed it.
    """

    key: str
    config: dict[str, JSON]
    label: str
    group: str
    status: Literal["done", "failed"]
    values: dict[str, JSON] | None
    reason: str | None
    seconds: float
    when: str
    about: dict[str, JSON]


@dataclass(frozen=True)
class Planned:
    """A job as the plan names it: its key, its label and its group."""

    key: str
    label: str
    group: str


@dataclass(frozen=True)
class Plan:
    """What the latest run was to do, and with how many jobs side by side, None if nobody knew."""

    jobs: list[Planned] = field(default_factory=list)
    workers: int | None = None


def time_to_go(
    left: Iterable[tuple[str, float]], done: Iterable[Record], workers: int
) -> float | None:
    """Seconds until jobs are done that take as long as those of their group that are.

    Args:
        left: group of each job that is not done, and the seconds that it has been running.
        done: in a group without any, a job takes the mean of all.
        workers: jobs side by side.

    Returns:
        None if it cannot be told, as nothing is done.
    """
    seconds: dict[str, list[float]] = {}
    for record in done:
        seconds.setdefault(record.group, []).append(record.seconds)
    if not seconds:
        return None
    means = {group: fmean(each) for group, each in seconds.items()}
    overall = fmean(second for each in seconds.values() for second in each)
    rests = [max(0.0, means.get(group, overall) - running) for group, running in left]
    return max(sum(rests) / workers, *rests, 0.0)


class Store:
    """What is known of the jobs of an experiment.

    Anybody may read; who writes has the folder :meth:`claimed`. jobs.jsonl can be copied or
    committed without the folder of arrays: its jobs are done all the same.

    Args:
        folder: need not exist.

    Raises:
        InputError: jobs.jsonl is damaged elsewhere than at its end.

    Attributes:
        done: records of jobs that are done, by key.
        failed: records of jobs that have failed, when last tried, and are not done; by key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._load()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, and keep other processes from writing to it while the block runs.

        A line that a killed process did not finish is cut off; its job was not done. Other files
        that it did not finish are deleted.

        Raises:
            InputError: the folder cannot be written to, or another process has claimed it.
        """
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                deadline = time.monotonic() + PATIENCE
                while not lock(self.folder, stack):
                    if time.monotonic() > deadline:
                        raise at_work(self.folder)
                    time.sleep(0.05)
                (self.folder / ARRAYS).mkdir(exist_ok=True)
                for place, pattern in _WRITTEN:
                    for leftover in leftovers(self.folder / place, pattern):
                        leftover.unlink()
                self._mend()
            except OSError as error:
                raise InputError(
                    f"cannot write to {self.folder}: {error.strerror or error}; choose a folder "
                    "you may write to, on a disk with space left"
                ) from error
            self._load()
            yield

    @property
    def in_use(self) -> bool:
        """Whether a process has claimed the folder."""
        if not self.folder.is_dir():
            return False
        with ExitStack() as stack:
            return not lock(self.folder, stack)

    def add(self, job: Job, outcome: Outcome) -> Record:
        """Keep what a job came to: the arrays first, then the line, on the disk when this returns.

        Raises:
            InputError: the disk is full; what was kept before is unharmed.
        """
        record = Record(
            key=job.key,
            config=job.config,
            label=job.label,
            group=job.group,
            status="failed" if outcome.values is None else "done",
            values=outcome.values,
            reason=outcome.reason,
            seconds=round(outcome.seconds, 3),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            about=outcome.about,
        )
        if outcome.arrays:
            with replacing(self._arrays(job.key)) as temporary, temporary.open("wb") as file:
                np.savez(file, **outcome.arrays)  # type: ignore[arg-type]
        line = json.dumps(asdict(record), ensure_ascii=False, allow_nan=False) + "\n"
        path = self.folder / JOBS
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(line.encode(errors="backslashreplace"))  # which JSON reads back
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):  # else the next line would be glued to a part of this one
                os.truncate(path, size)
            raise InputError(
                f"cannot write {path}: {error.strerror}; what was there before is unharmed. Free "
                "some space and run again"
            ) from error
        self._note(record)
        return record

    def arrays(self, key: str) -> dict[str, NDArray[Any]]:
        """The arrays of a job that is done, none if it had none.

        Raises:
            InputError: they are not in this folder, or damaged.
        """
        path = self._arrays(key)
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return dict(arrays)
        except (OSError, ValueError, TypeError, EOFError, NotImplementedError, BadZipFile) as error:
            raise InputError(
                f"{path} cannot be read ({error}); delete the line of that key from {JOBS} and run "
                "again to make it anew"
            ) from error

    def others(self) -> list[str]:
        """Files of a folder that holds no run, if there are any."""
        begun = any((self.folder / name).exists() for name in (JOBS, PLAN))
        return [] if begun else entries(self.folder)

    def write_plan(self, jobs: Sequence[Job], workers: int | None) -> None:
        """Write plan.json, from which others learn what is left."""
        named = [Planned(job.key, job.label, job.group) for job in jobs]
        write_text(self.folder / PLAN, json.dumps(asdict(Plan(named, workers)), indent=1) + "\n")

    def plan(self) -> Plan:
        """Read plan.json; without it, the plan has no jobs.

        Raises:
            InputError: it is damaged.
        """
        path = self.folder / PLAN
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return Plan([Planned(**job) for job in values["jobs"]], values["workers"])
        except (FileNotFoundError, NotADirectoryError):
            return Plan()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{path} cannot be read ({error}); delete it and run again, which writes it anew"
            ) from error

    def _arrays(self, key: str) -> Path:
        return self.folder / ARRAYS / f"{key}.npz"

    def _load(self) -> None:
        self.done: dict[str, Record] = {}
        self.failed: dict[str, Record] = {}
        for record in self._read():
            self._note(record)

    def _note(self, record: Record) -> None:
        if record.status == "done":
            self.done[record.key] = record
            self.failed.pop(record.key, None)
        elif record.key not in self.done:
            self.failed[record.key] = record

    def _read(self) -> Iterator[Record]:
        path = self.folder / JOBS
        try:
            lines = path.read_bytes().split(b"\n")
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        for number, line in enumerate(lines, start=1):
            try:
                if line.strip():
                    yield _parsed(line)
            except (ValueError, TypeError, RecursionError) as error:
                if number == len(lines) and _torn(line):
                    return  # or being written; its job is not done
                raise InputError(
                    f"line {number} of {path} cannot be read ({error}); delete that line, and "
                    "run again to have its job done again"
                ) from error

    def _mend(self) -> None:
        path = self.folder / JOBS
        if not path.exists():
            return
        data = path.read_bytes()
        last = data[data.rfind(b"\n") + 1 :]
        if not last:
            return
        with path.open("r+b") as file:
            if _torn(last):
                file.truncate(len(data) - len(last))
            else:  # whole but for its end, as an editor may leave it
                file.seek(0, os.SEEK_END)
                file.write(b"\n")


def _parsed(line: bytes) -> Record:
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("not an object")
    record = Record(**values)
    texts = (record.key, record.label, record.group, record.when)
    seconds = record.seconds
    sound = (
        all(isinstance(text, str) for text in texts)
        and isinstance(record.config, dict)
        and isinstance(record.about, dict)
        and isinstance(seconds, int | float)
        and math.isfinite(seconds)
        and isinstance(record.values, dict if record.status == "done" else dict | None)
        and record.status in ("done", "failed")
    )
    if not sound:
        raise ValueError("a value is of another type than those of a job")
    return record


def _torn(line: bytes) -> bool:
    """Whether it is the beginning of a line and no more, as a killed process leaves one."""
    text = line.rstrip(b"\0").decode(errors="replace")  # zeros: the power failed
    try:
        json.JSONDecoder().raw_decode(text)
    except ValueError:
        return text.startswith(BEGIN) or BEGIN.startswith(text)
    except RecursionError:
        pass
    return False
