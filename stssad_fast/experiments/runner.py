"""Run the jobs of a plan that are not done, and keep what they come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

from stssad_fast.experiments.jobs import Event, Executor, Job, Work
from stssad_fast.experiments.store import Store
from stssad_fast.tuning.selection import postponed_interrupt


def run(
    jobs: Sequence[Job],
    store: Store,
    work: Work,
    executor: Executor,
    watch: Callable[[Event], None] = lambda event: None,
) -> None:
    """Run each of ``jobs`` that is not done, in their order; this process alone writes.

    One that fails, or takes its process down, is recorded with the reason and does not keep the
    others from being run. A job that failed in an earlier run is tried again.

    Args:
        jobs: the whole plan; no two of one key.
        store: claimed by the caller.
        work: computes a job, in another process.
        executor: runs them.
        watch: told what happens, after it has been recorded, and now and then that nothing does.

    Raises:
        ValueError: two jobs have one configuration.
        KeyboardInterrupt: SIGINT or SIGTERM came (caught in the main thread only). What has ended
            is recorded, and what was running has been ended.
        InputError: the disk is full, or the executor cannot run.
    """
    check(jobs)
    waiting = [job for job in jobs if job.key not in store.done]
    with (
        postponed_interrupt(True) as interrupted,
        closing(executor(work, waiting)) as events,
    ):
        for event in events:
            if event and event[1]:
                store.add(event[0], event[1])
            watch(event)
            if interrupted():
                raise KeyboardInterrupt


def check(jobs: Sequence[Job]) -> None:
    """Refuse a plan that holds a job twice, which then cannot be told apart.

    Raises:
        ValueError: two jobs have one configuration.
    """
    key, count = Counter(job.key for job in jobs).most_common(1)[0] if jobs else ("", 0)
    if count > 1:
        labels = [job.label for job in jobs if job.key == key]
        raise ValueError(f"two jobs have one configuration: {labels[0]!r} and {labels[1]!r}")
