"""Wide ResNet, a classifier (Zagoruyko & Komodakis 2016)."""

import torch
from torch import Tensor, nn

from stssad_fast.detectors.normalising import Normalising
from stssad_fast.detectors.resnet import BatchNorm, Conv1x1, Conv3x3


class PreActivatedBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = BatchNorm(inputs, relu=True)
        self.conv1 = Conv3x3(inputs, outputs, stride)
        self.norm2 = BatchNorm(outputs, relu=True)
        self.conv2 = Conv3x3(outputs, outputs)
        self.shortcut = (
            Conv1x1(inputs, outputs, stride) if stride != 1 or inputs != outputs else None
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x)
        kept = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = kept + self.conv2(self.norm2(self.conv1(active)))
        return out


class WideResNet(Normalising):
    """Three stages of blocks, pooled features, and one linear map to the classes.

    As published for pictures of up to 32 px; larger ones get a stem of stride 2, beyond 64 px one
    of 7x7 and stride 4. Normalisation by ``mean`` and ``std`` happens here, after augmentation.

    Args:
        channels: of the pictures.
        classes: to tell apart.
        depth: layers, ``6 n + 4`` for n blocks a stage.
        widen: factor of the channels, which are 16, 32 and 64 in the three stages.
        image_size: the shorter side of the pictures in pixels; selects the stem.
        mean, std: per channel, of the training pictures.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        depth: int = 10,
        widen: int = 4,
        image_size: int = 32,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__(channels, mean, std)
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth is {depth}; WideResNet needs 6 n + 4: 10, 16, 22, 28, ...")
        kernel, stride = (3, 1) if image_size <= 32 else (3, 2) if image_size <= 64 else (7, 4)
        self.stem = nn.Conv2d(channels, 16, kernel, stride, kernel // 2, bias=False)
        blocks, inputs = [], 16
        for stage in range(3):
            outputs = widen * 16 << stage
            for index in range((depth - 4) // 6):
                blocks.append(PreActivatedBlock(inputs, outputs, 2 if stage and not index else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = BatchNorm(inputs, relu=True)
        self.head = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, image: Tensor) -> Tensor:
        """Pooled features (B, 64 * widen) of pictures (B, C, H, W) in [0, 1]."""
        x = self.normalised(image)
        # Channels-last is the faster layout of all that follows. Grey pictures have no layout.
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        x = x.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.norm(self.blocks(x)).mean((2, 3))
        return features

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.head(self.embed(image))
        return logits
