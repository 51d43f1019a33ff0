"""A run folder: whether it may be begun or gone on with, and what stands in it at the end."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from inspect import formatannotation
from pathlib import Path
from reprlib import repr as shortened
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import torch

from stssad_fast.checkpoint import write_text
from stssad_fast.datasets import MEMORY, ImageSet
from stssad_fast.devices import versions
from stssad_fast.errors import InputError
from stssad_fast.estimator import STSSAD
from stssad_fast.folders import at_work, lock
from stssad_fast.report import write_report
from stssad_fast.report.collect import area_under_roc
from stssad_fast.tuning.selection import Rule

CONFIG = "config.json"
CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"
SCORES = "scores.csv"
RESULTS = "results.json"
REPORT = "report.html"
OUTPUTS = (MODEL, SCORES, RESULTS, REPORT)
FORMAT = "stssad_fast run 1"
FREE = ("checkpoint_interval", "memory", "n_jobs", "distributed")
"""Settings that a run may be gone on with changed: its result does not depend on them, on
``distributed`` by rounding alone."""


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on, as its config.json keeps it.

    Attributes:
        train, test: absolute paths of the folders.
        image_size: side in pixels that pictures are resized to.
        kinds: subfolders of the test set to read, None for all.
        channels: 1, 3 or "auto".
        on_error: what to do about pictures that cannot be read.
        threads: of the CPU; results are equal to the last bit for one number of them.
        checkpoint_interval: seconds.
        memory: GiB of pictures of a set above which they stay in their files.
        parameters: of :class:`STSSAD`.
    """

    train: str
    test: str
    parameters: dict[str, Any]
    image_size: int = 128
    kinds: list[str] | None = None
    channels: Literal["auto"] | int = "auto"
    on_error: Literal["raise", "skip"] = "raise"
    threads: int = 0
    checkpoint_interval: float = 10.0
    memory: float = MEMORY


