"""The Triton kernels: registered for CUDA where Triton imports, and never an error.

Without them every operator runs on its reference implementation there. The environment variable
``STSSAD_FAST_TRITON=0`` switches them off; it is read once.
"""

import importlib
import os
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch

from stssad_fast.ops._operators import LIBRARY

# Module of stssad_fast.kernels, and the operators that it has a function each for.
_KERNELS = {
    "batch_norm": ("batch_norm", "batch_norm_backward", "batch_norm_double_backward"),
    "cutdiff": ("cutdiff", "cutdiff_backward"),
    "mean_distance": ("mean_distance_loss", "mean_distance_loss_backward"),
}


def register(library: torch.library.Library, key: str) -> None:
    """Make the kernels the implementation of the operators of ``library`` for a dispatch key.

    Raises:
        ImportError: Triton is missing.
    """
    modules = {name: importlib.import_module(f"stssad_fast.kernels.{name}") for name in _KERNELS}
    for name, operators in _KERNELS.items():
        for operator in operators:
            library.impl(operator, _on_its_device(getattr(modules[name], operator)), key)


def _on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Launch where the first tensor is: Triton takes the current device."""

    @wraps(function)
    def launch(*arguments: Any) -> Any:
        first = next(value for value in arguments if value is not None)
        with torch.cuda.device_of(first):
            return function(*arguments)

    return launch


@cache
def why_not() -> str | None:
    """Register the kernels at the first call; return why they are not in use, None if they are."""
    if os.environ.get("STSSAD_FAST_TRITON", "").strip() == "0":
        return "switched off by STSSAD_FAST_TRITON=0"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    try:
        register(LIBRARY, "CUDA")
    except Exception as error:
        cause = " ".join(str(error).split())
        return f"they did not load ({type(error).__name__}: {cause})"
    return None


def load() -> bool:
    """Register the kernels if that has not been tried yet; return whether they are in use."""
    return why_not() is None
