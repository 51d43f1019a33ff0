"""Augmentations as modules; those that are tuned are differentiable."""

from stssad_fast.augment.catalogue import PictureAugmentation
from stssad_fast.augment.local import CutOut, CutPaste
from stssad_fast.augment.modules import Augmentation, CutDiff, Rotation

__all__ = ["Augmentation", "CutDiff", "CutOut", "CutPaste", "PictureAugmentation", "Rotation"]
