"""Self-tuning self-supervised anomaly detection on images (ST-SSAD)."""

from stssad_fast.augment import CutDiff, Rotation
from stssad_fast.errors import InputError
from stssad_fast.estimator import STSSAD
from stssad_fast.ops import cutdiff, mean_distance_loss, patch_parameters, patch_shape, rotate
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
