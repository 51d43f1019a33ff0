"""The augmentations of the study "Data Augmentation is a Hyperparameter" (appendix B).

Where the text of the study and its released code differ, these do what the code does, but for
SimCLR's blur, CutOut-c's c, and noise, which is clamped to [0, 1] (docs/results/augmentations.md).
"""

from stssad_fast.augment.catalogue.base import PictureAugmentation
from stssad_fast.augment.catalogue.named import Named
from stssad_fast.augment.catalogue.table import FAMILIES, NAMES, TITLES, make

__all__ = ["FAMILIES", "NAMES", "TITLES", "Named", "PictureAugmentation", "make"]