def printable(path: str | os.PathLike[str]) -> str:
    """A path as valid UTF-8, with what is none escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Run:
    """The folder of one run.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run."""
        return (self / CONFIG).is_file()

    @property
    def finished(self) -> bool:
        """Whether the run has ended and all its results are there."""
        return self.begun and all((self / name).is_file() for name in OUTPUTS)

    def check(self, resume: bool) -> None:
        """Refuse a folder that this command must not write to.

        Raises:
            InputError: it holds a run and ``resume`` is False, or something else.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; choose a new folder for the run")
        if self.begun and not resume:
            raise InputError(
                f"{self.folder} holds another run; go on with it by --resume, or choose a new "
                "folder"
            )
        if not self.begun and (others := self._others()):
            raise InputError(
                f"{self.folder} holds files that are no run's ({others[0]}); choose a new folder"
            )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and keep other processes out of it while the block runs.

        If the block fails before the run has begun, the folder is as it was.

        Raises:
            InputError: the folder cannot be made or written to, or another process has claimed it.
        """
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        with ExitStack() as stack:
            try:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    if not lock(self.folder, stack):
                        raise at_work(self.folder)
                    with tempfile.TemporaryFile(dir=self.folder) as probe:
                        probe.write(b"0" * 4096)
                    self._sweep()
                except OSError as error:
                    raise InputError(
                        f"cannot write to {self.folder}: {error.strerror or error}; choose a "
                        "folder you may write to, on a disk with space left"
                    ) from error
                yield
            except BaseException:
                if not self.begun:
                    with suppress(OSError):
                        for path in made:
                            path.rmdir()
                raise

    def begin(self, settings: Settings) -> None:
        """Write config.json, from which on the folder holds a run."""
        values = {"format": FORMAT, **asdict(settings)}
        write_text(self / CONFIG, json.dumps(values, indent=2) + "\n")

    def settings(self) -> Settings:
        """Read config.json.

        Raises:
            InputError: it is damaged, or a value is not of its field's type.
        """
        path = self / CONFIG
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError("not of this version")
            settings = Settings(**values)
            _check_types(vars(settings), {field.name: field.type for field in fields(settings)})
            if odd := settings.parameters.keys() ^ STSSAD().get_params().keys():
                names = ", ".join(sorted(odd))
                raise ValueError(f"its parameters and those of STSSAD differ in {names}")
            return settings
        except _UNREADABLE as error:
            raise InputError(
                f"{path} cannot be read ({error}); it is damaged or not of stssad_fast. "
                "Choose a new folder and begin again"
            ) from error

    def read_results(self) -> dict[str, Any]:
        """Read results.json of a finished run.

        Raises:
            InputError: it is damaged, or lacks what :func:`console.summary` shows.
        """
        path = self / RESULTS
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            _check_types(values, _RESULTS)
            for start in values["starts"]:
                _check_types(start, _START)
            if not 0 <= values["chosen"] < len(values["starts"]):
                raise ValueError(f"chosen is {values['chosen']} of {len(values['starts'])} starts")
            names = [start[k].keys() for start in values["starts"] for k in ("initial", "final")]
            if any(each != names[0] for each in names):
                raise ValueError("the hyperparameters of its starts differ")
            return values
        except _UNREADABLE as error:
            raise InputError(
                f"{path} cannot be read ({error}); delete it and resume the run to make it anew"
            ) from error

    def finish(self, model: STSSAD, train: ImageSet, test: ImageSet, root: str) -> dict[str, Any]:
        """Write model, scores, results and report.

        Args:
            model: fitted.
            train, test: what it was fitted on.
            root: folder that the paths in scores.csv are relative to.
        """
        names = [printable(os.path.relpath(path, root)) for path in test.paths]
        values = results(model, test.labels) | {
            "train_pictures": len(train.paths),
            "skipped": [
                [printable(path), reason] for path, reason in (*train.skipped, *test.skipped)
            ],
        }
        model.save(self / MODEL)
        write_text(self / SCORES, _scores_csv(model, names, test))
        write_text(self / RESULTS, json.dumps(values, indent=2) + "\n")
        write_report(
            self / REPORT,
            model,
            train.images,
            test.images,
            labels=test.labels,
            title=f"{model.augmentation} tuned on {Path(root).name}",
            kinds=test.kinds,
            names=names,
        )
        return values

    def _others(self) -> list[str]:
        """Entries that this class did not leave behind."""
        if not self.folder.is_dir():
            return []
        try:
            entries = sorted(os.listdir(self.folder))
        except OSError as error:
            raise InputError(f"cannot read {self.folder}: {error.strerror}") from error
        return [name for name in entries if not _is_leftover(name)]

    def _sweep(self) -> None:
        """Delete what a killed process was writing."""
        for name in os.listdir(self.folder):
            if _is_leftover(name):
                (self / name).unlink()


def _is_leftover(name: str) -> bool:
    return any(name.startswith(f".{mine}.") for mine in (CONFIG, CHECKPOINT, *OUTPUTS))


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_START = {
    **{name: dict[str, float] for name in ("initial", "final")},
    **{
        name: float | None
        for name in ("train_loss", "validation_loss", "score_variance", "score_shift", "auc")
    },
}
_RESULTS = {
    "starts": list[dict[str, Any]],
    "chosen": int,
    "selection": Rule,
    "auc": float | None,
    "flagged": int,
    "test_pictures": int,
}


def _check_types(values: Any, types: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``values``, from JSON, has all of ``types``, and as they say."""
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, not {shortened(values)}")
    for name, kind in types.items():
        if name not in values:
            raise ValueError(f"{name} is missing")
        if not _fits(values[name], kind):
            raise ValueError(
                f"{name} is {shortened(values[name])}, expected {formatannotation(kind)}"
            )


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if origin is dict:  # in JSON all names are words
        return isinstance(value, dict) and all(_fits(v, arguments[1]) for v in value.values())
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def differing(saved: Settings, given: Mapping[str, Any]) -> list[str]:
    """Names of the options in ``given`` whose values are not those of the run.

    ``given`` has the fields of :class:`Settings`, ``parameters`` with some of its entries only;
    what :data:`FREE` names may change.
    """
    names = [
        field.name
        for field in fields(saved)
        if field.name not in ("parameters", *FREE)
        and field.name in given
        and given[field.name] != getattr(saved, field.name)
    ]
    parameters = given.get("parameters", {})
    return names + [
        k for k, v in parameters.items() if k not in FREE and v != saved.parameters.get(k)
    ]


def results(model: STSSAD, labels: Any = None) -> dict[str, Any]:
    """What a fit led to, JSON-able: the starts without their histories, the choice, versions."""
    kept = [
        {k: v for k, v in start.items() if k not in ("history", "scores")}
        | {
            "auc": None
            if start["scores"] is None
            else area_under_roc(labels, np.array(start["scores"]))
        }
        for start in model.starts_
    ]
    scores = model.test_scores_
    return {
        "augmentation": model.augmentation,
        "starts": kept,
        "selection": model.selection,
        "ensemble": bool(model.members_),
        "chosen": model.chosen_start_,
        "auc": area_under_roc(labels, scores),
        "threshold": model.threshold_,
        "flagged": int((scores > model.threshold_).sum()),
        "test_pictures": len(scores),
        "seconds": sum(start["seconds"] for start in model.starts_),
        "device": str(next(model.detector_.parameters()).device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def predicted(score: float, threshold: float) -> str:
    """The word for a score in a CSV."""
    return "anomalous" if score > threshold else "normal"


def _scores_csv(model: STSSAD, names: Sequence[str], test: ImageSet) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = model.test_scores_.tolist()
    rows = [
        [name, repr(score), predicted(score, model.threshold_)]
        for name, score in zip(names, scores, strict=True)
    ]
    header = ["path", "score", "predicted"]
    if test.kinds is not None and test.labels is not None:
        header += ["kind", "label"]
        rows = [
            [*row, printable(kind), str(label)]
            for row, kind, label in zip(rows, test.kinds, test.labels, strict=True)
        ]
    writer.writerows([header, *rows])
    return text.getvalue()
