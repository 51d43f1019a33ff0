"""The processes that torchrun starts for one command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from stssad_fast.devices import find_device
from stssad_fast.errors import InputError
from stssad_fast.tuning.ranks import Ranks


@contextmanager
def of_torchrun() -> Iterator[Ranks | None]:
    """Join the other processes of this command while the block runs; None if there are none.

    Each takes a GPU of its own, if there are enough.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield None
        return
    local = int(os.environ["LOCAL_RANK"])
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(torch.device("cpu"))  # for what is agreed on before pictures are read
    finally:
        dist.destroy_process_group()


def check(device: str) -> None:
    """Raise InputError unless each process of this machine can have such a device of its own."""
    place = find_device(device)
    wanted, count = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if place.type == "cuda" and place.index is not None:
        raise InputError(
            f"the device is {device}, and torchrun has started processes that need a GPU each; "
            "leave --device out, or give cuda or cpu"
        )
    if place.type == "cuda" and wanted > count:
        raise InputError(
            f"torchrun has started {wanted} processes on this machine, which has {count} GPUs; "
            f"give torchrun --nproc-per-node {count}, or the command --device cpu"
        )
