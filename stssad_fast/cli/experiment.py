"""The commands ``experiment``: what all experiments share, and ``experiment status``."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from rich.text import Text

from stssad_fast.cli.console import STOPPED, terminal
from stssad_fast.cli.jobs import JobsDisplay
from stssad_fast.errors import InputError
from stssad_fast.experiments.cluster import Cluster
from stssad_fast.experiments.jobs import JSON, Executor, Job, Work
from stssad_fast.experiments.local import Local
from stssad_fast.experiments.runner import check, run
from stssad_fast.experiments.store import Planned, Store, time_to_go
from stssad_fast.report.results import PAGE, TABLE
from stssad_fast.report.wording import duration

FAILED = 1
"""Exit code when a job has failed; what is done is in the tables."""

app = typer.Typer(
    help="The paper's tables and figures, as runs of many jobs that can stop and go on.",
    no_args_is_help=True,
)

Out = Annotated[
    Path,
    typer.Option("--out", help="Folder of the run; one that has begun is gone on with."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Jobs that run at the same time, each in a process. [default: as many as there are "
        "cores, with a GPU 1; with --ray, as the cluster has room for]",
        show_default=False,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run the jobs with Ray: local, auto (the cluster of this machine) or an address.",
        show_default=False,
    ),
]
GpusPerJob = Annotated[
    float,
    typer.Option(
        "--gpus-per-job",
        min=0,
        help="GPUs, or the part of one, that Ray gives to a job; without any it sees none.",
    ),
]
CpusPerJob = Annotated[
    int, typer.Option("--cpus-per-job", min=1, help="Cores of a job, and threads of torch in it.")
]
Seeds = Annotated[
    int, typer.Option("--seeds", min=1, help="Random seeds to repeat everything with: 0, 1, ...")
]


@dataclass(frozen=True)
class How:
    """Who runs the jobs.

    Attributes:
        workers, ray, gpus_per_job, cpus_per_job: as :data:`Jobs`, :data:`RayAddress`,
            :data:`GpusPerJob` and :data:`CpusPerJob` say.
        quiet: show nothing but errors.
    """

    workers: int | None = None
    ray: str | None = None
    gpus_per_job: float = 0.0
    cpus_per_job: int = 1
    quiet: bool = False


def run_plan(
    jobs: Sequence[Job],
    out: Path,
    work: Work,
    how: How,
    write: Callable[[Store], object] = lambda store: None,
) -> Store:
    """Run the jobs of a plan that are not done yet, and show how it goes.

    Args:
        jobs: the whole plan; no two with one configuration.
        out: folder of the run, begun or not.
        work: computes a job; see :data:`Work`.
        how: who runs them.
        write: writes into the folder what all have come to, while no other process may write.

    Returns:
        What is known of the jobs: of those of the plan, all are in its ``done`` or ``failed``.

    Raises:
        ValueError: two jobs have one configuration.
        InputError: the folder, the disk or Ray cannot be used.
        typer.Exit: stopped, with code 130, after telling how to go on.
    """
    check(jobs)
    executor, workers = _executor(how)
    errors = terminal(stderr=True, quiet=how.quiet)
    store = Store(out)
    try:
        with store.claimed():
            store.write_plan(jobs, workers)
            with JobsDisplay(errors, store, jobs) as display:
                run(jobs, store, work, executor, display)
            failed = sum(job.key in store.failed for job in jobs)
            line = f"{len(jobs) - failed} done, {failed} failed"
            if failed:
                line += f"; the reasons: stssad-fast experiment status {shlex.quote(str(out))}"
            errors.print(line, soft_wrap=True)
            write(store)
    except KeyboardInterrupt:
        command = shlex.join(["stssad-fast", *sys.argv[1:]])
        print(f"Stopped; what was done is kept. To go on: {command}", file=sys.stderr)
        raise typer.Exit(STOPPED) from None
    return store


def perform(
    jobs: Sequence[Job],
    out: Path,
    work: Work,
    how: How,
    own: Callable[[dict[str, JSON]], bool],
    write: Callable[[Store], object],
) -> None:
    """Run what is left of a plan, and show what all of it has come to.

    Args:
        jobs, out, work, how: as for :func:`run_plan`.
        own: whether a configuration that the folder holds is of this kind of run.
        write: writes tables and page.

    Raises:
        InputError: the folder holds another experiment, or files that are no run's, which these
            tables would replace.
        typer.Exit: a job has failed, or the run was stopped.
    """
    store = Store(out)
    if others := store.others():
        raise InputError(
            f"{out} holds files that are no run's ({others[0]}); choose a new folder as --out"
        )
    for record in store.done.values():
        if not own(record.config):
            raise InputError(
                f"{out} holds another experiment ({record.label}); choose another --out"
            )
    store = run_plan(jobs, out, work, how, write)
    tell(out / PAGE, how.quiet)
    if any(job.key in store.failed for job in jobs):
        raise typer.Exit(FAILED)


def tell(page: Path, quiet: bool = False) -> None:
    """Print the table beside a page, if there is one, and where the page is."""
    console = terminal(quiet=quiet)
    if (page.parent / TABLE).exists():
        table = (page.parent / TABLE).read_text(encoding="utf-8")
        console.print(table, soft_wrap=True, markup=False)
    console.print(f"Report: {page}", soft_wrap=True)


def _executor(how: How) -> tuple[Executor, int | None]:
    """Who runs the jobs, and how many at the same time if that is known."""
    workers, cpus = how.workers, how.cpus_per_job
    if how.ray is not None:
        return Cluster(how.ray, workers, cpus, how.gpus_per_job), workers
    if how.gpus_per_job:
        raise InputError("--gpus-per-job needs --ray, which shares out the GPUs; give both or none")
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        workers = 1 if torch.cuda.is_available() else max(1, cores // cpus)
    return Local(workers, cpus, preload=("stssad_fast.cli.app",)), workers


@app.command(epilog="Example: `stssad-fast experiment status runs/defects`")
def status(
    run: Annotated[Path, typer.Argument(help="Folder of a run of an experiment.")],
) -> None:
    """Show how far a run is, what has failed and why; also while it goes on."""
    store = Store(run)
    plan = store.plan()
    records = store.done | store.failed
    jobs = plan.jobs or [Planned(r.key, r.label, r.group) for r in records.values()]
    if not jobs:
        raise InputError(f"{run} holds no run of an experiment; expected the --out of one")
    console = terminal()
    running = store.in_use
    console.print(f"{run}: {'running' if running else 'not running'}", soft_wrap=True)
    table = Table("", box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("done", "failed", "left", "time spent", "to go"):
        table.add_column(name, justify="right")
    groups: dict[str, list[Planned]] = {}
    for job in jobs:
        groups.setdefault(job.group, []).append(job)
    parts = [*groups.items(), ("all", jobs)] if len(groups) > 1 else list(groups.items())
    for name, part in parts:
        table.add_row(Text(name), *_row(part, store, plan.workers))
    console.print(table)
    known = {job.key for job in jobs}
    if others := sum(key not in known for key in store.done):
        console.print(f"{others} more done that the present plan leaves out.")
    for job in jobs:
        if job.key in store.failed:
            reason = store.failed[job.key].reason
            console.print(Text(f"Failed: {job.label}: {reason}"), soft_wrap=True)


def _row(jobs: Sequence[Planned], store: Store, workers: int | None) -> list[str]:
    done = [job for job in jobs if job.key in store.done]
    failed = [job for job in jobs if job.key in store.failed]
    left = [job for job in jobs if job.key not in store.done and job.key not in store.failed]
    records = [(store.done | store.failed)[job.key] for job in (*done, *failed)]
    counts = [str(len(each)) for each in (done, failed, left)]
    spent = duration(sum(record.seconds for record in records))
    if not left:
        return [*counts, spent, ""]
    groups = [(job.group, 0.0) for job in left]
    to_go = workers and time_to_go(groups, store.done.values(), workers)
    return [*counts, spent, "?" if to_go is None else duration(to_go)]
