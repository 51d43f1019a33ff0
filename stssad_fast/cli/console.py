"""What the terminal shows: progress while tuning, and the summary at the end."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Self

import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stssad_fast.report.wording import duration, hyperparameter, number
from stssad_fast.tuning import selection

REFRESH = 0.2  # seconds between two pictures of a terminal
LINE_EVERY = 5.0  # seconds between two lines where there is no terminal
STOPPED = 130  # exit code after Ctrl-C
TUNING_STEP_COST = 4.0  # in warm-up steps, until it has been measured

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def terminal(stderr: bool = False, quiet: bool = False) -> Console:
    """Where to print: nothing that is printed is taken for markup."""
    return Console(stderr=stderr, quiet=quiet, highlight=False, markup=False)


def live(console: Console, transient: bool = False) -> Live | None:
    """Something that is redrawn, begun; None where the console is quiet or cannot."""
    if console.quiet or not console.is_terminal or console.is_dumb_terminal:
        return None
    shown = Live(console=console, auto_refresh=False, transient=transient)
    shown.start()
    return shown


class TuningDisplay:
    """Shows a search as it goes: a table that is redrawn, or lines where there is no terminal.

    Used as a context manager; the object is the callback for :meth:`STSSAD.fit`.

    Args:
        console: where to, and whether at all (``quiet``).
        lines_every: seconds between two lines where there is no terminal.
    """

    def __init__(self, console: Console, lines_every: float = LINE_EVERY) -> None:
        self.console, self.lines_every = console, lines_every
        self._latest: dict[int, selection.Progress] = {}
        self._clock = _Clock()
        self._shown = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._live = live(self.console)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            if self._latest:
                self._live.update(self._table(), refresh=True)
            self._live.stop()

    def __call__(self, progress: selection.Progress) -> None:
        """Take note of a step, and show it if it is time."""
        self._clock.tick(progress)
        self._latest[progress.start] = progress
        if self.console.quiet:
            return
        now = time.monotonic()
        if self._live is not None and now - self._shown >= REFRESH:
            self._live.update(self._table(), refresh=True)
        elif self._live is None and (progress.ended or now - self._shown >= self.lines_every):
            self.console.print(_line(progress, self._clock.left()), soft_wrap=True)
        else:
            return
        self._shown = now

    def _table(self) -> Group:
        newest = self._latest[max(self._latest)]
        names = list(newest.hyperparameters)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("start")
        table.add_column("", width=16)
        table.add_column("step", justify="right", min_width=7)
        for name in [*names, "L_trn", "L_val"]:
            table.add_column(name, justify="right", min_width=6)
        for index in range(newest.starts):
            label = f"{index + 1}/{newest.starts}"
            progress = self._latest.get(index)
            if progress is None:
                table.add_row(label, Text("done before" if index < newest.start else "", "dim"))
                continue
            table.add_row(
                label,
                ProgressBar(progress.steps, progress.step, width=16),
                f"{progress.step}/{progress.steps}",
                *(hyperparameter(progress.hyperparameters[name], name) for name in names),
                number(progress.train_loss),
                number(progress.validation_loss),
            )
        if newest.start == newest.starts - 1 and all(p.ended for p in self._latest.values()):
            return Group(table)
        note = "warming up; " if newest.warming_up else ""
        return Group(table, Text(f"{note}{_left(self._clock.left())}", "dim"))


def _left(seconds: float | None) -> str:
    return "time left not known yet" if seconds is None else f"about {duration(seconds)} left"


def _line(progress: selection.Progress, left: float | None) -> str:
    values = "  ".join(f"{k} {hyperparameter(v, k)}" for k, v in progress.hyperparameters.items())
    return (
        f"start {progress.start + 1}/{progress.starts}  step {progress.step}/{progress.steps}  "
        f"{values}  L_trn {number(progress.train_loss)}  L_val {number(progress.validation_loss)}  "
        f"{_left(left)}"
    )


class _Clock:
    """Time left, from the time that warm-up steps and tuning steps have taken so far.

    Starts may run side by side, as many as have been seen to at once.
    """

    def __init__(self) -> None:
        self._seconds = {True: 0.0, False: 0.0}  # by whether it was a warm-up step
        self._steps = {True: 0, False: 0}
        self._warm_up = 0
        self._side_by_side = 1
        self._previous: dict[int, float] = {}  # by start
        self._latest: dict[int, selection.Progress] = {}

    def tick(self, progress: selection.Progress) -> None:
        now = time.monotonic()
        # Before the first step of a start came more than the step: its process, the network.
        if progress.start in self._previous:
            self._seconds[progress.warming_up] += now - self._previous[progress.start]
            self._steps[progress.warming_up] += 1
        self._previous[progress.start] = now
        if progress.warming_up:
            self._warm_up = max(self._warm_up, progress.step)
        self._latest[progress.start] = progress
        self._side_by_side = max(self._side_by_side, len(self._begun()))

    def _begun(self) -> list[selection.Progress]:
        return [progress for progress in self._latest.values() if not progress.ended]

    def left(self) -> float | None:
        """Seconds, None until a step has been measured."""
        each = {k: self._seconds[k] / n for k, n in self._steps.items() if n}
        if not each:
            return None
        tuning = each.get(False, TUNING_STEP_COST * each.get(True, 0.0))
        warming = each.get(True, tuning / TUNING_STEP_COST)
        # Within the first warm-up its length is not known; what is left counts as tuning.
        newest = self._latest[max(self._latest)]
        full = self._warm_up * warming + (newest.steps - self._warm_up) * tuning
        to_come = newest.starts - newest.start - 1
        begun = [(p.steps - p.step) * tuning for p in self._begun()]
        # No start is shared among processes: the last one takes its time alone.
        return max((to_come * full + sum(begun)) / self._side_by_side, max(begun, default=0.0))


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal while something is counted; give the function (done, in all)."""
    bar = Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=console.quiet or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def summary(console: Console, results: Mapping[str, Any]) -> None:
    """Print the table of starts of ``results`` (see :func:`runs.results`) and what was chosen."""
    starts, chosen = results["starts"], results["chosen"]
    labelled = results["auc"] is not None
    names = list(starts[chosen]["final"])
    # Most starts differ in one hyperparameter only; the others' beginnings would fill the line.
    varied = [n for n in names if len({start["initial"][n] for start in starts}) > 1] or names[:1]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("start")
    rule = results["selection"]
    # The losses have columns of their own.
    criterion = {"score_variance": ["S"], "score_shift": ["shift"], "loss": []}[rule]
    headers = [*(f"{name} from" for name in varied), *names, "L_trn", "L_val", *criterion]
    for header in [*headers, *(["AUC"] if labelled else [])]:
        table.add_column(header, justify="right")
    for index, start in enumerate(starts):
        table.add_row(
            f"{index + 1}{' ✓' if index == chosen else ''}",
            *(hyperparameter(start["initial"][name], name) for name in varied),
            *(hyperparameter(start["final"][name], name) for name in names),
            number(start["train_loss"]),
            number(start["validation_loss"]),
            *(number(start[rule], 2) for _ in criterion),
            *([_auc(start["auc"])] if labelled else []),
            style="bold green" if index == chosen else None,
        )
    console.print(table)
    values = ", ".join(f"{k} {hyperparameter(v, k)}" for k, v in starts[chosen]["final"].items())
    why = "least L_trn + L_val" if rule == "loss" else f"largest {rule.replace('_', ' ')}"
    console.print(f"Chosen: start {chosen + 1}, of the {why}: {values}.", soft_wrap=True)
    console.print(
        f"{results['flagged']} of {results['test_pictures']} test pictures lie above the threshold."
    )
    if labelled:
        whose = " of all starts together" if results.get("ensemble") else ""
        console.print(f"AUC{whose} {_auc(results['auc'])}; the labels were used for this alone.")


def _auc(value: float | None) -> str:
    return number(None) if value is None else f"{value:.3f}"
