"""The native extension ``stssad_fast._C``: loaded late, and never an error.

Loading it registers the C++ kernels of the operators for the CPU. Without it every operator
runs on its reference implementation. The environment variable ``STSSAD_FAST_NATIVE=0`` switches
it off, ``STSSAD_FAST_SIMD`` chooses the instruction set (portable, avx2 or avx512) that is
otherwise the best of the machine; both are read once.
"""

import importlib
import importlib.util
import os
import warnings
from functools import cache
from types import ModuleType

_NAME = "stssad_fast._C"


@cache
def _attempt() -> tuple[ModuleType | None, str | None]:
    """Load the extension once; return it, or the reason why it did not load."""
    if os.environ.get("STSSAD_FAST_NATIVE", "").strip() == "0":
        return None, "switched off by STSSAD_FAST_NATIVE=0"
    if importlib.util.find_spec(_NAME) is None:
        return None, (
            "not built; in the source folder, STSSAD_FAST_BUILD=cpu"
            " pip install --no-build-isolation . builds it, or says why it cannot"
        )
    try:
        importlib.import_module("torch")  # _C finds its symbols in the libraries that torch loads
        module = importlib.import_module(_NAME)
    except Exception as error:
        cause = " ".join(str(error).split())
        return None, f"built, but it did not load ({type(error).__name__}: {cause})"
    wish = os.environ.get("STSSAD_FAST_SIMD", "")
    if wish and wish not in module.simd_levels():
        known = ", ".join(module.simd_levels())
        warnings.warn(
            f"STSSAD_FAST_SIMD={wish!r} is not one of this machine's {known};"
            f" using {module.simd_level()}",
            stacklevel=2,
        )
    return module, None


def load() -> bool:
    """Load the extension if that has not been tried yet; return whether it is there."""
    return _attempt()[0] is not None


def why_not() -> str | None:
    """Return in one sentence why the extension is not in use; None if it is."""
    return _attempt()[1]


def simd_level() -> str | None:
    """Return the instruction set in use: portable, avx2 or avx512; None without the extension."""
    module = _attempt()[0]
    return None if module is None else str(module.simd_level())


def build_info() -> dict[str, str] | None:
    """Return torch, target, compiler and flags of the build; None if it is not in use."""
    module = _attempt()[0]
    return None if module is None else dict(module.build_info())


def status() -> str:
    """Return one sentence for a person: in use and how built, or not in use and why."""
    module = _attempt()[0]
    if module is None:
        return f"{why_not()}"
    info = module.build_info()
    built = f"built by {info['compiler']} with torch {info['torch']}"
    return f"loaded, {module.simd_level()}; {built} for torch >= {info['target']}"
