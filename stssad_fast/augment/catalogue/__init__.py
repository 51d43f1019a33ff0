"""The augmentations of the study "Data Augmentation is a Hyperparameter" (appendix B).

Where the text of the study and its released code differ, these do what the code does.
"""

from stssad_fast.augment.catalogue.base import PictureAugmentation
from stssad_fast.augment.catalogue.named import Named
from stssad_fast.augment.catalogue.table import FAMILIES, NAMES, TITLES, make

__all__ = ["FAMILIES", "NAMES", "TITLES", "Named", "PictureAugmentation", "make"]
