"""Starts side by side, each in a process of its own, which ends with this one."""

from __future__ import annotations

import math
import os
import pickle
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from stssad_fast.datasets import Pictures
from stssad_fast.errors import InputError

if TYPE_CHECKING:
    from stssad_fast.tuning.selection import Progress, Search


def run(
    search: Search,
    jobs: int,
    callback: Callable[[Progress], None],
    interrupted: Callable[[], bool],
) -> None:
    """Work on all starts that remain, ``jobs`` at a time.

    Every process writes a checkpoint of its own beside the search's, from which this one takes
    what was done. They are gone in the end; after a crash of this one :meth:`Search.resume` finds
    them. Threads are divided among the processes, and each has at least one.

    Raises:
        KeyboardInterrupt: ``interrupted`` said so; all processes have saved what they did.
        InputError: as in the process, or it has ended before its start had.
    """
    jobs = min(jobs, len(search.starts))
    threads = max(1, torch.get_num_threads() // jobs)
    context = context_for("stssad_fast.tuning.selection")
    waiting = search.remaining
    workers: dict[Connection, tuple[int, Any]] = {}
    trouble: BaseException | None = None
    stopping = False
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stssad-fast-")))
        payload = _packed(search, folder)
        path = search.path or folder / "checkpoint"
        stack.callback(_end, workers)
        while workers or (waiting and not stopping):
            while waiting and len(workers) < jobs and not stopping:
                index = waiting.pop(0)
                here, there = context.Pipe()
                process = context.Process(
                    target=_work, args=(payload, index, threads, there), daemon=True
                )
                with signals_blocked():
                    process.start()
                there.close()
                workers[here] = index, process
            for connection in wait(list(workers), timeout=0.2):
                assert isinstance(connection, Connection)
                index, process = workers[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    del workers[connection]
                    connection.close()
                    process.join()
                    if part(path, index).exists():
                        search.load(part(path, index))
                    if index not in search.done and not stopping:
                        trouble = trouble or InputError(
                            _death(index, len(search.starts), process.exitcode, search.path)
                        )
                else:
                    if isinstance(message, BaseException):
                        trouble = trouble or message
                    else:
                        callback(message)
            if (trouble or interrupted()) and not stopping:
                stopping = True
                for connection in workers:
                    _tell(connection)
    if search.path:
        search.gather()
    if trouble:
        raise trouble
    if stopping:
        raise KeyboardInterrupt


def context_for(*modules: str) -> Any:
    """Makes processes that share no state with this one, and ``modules`` among each other."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, *modules])
    return context


def part(path: Path, index: int) -> Path:
    """Where the process of a start keeps its state, beside the checkpoint of all."""
    return path.with_name(f"{path.name}.{index}.part")


def _packed(search: Search, folder: Path) -> bytes:
    """The search, with pictures that processes share: those in memory become a mapped file."""
    sent = copy(search)
    sent.done, sent.begun = {}, {}
    if sent.path is None:
        sent.path, sent.interval = folder / "checkpoint", math.inf
    try:
        sent.train, sent.test = (
            _shared(images, folder / f"{name}.npy")
            for name, images in (("train", search.train), ("test", search.test))
        )
    except OSError as error:
        raise InputError(
            f"cannot write the pictures to {folder} for other processes ({error}); free some space "
            "there, set TMPDIR, or leave out n_jobs"
        ) from error
    try:
        return pickle.dumps(sent)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(_UNSENDABLE.format(error)) from error


_UNSENDABLE = (
    "n_jobs sends the augmentation, a backbone and the pictures to other processes ({}). Define "
    "their classes in a module that can be imported, or leave out n_jobs"
)


def _shared(images: Pictures, path: Path) -> Pictures:
    if not isinstance(images, Tensor):
        return images
    np.save(path, images.cpu().numpy())
    return cast(Pictures, _Mapped(path, images.device))


@dataclass
class _Mapped:
    """A tensor in a file; unpickled, it is the tensor."""

    path: Path
    device: torch.device

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.path, self.device)


def _open(path: Path, device: torch.device) -> Tensor:
    # Copied on write, though nothing writes: torch has no tensors that are read only.
    return torch.from_numpy(np.load(path, mmap_mode="c")).to(device)


def _work(payload: bytes, index: int, threads: int, connection: Connection) -> None:
    """What a process does: one start, telling its progress, until it is told to stop."""
    stop = threading.Event()

    def listen() -> None:
        try:
            connection.recv()
        except (EOFError, OSError):
            os._exit(1)  # the process that wants the result is gone
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        search = _unpacked(payload)
        assert search.path is not None
        search.resume()
        search.done = {}
        search.begun = {k: v for k, v in search.begun.items() if k == index}
        search.path = part(search.path, index)
        with suppress(KeyboardInterrupt):  # then all is saved, too
            search.work(index, connection.send, stop.is_set)
            search.save()
    except Exception as error:
        if not isinstance(error, InputError):
            error.add_note(f"In the process of start {index + 1}: {traceback.format_exc()}")
        connection.send(_sendable(error))


def _unpacked(payload: bytes) -> Search:
    try:
        search: Search = pickle.loads(payload)
    except (AttributeError, ImportError) as error:
        raise InputError(_UNSENDABLE.format(error)) from error
    return search


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(repr(error))


def _tell(connection: Connection) -> None:
    with suppress(OSError):  # it may just have ended
        connection.send("stop")


def _death(index: int, starts: int, code: int | None, path: Path | None) -> str:
    advice = {
        -9: "The system often does so for lack of memory: choose a smaller n_jobs. ",
        1: "A script that sets n_jobs needs its work under if __name__ == '__main__'. ",
    }.get(code or 0, "")
    kept = "What all starts did is in the checkpoint; resume to go on." if path else "Fit again."
    return (
        f"the process of start {index + 1} of {starts} has ended before its time ({ending(code)}). "
        f"{advice}{kept}"
    )


def ending(code: int | None) -> str:
    """How a process ended, from its exit code: "exit code 1" or "signal 9, Killed"."""
    if code is not None and code < 0:
        return f"signal {-code}, {signal.strsignal(-code)}"
    return f"exit code {code}"


def _end(workers: dict[Connection, tuple[int, Any]]) -> None:
    for _, process in workers.values():
        process.kill()
    for connection, (_, process) in workers.items():
        process.join()
        connection.close()


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Keep Ctrl-C from a process that begins in here: a terminal sends it to all of them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would end the block itself
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
