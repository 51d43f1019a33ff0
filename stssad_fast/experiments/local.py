"""Jobs in processes of this machine, which end with this one."""

from __future__ import annotations

import os
import pickle
import queue
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from stssad_fast.errors import InputError
from stssad_fast.experiments.jobs import JSON, Arrays, Event, Job, Outcome, Work, attempt
from stssad_fast.tuning.together import context_for, ending, signals_blocked

TICK = 0.2  # seconds, at most, between two events


@dataclass
class _Worker:
    process: Any
    job: Job | None = None
    began: float = 0.0


@dataclass(frozen=True)
class Local:
    """An executor: ``workers`` processes, each with jobs one after another.

    A process that dies takes its job with it, and no other: that job has failed, and a new process
    goes on with the rest. It is not tried again at once, for what killed it (memory above all) is
    most likely still there; the next run tries it.

    Attributes:
        workers: processes side by side, at least 1.
        threads: of torch in each. Results are equal to the last bit for one number of them, however
            many processes there are.
        preload: modules that the main program imports; imported once, processes start sooner.
    """

    workers: int
    threads: int = 1
    preload: tuple[str, ...] = ()

    def __call__(self, work: Work, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """Run ``jobs`` in their order; see :data:`Executor`.

        Raises:
            InputError: ``work`` is no function of a module.
        """
        payload = _packed(work)
        context = context_for(__name__, work.__module__, *self.preload)
        waiting = list(reversed(jobs))
        workers: dict[Connection, _Worker] = {}
        try:
            while waiting or workers:
                while waiting and len(workers) < self.workers:
                    here, there = context.Pipe()
                    process = context.Process(
                        target=_serve, args=(payload, self.threads, there), daemon=True
                    )
                    with signals_blocked():
                        process.start()
                    there.close()
                    workers[here] = _Worker(process)
                    yield _give(here, workers[here], waiting.pop())
                for connection in wait(list(workers), timeout=TICK):
                    assert isinstance(connection, Connection)
                    worker = workers[connection]
                    job = worker.job
                    try:
                        outcome: Outcome = connection.recv()
                    except (EOFError, OSError):
                        del workers[connection]
                        connection.close()
                        worker.process.join()
                        outcome = Outcome(
                            reason=_death(worker.process.exitcode),
                            seconds=time.monotonic() - worker.began,
                        )
                    assert job is not None
                    yield job, outcome
                    if connection not in workers:
                        continue
                    if waiting:
                        yield _give(connection, worker, waiting.pop())
                    else:
                        del workers[connection]
                        connection.close()  # at which it ends
                        worker.process.join()
                yield None
        finally:
            for worker in workers.values():
                worker.process.kill()
            for connection, worker in workers.items():
                worker.process.join()
                connection.close()


def _packed(work: Work) -> bytes:
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"other processes cannot import what computes the jobs ({error}); define it as a "
            "function of a module"
        ) from error


def _give(connection: Connection, worker: _Worker, job: Job) -> Event:
    worker.job, worker.began = job, time.monotonic()
    with suppress(OSError):  # it has just died, as what waits for its answer will notice
        connection.send(job)
    return job, None


def _serve(payload: bytes, threads: int, connection: Connection) -> None:
    """What a process does: job after job, until nobody has any for it."""
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            try:
                jobs.put(connection.recv())
            except (EOFError, OSError):
                os._exit(0)  # the process that wants the results has no more jobs, or is gone

    threading.Thread(target=listen, daemon=True).start()

    def work(config: dict[str, JSON], sources: dict[str, str]) -> tuple[dict[str, JSON], Arrays]:
        return cast(Work, pickle.loads(payload))(config, sources)  # may fail: then so has the job

    while True:
        connection.send(attempt(work, jobs.get(), threads))


def _death(code: int | None) -> str:
    advice = "; the system often does so for lack of memory: choose fewer --jobs"
    return f"its process has ended before its time ({ending(code)}){advice if code == -9 else ''}"
