"""Folders of runs: whether another process is at work in one, and what lies there."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from stssad_fast.errors import InputError


def lock(folder: Path, stack: ExitStack) -> bool:
    """Lock a folder until ``stack`` ends; False if another process has."""
    if sys.platform == "win32":
        return True
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, handle)  # which unlocks, as the end of the process does
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # another than this: a file system without locks
        return not isinstance(error, BlockingIOError)
    return True


def at_work(folder: Path) -> InputError:
    """What to say where :func:`lock` fails."""
    return InputError(f"another process is at work in {folder}; wait for its end, or end it")


def entries(folder: Path) -> list[str]:
    """Names of what lies in a folder, hidden ones left out; none where there is no folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(entry.name for entry in found if not entry.name.startswith("."))
