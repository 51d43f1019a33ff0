"""Pictures of an experiment: one training set, and a test set for each of its tasks."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stssad_fast.augment import catalogue
from stssad_fast.datasets import (
    ImageSet,
    Labelled,
    Split,
    load_digits,
    load_textures,
    one_vs,
    read_folder,
    read_labelled,
)
from stssad_fast.datasets.folder import GOOD
from stssad_fast.errors import InputError
from stssad_fast.ops import cutdiff, patch_shape

DIGITS = "digits"
"""The labelled set that comes with scikit-learn."""

TEXTURES = ("brick", "grass", "gravel")
"""The surfaces that come with scikit-image."""


@dataclass(frozen=True)
class Task:
    """Pictures to find anomalies in.

    Attributes:
        images: (M, C, H, W) in [0, 1].
        labels: (M,) 0 normal and 1 anomalous; used for AUC and nothing else.
    """

    images: Tensor
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """A training set of normal pictures (N, C, H, W), and the test set of every task.

    Attributes:
        skipped: why pictures of a folder were left out, one sentence each.
    """

    train: Tensor
    tests: dict[str, Task]
    skipped: tuple[str, ...] = ()

    def digest(self) -> str:
        """What the pictures and their labels are, whatever folder they come from."""
        found = hashlib.sha256()
        for name, tensor in [("", self.train), *((k, t.images) for k, t in self.tests.items())]:
            found.update(f"{name}{tuple(tensor.shape)}".encode())
            found.update(tensor.contiguous().numpy().data)
        for task in self.tests.values():
            found.update(task.labels.astype(np.int8).tobytes())
        return found.hexdigest()[:16]


def read(reader: str, source: str, options: Mapping[str, Any]) -> Problem:
    """Read a problem; the last one is kept, as jobs that follow each other share it.

    Args:
        reader: a key of :data:`READERS`.
        source: a path, two in JSON, or the name of a set that comes with a dependency.
        options: arguments of the reader.

    Raises:
        InputError: the pictures are missing, or cannot be used.
    """
    return _read(reader, source, json.dumps(options, sort_keys=True))


def read_planned(data: Mapping[str, Any], source: str) -> Problem:
    """Read what the ``data`` of a job's configuration names: reader, options and digest.

    Raises:
        InputError: the pictures are missing or others than when the job was planned.
    """
    problem = read(data["reader"], source, data["options"])
    if problem.digest() != data["digest"]:
        raise InputError(
            f"the pictures in {source} have changed since this run was planned; bring them back, "
            "or begin another run"
        )
    return problem


@lru_cache(maxsize=1)  # that of large pictures takes a gigabyte, in every process
def _read(reader: str, source: str, options: str) -> Problem:
    return READERS[reader](source, **json.loads(options))


def _defects(source: str, image_size: int, channels: int) -> Problem:
    """A category in MVTec AD's layout: every kind of defect is a task, against the good ones."""
    train = read_folder(source, split="train", image_size=image_size, channels=channels)
    test = read_folder(source, split="test", image_size=image_size, channels=channels)
    kinds = np.array(test.kinds or [])
    if not {GOOD} < set(kinds):
        raise InputError(
            f"{source} has not the layout of MVTec AD; expected train/good, test/good and "
            "test/NAME for every kind of defect"
        )
    images = _tensor(test)
    tests = {}
    for kind in dict.fromkeys(kinds[kinds != GOOD]):
        rows = np.flatnonzero((kinds == GOOD) | (kinds == kind))
        tests[printable(str(kind))] = Task(
            images[torch.from_numpy(rows)], (kinds[rows] != GOOD).astype(int)
        )
    return Problem(_tensor(train), tests)


def printable(name: str) -> str:
    """The name of a file, in which bytes that are no UTF-8 are written as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _folders(
    source: str,
    image_size: int,
    channels: Literal["auto"] | int,
    on_error: Literal["raise", "skip"],
) -> Problem:
    """A user's folders of training and of test pictures; labels are 0 where none are known."""
    read = partial(read_folder, image_size=image_size, channels=channels, on_error=on_error)
    first, second = json.loads(source)
    train, test = read(first, split="train"), read(second, split="test")
    most = max(found.images.shape[1] for found in (train, test))
    train, test = train.with_channels(most), test.with_channels(most)
    kinds = np.array(test.kinds or [GOOD] * len(test.paths))
    skipped = tuple(reason for found in (train, test) for _, reason in found.skipped)
    task = Task(_tensor(test), (kinds != GOOD).astype(int))
    return Problem(_tensor(train), {"test": task}, skipped)


def _tensor(found: ImageSet) -> Tensor:
    if isinstance(found.images, Tensor):
        return found.images
    return found.images[np.arange(len(found.images))]


def _semantic(
    source: str, normal: int, image_size: int, train_limit: int, test_limit: int
) -> Problem:
    """One class is normal; every other one is a task. Of each class the first pictures are used."""
    if source == DIGITS:
        splits = {
            other: load_digits(normal, other, image_size=image_size)
            for other in range(10)
            if other != normal
        }
    else:
        train, test = map(_first, labelled(source), (train_limit, test_limit))
        classes = np.unique(test.labels).tolist()
        if normal not in classes or len(classes) < 2:
            raise InputError(
                f"the test pictures of {source} are of the classes {classes}; expected {normal}, "
                "which is to be normal, and at least one other"
            )
        splits = {
            other: one_vs(train, test, normal, other, image_size=image_size)
            for other in classes
            if other != normal
        }
    tests = {str(k): _limited_task(split, test_limit) for k, split in splits.items()}
    return Problem(next(iter(splits.values())).train_images[:train_limit], tests)


