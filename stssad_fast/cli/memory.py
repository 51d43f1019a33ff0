"""Memory that is freed stays with the command, whose next tensors take it again."""

import ctypes
import os
import platform

# Of glibc, as mallopt knows them and as the processes that this one starts read them.
_PARAMETERS = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}
_BYTES = 1 << 30


def keep_memory() -> None:
    """Have glibc keep what is freed, but for tensors of 1 GiB; what the environment sets stays.

    By itself it gives large tensors back, and the system clears every page of the next ones, which
    takes longer than most kernels (docs/performance.md). A matter of the whole process, so not of
    the library.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    for variable, number in _PARAMETERS.items():
        if variable not in os.environ:
            os.environ[variable] = str(_BYTES)
            ctypes.CDLL(None).mallopt(number, _BYTES)
