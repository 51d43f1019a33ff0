"""What the terminal shows while the jobs of an experiment run."""

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stssad_fast.cli.console import LINE_EVERY, REFRESH, live
from stssad_fast.experiments.jobs import Event, Job, Outcome
from stssad_fast.experiments.store import Store, time_to_go
from stssad_fast.report.wording import duration

MOST_LABELS = 16  # of running jobs, one below another


class JobsDisplay:
    """Shows a run as it goes: redrawn on a terminal, lines elsewhere; failures with their reasons.

    Used as a context manager; the object is what watches :func:`runner.run`.

    Args:
        console: where to, and whether at all (``quiet``).
        store: of the run.
        jobs: the whole plan.
        lines_every: seconds between two lines where there is no terminal.
    """

    def __init__(
        self, console: Console, store: Store, jobs: Sequence[Job], lines_every: float = LINE_EVERY
    ) -> None:
        self.console, self.store, self.jobs = console, store, jobs
        self.lines_every = lines_every
        self._left = {job.key: job for job in jobs if job.key not in store.done}
        self._done, self._failed = len(jobs) - len(self._left), 0
        self._running: dict[str, float] = {}  # when it began, by key
        self._ended = ""  # label of the latest that did, until it has been shown
        self._shown = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._done:
            self.console.print(f"{self._done} of {len(self.jobs)} jobs were done before.")
        self._live = live(self.console, transient=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take note of what happened; when nothing does, show it if it is time."""
        now = time.monotonic()
        if event:
            self._note(event[0], event[1], now)
        elif self._live is not None and now - self._shown >= REFRESH:
            self._live.update(self._picture(now), refresh=True)
            self._shown = now
        elif self._live is None and self._ended and now - self._shown >= self.lines_every:
            self.console.print(Text(f"{self._line(now)}; {self._ended}"), soft_wrap=True)
            self._ended, self._shown = "", now

    def _note(self, job: Job, outcome: Outcome | None, now: float) -> None:
        if outcome is None:
            self._running[job.key] = now
            return
        self._running.pop(job.key, None)
        self._left.pop(job.key, None)
        self._ended = job.label
        if outcome.reason is None:
            self._done += 1
        else:
            self._failed += 1
            self.console.print(Text(f"Failed: {job.label}: {outcome.reason}"), soft_wrap=True)

    def _line(self, now: float) -> str:
        running = len(self._running)
        left = [(job.group, now - self._running.get(key, now)) for key, job in self._left.items()]
        to_go = time_to_go(left, self.store.done.values(), max(1, running))
        parts = [
            f"{self._done} of {len(self.jobs)} done",
            f"{running} running",
            f"{len(self._left) - running} left",
            f"{self._failed} failed",
            *([] if to_go is None else [f"about {duration(to_go)} to go"]),
        ]
        return ", ".join(parts)

    def _picture(self, now: float) -> Group:
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(len(self.jobs), self._done + self._failed, width=40))
        table = Table.grid(padding=(0, 2, 0, 0))
        for key, began in list(self._running.items())[:MOST_LABELS]:
            table.add_row(
                Text(self._left[key].label), Text(duration(now - began), "dim", justify="right")
            )
        more = len(self._running) - MOST_LABELS
        note = [Text(f"and {more} more", "dim")] if more > 0 else []
        return Group(bar, Text(self._line(now)), table, *note)