def _limited_task(split: Split, limit: int) -> Task:
    """The first test pictures of either label."""
    first = [np.flatnonzero(split.test_labels == label)[:limit] for label in (0, 1)]
    rows = np.sort(np.concatenate(first))
    return Task(split.test_images[torch.from_numpy(rows)], split.test_labels[rows])


def _testbeds(
    source: str,
    normal: int,
    generators: list[str],
    image_size: int,
    train_limit: int,
    test_limit: int,
) -> Problem:
    """One class is normal; anomalies are other classes, or what an augmentation makes of it.

    Every second held-out picture is changed, so that a task's normal and anomalous pictures are
    different ones. The changes are the same in every run, whatever other generators there are.
    """
    wild = _semantic(source, normal, image_size, train_limit, test_limit)
    first = next(iter(wild.tests.values()))
    held_out = first.images[torch.from_numpy(first.labels == 0)]
    good, chosen = held_out[0::2], held_out[1::2]
    if len(chosen) < 1:
        raise InputError(
            f"class {normal} of {source} has {len(held_out)} test pictures; expected 2 or more. "
            "Raise --test-limit, or choose another class"
        )
    labels = np.repeat([0, 1], [len(good), len(chosen)])
    tests = {}
    for name in generators:
        tests[name] = Task(torch.cat([good, _changed(chosen, catalogue.make(name))]), labels)
    return Problem(wild.train, {**tests, **wild.tests})


def _changed(images: Tensor, augmentation: catalogue.PictureAugmentation) -> Tensor:
    """Every picture in a class of the augmentation that does not leave it as it is."""
    draws = torch.Generator().manual_seed(0)
    classes = torch.randint(1, augmentation.classes, (len(images),), generator=draws)
    changed = images.clone()
    for k in classes.unique().tolist():
        chosen = classes == k
        changed[chosen] = augmentation.of_class(images[chosen], k, generator=draws)
    return changed


@lru_cache(maxsize=1)
def labelled(source: str) -> tuple[Labelled, Labelled]:
    """The training and the test pictures of a labelled set; the last one read is kept.

    Raises:
        InputError: they are missing, or cannot be used.
    """
    return read_labelled(source)


def _first(found: Labelled, limit: int) -> Labelled:
    rows = np.concatenate(
        [np.flatnonzero(found.labels == label)[:limit] for label in np.unique(found.labels)]
    )
    rows.sort()
    return Labelled(found.images[torch.from_numpy(rows)], found.labels[rows])


def _made(
    source: str,
    image_size: int,
    train_limit: int,
    test_limit: int,
    sizes: list[float],
    aspects: list[float],
) -> Problem:
    """Good pictures, and for every size and aspect a test set half of which CutDiff has damaged.

    The test sets consist of pictures that are not trained on, a task's normal and anomalous ones
    of different pictures, and are the same in every run.
    """
    if source in TEXTURES:
        split = load_textures(
            source,  # type: ignore[arg-type]
            image_size=image_size,
            n_train=train_limit,
            n_good=2 * test_limit,
            n_defect=1,
        )
        train, rest = split.train_images, split.test_images[: 2 * test_limit]
    else:
        train = _tensor(read_folder(source, split="train", image_size=image_size))
        train, rest = train[:train_limit], train[train_limit : train_limit + 2 * test_limit]
        if len(rest) < 4:
            raise InputError(
                f"{source} has too few good pictures: {len(train) + len(rest)}; expected more than "
                f"the {train_limit} that are trained on. Lower --train-limit"
            )
    good, damaged = rest[0::2], rest[1::2]
    labels = np.repeat([0, 1], [len(good), len(damaged)])
    tests = {}
    for size in sizes:
        for aspect in aspects:
            centers = torch.Generator().manual_seed(0)
            made = cutdiff(damaged, patch_shape(size, aspect, 0.0), generator=centers)
            tests[made_name(size, aspect)] = Task(torch.cat([good, made]), labels)
    return Problem(train, tests)


def made_name(size: float, aspect: float) -> str:
    """Name of the task whose anomalies CutDiff makes."""
    return f"size {size:g} aspect {aspect:g}"


READERS: dict[str, Callable[..., Problem]] = {
    "defects": _defects,
    "semantic": _semantic,
    "testbeds": _testbeds,
    "made": _made,
    "folders": _folders,
}


def is_svhn(source: str) -> bool:
    """Whether ``source`` is a folder with the files of SVHN, the paper's set of digits."""
    return (Path(source) / "train_32x32.mat").exists()


def categories(path: str | Path) -> list[Path]:
    """Folders in MVTec AD's layout: ``path`` itself, or those in it, by name.

    Raises:
        InputError: there is none.
    """
    root = Path(path)
    if root.is_file():
        raise InputError(f"{root} is a file, expected a folder in MVTec AD's layout; name its root")
    if not root.is_dir():
        raise InputError(f"the folder {root} does not exist; check the path")
    found = [root, *sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))]
    chosen = [p for p in found if (p / "train" / GOOD).is_dir() and (p / "test").is_dir()]
    if not chosen:
        raise InputError(
            f"{root} is no category in MVTec AD's layout, and holds none; expected train/{GOOD}, "
            f"test/{GOOD} and test/NAME for every kind of defect"
        )
    return chosen[:1] if chosen[0] == root else chosen
