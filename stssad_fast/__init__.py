"""Self-tuning self-supervised anomaly detection on images (ST-SSAD).

The ops and their modules need torch alone; the estimator, and what it needs, is imported when it is
first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stssad_fast.augment import CutDiff, Rotation
from stssad_fast.errors import InputError
from stssad_fast.ops import cutdiff, mean_distance_loss, patch_parameters, patch_shape, rotate

if TYPE_CHECKING:
    from stssad_fast.estimator import STSSAD
    from stssad_fast.recommendation import recommend

__all__ = [
    "STSSAD",
    "CutDiff",
    "InputError",
    "Rotation",
    "cutdiff",
    "mean_distance_loss",
    "patch_parameters",
    "patch_shape",
    "recommend",
    "rotate",
]

if not TYPE_CHECKING:  # a type checker would take every name for one of these
    LATER = {"STSSAD": "estimator", "recommend": "recommendation"}
    PACKAGES = ("baselines", "datasets", "detectors")

    def __getattr__(name: str) -> Any:
        if name in PACKAGES:
            return import_module(f"{__name__}.{name}")
        if name not in LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{LATER[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *LATER, *PACKAGES})
