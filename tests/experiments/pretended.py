"""An experiment whose jobs do as they are told, and leave a file each time that they begin."""

import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from stssad_fast.errors import InputError
from stssad_fast.experiments.jobs import Job


def plan(folder, deeds, seconds=0.0):
    """A job for each of ``deeds``, in groups by deed."""
    return [
        Job(
            {"index": index, "deed": deed, "seconds": seconds},
            f"{deed or 'well'} · seed {index}",
            deed or "well",
            {"folder": str(folder)},
        )
        for index, deed in enumerate(deeds)
    ]


def begun(folder):
    """How often each job has begun, by its index."""
    return Counter(int(path.name.partition("-")[0]) for path in Path(folder).iterdir())


def work(config, sources):
    index, deed = config["index"], config["deed"]
    folder = Path(sources["folder"])
    handle, _ = tempfile.mkstemp(prefix=f"{index}-", dir=folder)
    os.close(handle)
    time.sleep(config["seconds"])
    if deed == "raise":
        raise KeyError("what it was")
    if deed == "refuse":
        raise InputError("a picture is missing; put it back")
    if deed == "kill" or (deed == "kill once" and begun(folder)[index] == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "exit":
        os._exit(3)
    value = float("nan") if deed == "nan" else index**2
    return {"value": value, "threads": torch.get_num_threads()}, {"range": np.arange(index)}
