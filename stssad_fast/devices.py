"""Where to compute, and with which versions."""

import platform
from importlib import metadata

import torch

from stssad_fast.errors import InputError


def find_device(name: str | torch.device) -> torch.device:
    """The torch device, or the one of this name; ``"auto"`` is a GPU if there is one.

    Raises:
        InputError: there is no such device, or it cannot be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} cannot be used ({error}); choose 'auto', 'cpu', 'cuda' or a "
            "torch.device"
        ) from error
    return device


def versions() -> dict[str, str]:
    """Versions of this package, torch and Python, by name."""
    try:
        own = metadata.version("stssad-fast")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        own = "not installed"
    return {"stssad_fast": own, "torch": torch.__version__, "python": platform.python_version()}
