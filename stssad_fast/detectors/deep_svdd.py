"""Deep SVDD: normal pictures are drawn together, others lie outside (Ruff et al. 2018)."""

import torch
from torch import Tensor, nn

from stssad_fast.detectors.normalising import Normalising

BLOCKS = 3
CENTER_MARGIN = 0.1


class SVDDNetwork(Normalising):
    """A LeNet whose embeddings lie near a centre if the picture is normal.

    Three blocks: 5x5 convolution, batch norm, leaky ReLU, 2x2 pooling; the k-th has
    ``width * 2**k`` channels, 32 being the published width. Then one linear map. No layer
    has a bias and the last has no activation that is bounded: with either, all pictures could be
    sent to the centre, whatever they show (the paper's Propositions 2 and 3).

    Args:
        channels: of the pictures.
        image_size: their height and width in pixels, at least 8 each.
        width: channels of the first block.
        hidden: dimensions of the embedding.
        mean, std: per channel, of the training pictures.
    """

    center: Tensor

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        width: int = 32,
        hidden: int = 128,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__(channels, mean, std)
        self.register_buffer("center", torch.zeros(hidden))
        layers: list[nn.Module] = []
        inputs = channels
        for k in range(BLOCKS):
            outputs = width << k
            layers += [
                nn.Conv2d(inputs, outputs, 5, padding=2, bias=False),
                nn.BatchNorm2d(outputs, eps=1e-4, affine=False),
                nn.LeakyReLU(),
                nn.MaxPool2d(2),
            ]
            inputs = outputs
        height, length = (side >> BLOCKS for side in image_size)
        layers += [nn.Flatten(), nn.Linear(inputs * height * length, hidden, bias=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Embedding (B, hidden) of pictures (B, C, H, W) in [0, 1]."""
        embedding: Tensor = self.layers(self.normalised(image))
        return embedding

    def set_center(self, mean: Tensor) -> None:
        """Put the centre at ``mean`` (hidden,), the mean embedding before training.

        Entries nearer to 0 than 0.1 are moved there: a zero is matched by weights of zero.
        """
        away = torch.where(mean < 0, -CENTER_MARGIN, CENTER_MARGIN)
        self.center.copy_(torch.where(mean.abs() < CENTER_MARGIN, away, mean))

    def score(self, image: Tensor) -> Tensor:
        """Squared distance (B,) to the centre."""
        return (self(image) - self.center).square().sum(1)
