"""The command line: tune, score, demo, recommend, experiment, study, info."""

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from stssad_fast.checkpoint import replacing
from stssad_fast.cli import demo as demos
from stssad_fast.cli import info as infos
from stssad_fast.cli import paper, processes
from stssad_fast.cli import recommend as recommending
from stssad_fast.cli import score as scoring
from stssad_fast.cli import study as studies
from stssad_fast.cli import tune as tuning
from stssad_fast.cli.console import STOPPED, Quiet, counting, summary
from stssad_fast.cli.console import terminal as _console
from stssad_fast.cli.memory import keep_memory
from stssad_fast.cli.runs import REPORT, Run, Settings
from stssad_fast.detectors import MIN_IMAGE_SIZE
from stssad_fast.devices import versions
from stssad_fast.errors import InputError
from stssad_fast.estimator import AUGMENTATIONS

BAD_INPUT = 2
PATHS = ("--train", "--test", "--out", "--data")


class _Commands(TyperGroup):
    """Says in one sentence what cannot be used, and leaves with exit code 2."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        try:
            _check_paths(sys.argv[1:] if args is None else args)
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.TyperException as error:  # options and arguments
            _complain(f"{error.format_message().rstrip('.')}; see stssad-fast --help")
            sys.exit(BAD_INPUT)
        except InputError as error:
            _complain(str(error).replace('on_error="skip"', "--on-error skip"))
            sys.exit(BAD_INPUT)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            _complain(f"{error.strerror or error}{where}; what was there before is unharmed")
            _give_up_stdout()
            sys.exit(BAD_INPUT)
        sys.exit(code or 0)


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(paper.app, name="experiment")
app.command(
    epilog="""Examples:

```
stssad-fast study --normal 2,6 --augmentations flip,cutout,invert --out runs/study
stssad-fast study --data cifar10 --preset paper --image-size 32 --train-limit 5000 \\
    --parts testbeds,sweep,mmd --test-limit 1000 --ray auto --out runs/cifar10
```
"""
)(studies.study)
app.command(
    epilog="""Examples:

