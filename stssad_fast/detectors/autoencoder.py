"""Convolutional autoencoder: what it cannot reconstruct is anomalous (Golan & El-Yaniv 2018)."""

from itertools import pairwise

from torch import Tensor, nn

BLOCKS = 4


class ConvAutoEncoder(nn.Module):
    """Four strided blocks down to a code in [-1, 1], and four up to a picture in [0, 1].

    A block is a 3x3 convolution of stride 2, transposed in the decoder, with batch norm and ReLU;
    the k-th has ``width * 2**k`` channels. ``width`` 64 and ``hidden`` 256 are the published sizes.

    Args:
        channels: of the pictures.
        image_size: their height and width in pixels, any.
        width: channels of the first block.
        hidden: dimensions of the code.
    """

    def __init__(
        self, channels: int, image_size: tuple[int, int], width: int = 64, hidden: int = 256
    ) -> None:
        super().__init__()
        sizes = [image_size]
        for _ in range(BLOCKS):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        features = [channels, *(width << k for k in range(BLOCKS))]
        smallest = (features[-1], *sizes[-1])
        count = smallest[0] * smallest[1] * smallest[2]

        down: list[nn.Module] = []
        for inputs, outputs in pairwise(features):
            down += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), *_activated(outputs)]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(count, hidden), nn.Tanh())

        up: list[nn.Module] = [nn.Linear(hidden, count, bias=False), nn.Unflatten(1, smallest)]
        for k in range(BLOCKS, 0, -1):
            even = (1 - sizes[k - 1][0] % 2, 1 - sizes[k - 1][1] % 2)
            up += [
                *_activated(features[k]),
                nn.ConvTranspose2d(features[k], features[k - 1], 3, 2, 1, even, bias=k == 1),
            ]
        self.decoder = nn.Sequential(*up, nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruction in [0, 1] of pictures (B, C, H, W), of the same shape."""
        picture: Tensor = self.decoder(self.encoder(image))
        return picture

    def score(self, image: Tensor) -> Tensor:
        """Mean squared error (B,) of the reconstruction, over pixels and channels."""
        return (self(image) - image).square().flatten(1).mean(1)


def _activated(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU()
