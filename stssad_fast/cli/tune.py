"""From what the user asked for to a finished run."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor

from stssad_fast.cli.console import TuningDisplay, counting
from stssad_fast.cli.runs import CHECKPOINT, FREE, Run, Settings, differing
from stssad_fast.datasets import ImageSet, read_folder
from stssad_fast.detectors import MIN_IMAGE_SIZE
from stssad_fast.errors import InputError
from stssad_fast.estimator import STSSAD
from stssad_fast.tuning.ranks import Ranks

MAX_IMAGE_SIZE, MAX_THREADS = 2**14, 2**12
DEFAULTS = STSSAD().get_params() | {"random_state": 0}


def assigned(
    assignments: Sequence[str], named: Mapping[str, Any], known: Collection[str] = DEFAULTS.keys()
) -> dict[str, Any]:
    """Parameters of ``--set NAME=VALUE``, the value in JSON or a plain word.

    Raises:
        InputError: a name is not ``known``, or given twice; ``named`` are those given otherwise.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise InputError(
                f"--set {text} is not understood; expected NAME=VALUE with a NAME of "
                f"{', '.join(sorted(known))}"
            )
        if name == "distributed":
            raise InputError(
                "--set distributed is not how to ask for several processes; start the command with "
                "torchrun: torchrun --nproc-per-node 2 -m stssad_fast tune ..."
            )
        if name in named or name in values:
            raise InputError(f"{name} is given twice; leave one out")
        try:
            values[name] = json.loads(value)
        except RecursionError:
            raise InputError(f"--set {name} is nested too deeply; give a plain value") from None
        except ValueError:
            words = {"none": None, "true": True, "false": False}
            values[name] = words.get(value.lower(), value)
    return values


def settings_of(run: Run, given: Mapping[str, Any]) -> Settings:
    """The settings of a run that has begun, else those given, with defaults.

    Args:
        run: checked by :meth:`Run.check`.
        given: fields of :class:`Settings` as far as given, and so in its ``parameters``.

    Raises:
        InputError: the run began with other settings; one is missing or out of range.
    """
    if run.begun:
        settings = run.settings()
        if names := differing(settings, given):
            raise InputError(
                f"the run in {run.folder} began with another {', '.join(names)}; leave that out to "
                "go on with it, or choose a new folder"
            )
        free = {name: given[name] for name in FREE if name in given}
        chosen = {k: v for k, v in given["parameters"].items() if k in FREE}
        settings = replace(settings, **free, parameters=settings.parameters | chosen)
    else:
        for name in ("train", "test"):
            if name not in given:
                raise InputError(f"--{name} is missing; expected a folder of pictures")
        parameters = DEFAULTS | given["parameters"]
        defaults = {"threads": torch.get_num_threads()}
        settings = Settings(**{**defaults, **given, "parameters": parameters})
    _check(settings)
    return settings


def tune(
    run: Run, settings: Settings, out: Console, err: Console, ranks: Ranks | None = None
) -> dict[str, Any] | None:
    """Begin or go on, and finish; what was read is told to ``out``, progress to ``err``.

    Args:
        ranks: processes that all call this, the first of which alone writes to the folder.

    Returns:
        The results, as in results.json, to the first process.

    Raises:
        InputError: the pictures, the folder or the checkpoint cannot be used.
        KeyboardInterrupt: stopped; if the run has begun, its checkpoint holds what was done.
    """
    torch.set_num_threads(settings.threads)
    first = ranks is None or ranks.rank == 0
    with ExitStack() as stack:
        with ranks.joined() if ranks else nullcontext():
            if first:
                stack.enter_context(run.claimed())
            train, test = _read(settings, err)
        channels, height, width = train.images.shape[1:]
        out.print(
            f"{len(train.paths)} training and {len(test.paths)} test pictures, resized to "
            f"{height} x {width}, {'grey' if channels == 1 else 'RGB'}"
        )
        for name, found in (("training", train), ("test", test)):
            if not isinstance(found.images, Tensor):
                out.print(f"The {name} pictures are read from their files as they are needed.")
        if first and not run.begun:
            run.begin(settings)
        model = STSSAD(**settings.parameters)
        with TuningDisplay(err) as display, _memory():
            model.fit(
                train.images,
                test.images,
                checkpoint_path=run / CHECKPOINT,
                checkpoint_interval=settings.checkpoint_interval,
                resume=True,
                callback=display,
            )
        return run.finish(model, train, test, settings.test) if first else None


@contextmanager
def _memory() -> Iterator[None]:
    """Say what to do about an allocation that fails."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        on_the_cpu = "can't allocate memory" in str(error)  # torch has no type for it
        if not on_the_cpu and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        raise InputError(
            "there is not enough memory for this; lower --width, --image-size or --batch-size"
        ) from error


def _check(settings: Settings) -> None:
    if settings.image_size < MIN_IMAGE_SIZE:
        raise InputError(
            f"--image-size is {settings.image_size}; the network needs at least {MIN_IMAGE_SIZE} "
            "pixels"
        )
    if settings.image_size > MAX_IMAGE_SIZE:
        raise InputError(
            f"--image-size is {settings.image_size}; expected at most {MAX_IMAGE_SIZE} pixels"
        )
    if not settings.memory >= 0:  # NaN fails too
        raise InputError(f"--memory is {settings.memory}; expected GiB, 0 or more")
    if not 1 <= settings.threads <= MAX_THREADS:
        raise InputError(f"--threads is {settings.threads}; expected 1 to {MAX_THREADS}")
    if not settings.checkpoint_interval >= 0:  # NaN fails too
        raise InputError(
            f"--checkpoint-interval is {settings.checkpoint_interval}; expected seconds, 0 or more"
        )
    try:
        STSSAD(**settings.parameters).check_parameters()
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error


def _read(settings: Settings, err: Console) -> tuple[ImageSet, ImageSet]:
    splits: tuple[Literal["train"], Literal["test"]] = ("train", "test")
    sets = []
    for split in splits:
        folder = getattr(settings, split)
        with counting(err, f"reading {split} pictures") as progress:
            found = read_folder(
                folder,
                image_size=settings.image_size,
                split=split,
                kinds=settings.kinds if split == "test" else None,
                channels=settings.channels,
                on_error=settings.on_error,
                memory=settings.memory,
                progress=progress,
            )
        for _, reason in found.skipped:
            err.print(Text(f"Skipped: {reason}"), soft_wrap=True)
        if found.skipped:
            total = len(found.skipped) + len(found.paths)
            err.print(f"Skipped {len(found.skipped)} of {total} {split} pictures.")
        if len(found.paths) < 2:
            raise InputError(
                f"{folder} holds one {split} picture that can be used; give at least 2"
            )
        sets.append(found)
    most = max(found.images.shape[1] for found in sets)
    train, test = (found.with_channels(most) for found in sets)
    return train, test
