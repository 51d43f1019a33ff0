"""Pictures in [0, 1] are normalised by the network, after augmentation."""

import torch
from torch import Tensor, nn


class Normalising(nn.Module):
    """A network that holds mean and standard deviation of each channel; absent: 0 and 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Tensor | None, std: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels) if mean is None else mean.clone())
        self.register_buffer("std", torch.ones(channels) if std is None else std.clone())

    def normalised(self, image: Tensor) -> Tensor:
        """``(image - mean) / std`` of pictures (B, C, H, W)."""
        return (image - self.mean[:, None, None]) / self.std[:, None, None]