```
stssad-fast recommend --train good --test new --out runs/which
stssad-fast recommend --train bottle --test bottle --candidates rotate,cutout,cutdiff:size=0.01 \\
    --out runs/bottle
```
"""
)(recommending.recommend)


def _option(help: str, default: object) -> Any:
    """An option whose absence is None, to tell what the user gave from what they left open."""
    return typer.Option(help=f"{help} [default: {default}]", show_default=False)


def _parameter(name: str, help: str) -> Any:
    return _option(help, tuning.DEFAULTS[name])


OnError = Literal["raise", "skip"]
Device = Annotated[str | None, _option("auto (a GPU if there is one), cpu, cuda, cuda:1.", "auto")]


@app.callback(
    invoke_without_command=True,
    epilog="Examples: `stssad-fast demo`, `stssad-fast tune --help`",
)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Self-tuning anomaly detection on pictures: no labels, no augmentation to choose by hand."""
    if version:
        print(f"stssad-fast {versions()['stssad_fast']}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(
    epilog="""Examples:

```
stssad-fast tune --train good --test new --out runs/new

# of a category of MVTec AD, one defect
stssad-fast tune --train bottle --test bottle \\
    --kinds good,contamination --out runs/bottle

# another augmentation, and parameters without an option of their own
stssad-fast tune --train good --test new --out runs/turned \\
    --augmentation rotation --set patience=40 --set 'starts=[{"angle": 90}]'

# after Ctrl-C, a crash or a power cut
stssad-fast tune --out runs/new --resume

# one fit on two GPUs, to the result of one up to rounding
torchrun --nproc-per-node 2 -m stssad_fast tune --train good --test new --out runs/new
```
"""
)
def tune(
    out: Annotated[Path, typer.Option(help="Folder of the run; new, unless --resume is given.")],
    train: Annotated[
        Path | None,
        typer.Option(
            help="Folder of normal pictures, or an MVTec AD category.", show_default=False
        ),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(
            help="Folder of unlabelled pictures, or an MVTec AD category; labels that the layout "
            "gives are used to report AUC at the end, and for nothing else.",
            show_default=False,
        ),
    ] = None,
    augmentation: Annotated[
        str | None, _parameter("augmentation", f"One of {', '.join(sorted(AUGMENTATIONS))}.")
    ] = None,
    image_size: Annotated[
        int | None,
        _option(
            f"Side in pixels that pictures are resized to, at least {MIN_IMAGE_SIZE}.",
            Settings.image_size,
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        _option(
            "Subfolders of the test set to read: repeat the option or separate by commas.",
            "all",
        ),
    ] = None,
    channels: Annotated[
        Literal["auto", "1", "3"] | None,
        _option("1: grey; 3: RGB; auto: grey if all are.", "auto"),
    ] = None,
    width: Annotated[int | None, _parameter("width", "Channels of the first stage.")] = None,
    iterations: Annotated[int | None, _parameter("iterations", "Steps per start.")] = None,
    warm_up: Annotated[
        int | None, _parameter("warm_up", "Updates of the detector before the augmentation moves.")
    ] = None,
    batch_size: Annotated[int | None, _parameter("batch_size", "Pictures per step.")] = None,
    learning_rate: Annotated[float | None, _parameter("learning_rate", "Of the detector.")] = None,
    strategy: Annotated[
        str | None,
        _parameter("strategy", "second_order, first_order, random_dynamic or random_static."),
    ] = None,
    seed: Annotated[int | None, _parameter("random_state", "Of everything random.")] = None,
    device: Device = None,
    threads: Annotated[
        int | None,
        _option("On the CPU; a small network may be faster on one.", "torch's choice"),
    ] = None,
    jobs: Annotated[
        int | None,
        _option(
            "Starts that run at the same time, each in a process; threads are divided among them. "
            "-1: as many as threads.",
            1,
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other parameter of STSSAD, in JSON; see its documentation.",
        ),
    ] = None,
    checkpoint_interval: Annotated[
        float | None,
        _option(
            "Seconds between two checkpoints: the most that kill -9 can lose.",
            Settings.checkpoint_interval,
        ),
    ] = None,
    memory: Annotated[
        float | None,
        _option(
            "GiB of decoded pictures (4 bytes a value), for each of the two sets, above which they "
            "are read from their files as they are needed; 0 keeps none in memory.",
            Settings.memory,
        ),
    ] = None,
    on_error: Annotated[
        OnError | None,
        _option("About pictures that cannot be read.", "raise"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --out, to the result it would have had unbroken. Other "
            "options need not be repeated. Begins if nothing has begun.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Tune an augmentation and a detector on normal and unlabelled pictures.

    The folder of the run then holds the report (`report.html`), the scores of the test pictures
    (`scores.csv`: path below `--test`, score, higher for more anomalous, "anomalous" or "normal"),
    the model (`model.safetensors`), the starts and their AUC (`results.json`), the configuration
    and the checkpoint.
    """
    named = {
        "augmentation": augmentation,
        "width": width,
        "iterations": iterations,
        "warm_up": warm_up,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "strategy": strategy,
        "random_state": seed,
        "device": device,
        "n_jobs": jobs,
    }
    options = {
        "train": train and os.path.abspath(train),
        "test": test and os.path.abspath(test),
        "image_size": image_size,
        "kinds": kinds and [kind for part in kinds for kind in part.split(",") if kind],
        "channels": int(channels) if channels in ("1", "3") else channels,
        "on_error": on_error,
        "threads": threads,
        "checkpoint_interval": checkpoint_interval,
        "memory": memory,
    }
    parameters = {k: v for k, v in named.items() if v is not None}
    parameters |= tuning.assigned(assignments or [], parameters)
    given = {k: v for k, v in options.items() if v is not None} | {"parameters": parameters}
    run = Run(out)

    def begin() -> tuple[Settings, bool]:
        run.check(resume)
        settings = tuning.settings_of(run, given)
        if settings.parameters["distributed"]:
            processes.check(settings.parameters["device"])
        return settings, run.finished

    with processes.of_torchrun() as ranks:
        parameters["distributed"] = ranks is not None
        first = ranks is None or ranks.rank == 0
        console, errors = (_console(stderr=e, quiet=quiet or not first) for e in (False, True))
        settings, finished = ranks.first(begin) if ranks else begin()
        if finished:
            console.print(f"The run in {out} is finished; nothing was done again.", soft_wrap=True)
            found = run.read_results() if first else None
        else:
            if first and resume and not run.begun:
                console.print(f"Nothing has begun in {out}, so this begins.", soft_wrap=True)
            try:
                found = tuning.tune(run, settings, console, errors, ranks)
            except KeyboardInterrupt:
                if first:
                    _say(_stopped(run))
                raise typer.Exit(STOPPED) from None
    if found is not None:
        summary(console, found)
        console.print(f"Report: {run / REPORT}", soft_wrap=True)


def _stopped(run: Run) -> str:
    if not run.begun:
        return "Stopped before the run began."
    command = shlex.join(["stssad-fast", "tune", "--out", str(run.folder), "--resume"])
    return f"Stopped; what was done is kept. To go on, to the same result: {command}"


@app.command(
    epilog="""Examples:

```
stssad-fast score runs/new a.png b.png
stssad-fast score runs/new folder --on-error skip | sort -t, -k2 -gr
stssad-fast score runs/new/model.safetensors folder --out scores.csv
```
"""
)
def score(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, or a model file.")],
    files: Annotated[
        list[Path], typer.Argument(help="Pictures, and folders to look for pictures in.")
    ],
    out: Annotated[
        Path | None,
        _option("File for the CSV; it appears when all is done.", "standard output"),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            help="About pictures that cannot be read: end there, with exit code 2, or name them on "
            "standard error and leave them out.",
        ),
    ] = "raise",
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Score pictures with a tuned model, as CSV.

    Columns: path, as given; score, higher for more anomalous: the negative log-likelihood of the
    picture's embedding, or, of several starts together, a number in [0, 1]; predicted, "anomalous"
    above the model's threshold, else "normal". Rows come as they are ready, 256 at a time.
    """
    model = scoring.load_model(run, device or "auto")
    paths = scoring.find(files, on_error)
    errors = _console(stderr=True)
    # Where the rows appear on the same terminal they are progress enough.
    crowded = out is None and sys.stdout.isatty()
    progress = _console(stderr=True, quiet=quiet or crowded)

    def skipped(reason: str) -> None:
        errors.print(Text(f"Skipped: {reason}"), soft_wrap=True)

    with (
        counting(progress, "scoring") as bar,
        _destination(out) as stream,
    ):
        count = scoring.score(
            model, paths, stream, on_error=on_error, skipped=skipped, progress=bar
        )
    if count < len(paths):
        errors.print(f"Skipped {len(paths) - count} of {len(paths)} pictures.")
    if not count:
        raise InputError("none of the pictures can be read")


@contextlib.contextmanager
def _destination(out: Path | None) -> Iterator[Any]:
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yield stream


@app.command(epilog="Examples: `stssad-fast demo`, `stssad-fast demo --out /tmp/demo --quick`")
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the report; an earlier demo's files are replaced.")
    ] = Path("runs/demo"),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A few steps only, to see that all works; finds nothing."),
    ] = False,
) -> None:
    """Tune two detectors on pictures that come with dependencies, and write a report.

    Digits: 6 is normal, 9 is the unknown anomaly, and a rotation is tuned from four starts. Bricks:
    crops of a wall, some with a hole, and CutDiff is tuned from four starts.
    """
    console = _console()
    report = demos.run(out, quick, console, _console(stderr=True))
    console.print(f"\nReport: {report}", soft_wrap=True)


@app.command(epilog="Example: `stssad-fast info`")
def info() -> None:
    """Show versions, devices, and which implementation the ops use, and why."""
    console = _console()
    about = Table(box=None, show_header=False, pad_edge=False)
    for name, value in infos.facts():
        about.add_row(Text(name, "bold"), Text(value))
    console.print(about)
    table = Table("op", "device", "forward", "backward", "why", header_style="bold")
    for choice in infos.choices():
        table.add_row(choice.op, choice.device, choice.forward, choice.backward, choice.why)
    console.print(table)
    console.print(
        "When a second derivative is wanted, the backward of the first three is the reference; "
        "batch_norm's is a kernel all the same, and has a kernel for its derivative."
    )


def _check_paths(arguments: Sequence[str]) -> None:
    """Refuse an empty path, which would be taken for the current folder."""
    glued = tuple(f"{option}=" for option in PATHS)
    words = [word for a in arguments for word in (a.split("=", 1) if a.startswith(glued) else [a])]
    for before, word in pairwise(["stssad-fast", *words]):
        if not word and (before in PATHS or not before.startswith("-")):
            what = before if before in PATHS else f"the argument after {before}"
            raise InputError(
                f"{what} is empty, expected a path; if it is from a variable, see that this is set"
            )


def _complain(message: str) -> None:
    _say(f"Error: {message}")


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _give_up_stdout() -> None:
    # The interpreter's exit would try again to write what could not be written, and complain.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Entry point of the command ``stssad-fast``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # paths and × are not in every encoding
            stream.reconfigure(errors="backslashreplace")
    keep_memory()
    app(prog_name="stssad-fast")
