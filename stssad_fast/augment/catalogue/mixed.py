"""Several augmentations, one after the other."""

import torch
from torch import Tensor

from stssad_fast.augment.catalogue.base import PictureAugmentation, kornia, sometimes, within
from stssad_fast.augment.catalogue.colour import grey, jittered, simclr_strengths
from stssad_fast.augment.catalogue.elementwise import Blur
from stssad_fast.augment.catalogue.geometric import Crop


class SimCLR(PictureAugmentation):
    """SimCLR's (Chen et al. 2020): crop, horizontal flip, colours, grey, blur, in this order.

    The crop is :class:`Crop`; the flip has probability 0.5, the change of colours
    (:func:`jittered`) 0.8, grey 0.2 (pictures of three channels only), and :class:`Blur` 0.5
    (as Chen et al. have it; the study's released code blurs every picture).

    Args:
        strength: of the change of colours, as that of :class:`Color`, in (0, 2.5].

    Raises:
        InputError: strength is out of its range, or kornia is not installed.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = within("strength", strength, 0, 2.5, above=True)
        kornia()
        self.crop, self.blur = Crop(), Blur()

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        image = self.crop(image, generator=generator)
        image = sometimes(image, image.flip(3), 0.5, generator)
        coloured = jittered(image, simclr_strengths(self.strength), generator)
        image = sometimes(image, coloured, 0.8, generator)
        if image.shape[1] == 3:
            image = sometimes(image, grey(image).clamp(0, 1), 0.2, generator)
        return sometimes(image, self.blur(image, generator=generator), 0.5, generator)

    def describe(self) -> dict[str, float]:
        return {"strength": self.strength}
