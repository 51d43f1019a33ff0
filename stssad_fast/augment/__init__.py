"""Differentiable augmentations as modules."""

from stssad_fast.augment.modules import Augmentation, CutDiff, Rotation

__all__ = ["Augmentation", "CutDiff", "Rotation"]
