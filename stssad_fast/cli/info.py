"""Which implementation the ops use on this machine, and why."""

import platform
from dataclasses import dataclass

import torch

from stssad_fast.devices import versions
from stssad_fast.ops import extension, triton_kernels

OPS = ("cutdiff", "rotate", "mean_distance_loss", "batch_norm")


@dataclass(frozen=True)
class Choice:
    """What an op uses on one kind of device.

    Attributes:
        op, device: its name, and "CPU" or "CUDA".
        forward, backward: "kernel" or "reference".
        why: in a sentence.
    """

    op: str
    device: str
    forward: str
    backward: str
    why: str


def choices() -> list[Choice]:
    """Ask the dispatcher about every op that it chooses an implementation of."""
    found = []
    for op in OPS:
        for device in ("CPU", "CUDA"):
            forward, backward = (
                "kernel"
                if torch._C._dispatch_has_kernel_for_dispatch_key(f"stssad_fast::{name}", device)
                else "reference"
                for name in (op, f"{op}_backward")
            )
            found.append(Choice(op, device, forward, backward, _why(device, forward, backward)))
    return found


def facts() -> list[tuple[str, str]]:
    """Versions, devices, threads and the state of the native extension."""
    installed = versions()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        ("stssad-fast", installed["stssad_fast"]),
        ("python", f"{installed['python']} on {platform.system()} {platform.machine()}"),
        ("torch", f"{installed['torch']}, {torch.get_num_threads()} CPU threads"),
        ("GPUs", ", ".join(gpus) or _no_gpu()),
        ("native extension", extension.status()),
    ]


def _why(device: str, forward: str, backward: str) -> str:
    if "reference" not in (forward, backward):
        return f"a {device} kernel is registered for both directions"
    if device == "CPU" and (reason := extension.why_not()):
        return f"native extension {reason}"
    if device == "CUDA" and (reason := triton_kernels.why_not()):
        return f"no GPU kernels: {reason}"
    kernels = "C++" if device == "CPU" else "Triton or CUDA"
    if forward == backward:
        return f"there is no {kernels} kernel yet"
    missing = "backward" if backward == "reference" else "forward"
    return f"there is no {kernels} kernel for the {missing} yet"


def _no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "none: this torch is built for CPUs only"
    return "none that torch can use"
