"""Jobs as tasks of Ray, on this machine or on a cluster."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from stssad_fast.errors import InputError
from stssad_fast.experiments.jobs import Event, Job, Outcome, Work, attempt
from stssad_fast.experiments.local import TICK

RETRIES = 2
"""How often a job whose worker has died is tried again, perhaps on another machine."""

ANSWER = 10.0
"""Seconds in which a cluster has to take up a connection; Ray itself tries for minutes."""


@dataclass(frozen=True)
class Cluster:
    """An executor: every job is a task of Ray; what it comes to is sent back here.

    The machines of a cluster need this version of the package, and see the folders that the jobs'
    ``sources`` name.

    Attributes:
        address: "local" starts Ray on this machine, until all is done; "auto" finds the cluster
            that this machine is part of; else "HOST:PORT" or "ray://HOST:PORT".
        workers: at most as many jobs side by side, at least 1; None for as many as there is room
            for.
        cpus: that Ray sets aside for a job, which computes with as many threads, at least one.
        gpus: likewise; parts of one are allowed. Without any, a job sees no GPU.
    """

    address: str
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.gpus <= 1 or self.gpus % 1 == 0):
            raise InputError(f"--gpus-per-job is {self.gpus:g}; expected a part of 1, or 1, 2, ...")

    def __call__(self, work: Work, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """Run ``jobs`` in their order; see :data:`Executor`.

        Raises:
            InputError: Ray is not installed or not to be reached, or has no room for a job.
        """
        ray = self._begun()
        try:
            task = ray.remote(
                num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES, retry_exceptions=False
            )(attempt)
            waiting = list(reversed(jobs))
            running: dict[Any, tuple[Job, float]] = {}
            while waiting or running:
                # Asked for anew, as machines may come and go.
                room = self._room(ray, began=len(waiting) < len(jobs))
                while waiting and len(running) < room:
                    job = waiting.pop()
                    running[task.remote(work, job, self.cpus)] = job, time.monotonic()
                    yield job, None
                if not running:
                    time.sleep(TICK)  # until a machine comes back
                    yield None
                    continue
                ended, _ = ray.wait(list(running), timeout=TICK)
                for reference in ended:
                    job, began = running.pop(reference)
                    try:
                        outcome: Outcome = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        outcome = Outcome(reason=_reason(error), seconds=time.monotonic() - began)
                    yield job, outcome
                yield None
        finally:
            ray.shutdown()  # which ends the tasks

    def _begun(self) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "Ray is not installed; pip install 'stssad-fast[ray]', or leave out --ray"
            ) from error
        check_reachable(self.address)
        own: dict[str, Any] = {}
        if self.address == "local":
            own = {"num_cpus": self.workers and self.workers * self.cpus}
            own |= {"include_dashboard": False}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(self.address, log_to_driver=False, logging_level="ERROR", **own)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"cannot begin with Ray at {self.address} ({error}); expected local, auto or the "
                "address of a cluster that runs"
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray has put its own there
        return ray

    def _room(self, ray: Any, began: bool) -> int:
        """How many jobs fit side by side; once the run ``began``, there may be no room for a while.

        Raises:
            InputError: there is no room for a job and, most likely, there never will be.
        """
        there = ray.cluster_resources()
        room = int(there.get("CPU", 0) / self.cpus)
        if self.gpus:
            room = min(room, int(there.get("GPU", 0) / self.gpus))
        if room < 1 and began and self.address == "local":
            raise InputError(
                "Ray on this machine has died; run again, which goes on, or without --ray"
            )
        if room < 1 and not began:
            raise InputError(
                f"Ray at {self.address} has {there.get('CPU', 0):g} CPUs and "
                f"{there.get('GPU', 0):g} GPUs; a job is to have {self.cpus} and {self.gpus:g}. "
                "Choose a smaller --cpus-per-job or --gpus-per-job"
            )
        return min(room, self.workers or room)


def check_reachable(address: str) -> None:
    """Raise InputError if the address is a host and port, and nothing answers there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"nothing answers at {address} ({error}); expected the address of a Ray cluster that "
            "runs: the port of ray start --head, 6379, or ray://HOST:10001"
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    # The last line of a traceback, else the first of an explanation.
    line = lines[-1 if "Traceback" in str(error) else 0]
    return f"Ray gave the job up; {type(error).__name__}: {line}"
