"""Detectors that are not tuned, as estimators with the methods of STSSAD.

Those of ST-SSAD's tables (paper, 4), and those of "Data Augmentation is a Hyperparameter" (2.4),
which learn from an augmentation that is given.
"""

from stssad_fast.baselines.autoencoder import AutoEncoder
from stssad_fast.baselines.base import Baseline, Callback
from stssad_fast.baselines.deep_svdd import DeepSAD, DeepSVDD
from stssad_fast.baselines.frozen import FrozenFeatures
from stssad_fast.baselines.predictor import AugmentationPredictor

__all__ = [
    "AugmentationPredictor",
    "AutoEncoder",
    "Baseline",
    "Callback",
    "DeepSAD",
    "DeepSVDD",
    "FrozenFeatures",
]
