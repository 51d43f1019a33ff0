"""Which implementation the ops use on this machine, and why."""

import platform
from dataclasses import dataclass

import torch

from stssad_fast.devices import versions
from stssad_fast.ops import extension, triton_kernels

OPS = ("cutdiff", "rotate", "mean_distance_loss", "batch_norm")
# On a GPU: the others are Triton's there.
IN_EXTENSION = ("rotate",)
WITHOUT_CUDA = (
    "built for CPUs only; in the source folder, STSSAD_FAST_BUILD=cuda"
    " pip install --no-build-isolation . builds the rest, or says why it cannot"
)


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
            found.append(Choice(op, device, forward, backward, _why(op, device, forward, backward)))
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


def _why(op: str, device: str, forward: str, backward: str) -> str:
    if "reference" not in (forward, backward):
        return f"a {device} kernel is registered for both directions"
    if device == "CUDA" and torch.version.cuda is None:
        return f"no GPU kernels: torch {torch.__version__} was built without CUDA"
    if device == "CUDA" and op not in IN_EXTENSION:
        return f"no Triton kernels: {triton_kernels.why_not()}"
    return f"native extension {extension.why_not() or WITHOUT_CUDA}"


def _no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "none: this torch is built for CPUs only"
    return "none that torch can use"
