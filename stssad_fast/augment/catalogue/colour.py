"""Augmentations that change colours and leave the pixels where they are."""

from torch import Tensor

from stssad_fast.augment.catalogue.base import OnOff


class Invert(OnOff):
    """The negative: every value ``x`` becomes ``1 − x``."""

    def changed(self, image: Tensor) -> Tensor:
        return 1 - image
