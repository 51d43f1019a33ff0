"""ResNet embedding with an MLP head (paper, 4; He et al. 2016)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stssad_fast.detectors.normalising import Normalising
from stssad_fast.ops import conv3x3
from stssad_fast.ops.batch_norm import batch_norm, follow, has_kernel

MIN_IMAGE_SIZE = 16


class BatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with what follows it: ``act(norm(x) + residual)``, ReLU or nothing.

    In training it is the op, whose second derivative is a kernel, where there is one; parameters,
    running statistics and evaluation are those of ``nn.BatchNorm2d``.
    """

    def __init__(self, features: int, relu: bool = False) -> None:
        super().__init__(features)
        self.relu = relu

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if not (self.training and has_kernel(x)):
            y = super().forward(x)
            y = y if residual is None else y + residual
            return F.relu(y) if self.relu else y
        y, mean, var = batch_norm(x, self.weight, self.bias, residual, relu=self.relu, eps=self.eps)
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        count = x.numel() // x.shape[1]
        follow(self.running_mean, self.running_var, mean, var, count, self.momentum)
        return y


class Conv3x3(nn.Conv2d):
    """``nn.Conv2d`` with 3x3 weights, padding 1 and no bias; by the op where the stride is 1."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return conv3x3(x, self.weight) if self.stride == (1, 1) else super().forward(x)


class Conv1x1(nn.Conv2d):
    """``nn.Conv2d`` with 1x1 weights and no bias, of the pixels that the stride leaves.

    They are taken first, and convolved with stride 1: for the weights of a strided one,
    channels-last and of few channels, oneDNN (of PyTorch 2.13) on AVX-512 writes past its memory
    where several threads share an odd batch.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        down, right = self.stride
        return torch.conv2d(x[:, :, ::down, ::right], self.weight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(inputs, outputs, stride)
        self.norm1 = BatchNorm(outputs, relu=True)
        self.conv2 = Conv3x3(outputs, outputs)
        self.norm2 = BatchNorm(outputs, relu=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(Conv1x1(inputs, outputs, stride), BatchNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm1(self.conv1(x))
        out = self.norm2(self.conv2(out), self.shortcut(x))
        return out


class ResNetDetector(Normalising):
    """ResNet of selectable width; its pooled features are the embedding, an MLP classifies them.

    Pictures of up to 32 px get a 3x3 stem, up to 64 px a 3x3 stem of stride 2, larger ones the
    7x7 stem of stride 2 followed by pooling. Normalisation by ``mean`` and ``std``
    happens here, after augmentation.

    Args:
        channels: of the pictures, 1 or 3.
        width: channels of the first stage; the embedding has ``8 * width`` dimensions. 64 is
            ResNet-18 as published.
        image_size: side of the pictures in pixels, at least 16; selects the stem.
        mean, std: per channel, of the training pictures.
        unit_embedding: scale every embedding to length 1.
        depth: 18, as published, or 10: one block a stage instead of two, half the time.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        image_size: int = 256,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        unit_embedding: bool = True,
        depth: Literal[10, 18] = 18,
    ) -> None:
        super().__init__(channels, mean, std)
        if image_size < MIN_IMAGE_SIZE:
            raise ValueError(
                f"image_size is {image_size}; ResNetDetector needs at least {MIN_IMAGE_SIZE} px"
            )
        self.unit_embedding = unit_embedding
        if image_size <= 64:
            stride = 1 if image_size <= 32 else 2
            self.stem = nn.Sequential(
                nn.Conv2d(channels, width, 3, stride, 1, bias=False),
                BatchNorm(width, relu=True),
            )
        else:
            self.stem = nn.Sequential(
                nn.Conv2d(channels, width, 7, 2, 3, bias=False),
                BatchNorm(width, relu=True),
                nn.MaxPool2d(3, 2, 1),
            )
        blocks, inputs = [], width
        for stage in range(4):
            outputs = width << stage
            blocks.append(BasicBlock(inputs, outputs, 1 if stage == 0 else 2))
            if depth == 18:
                blocks.append(BasicBlock(outputs, outputs, 1))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, image: Tensor) -> Tensor:
        """Embedding (B, 8 * width) of pictures (B, C, H, W) in [0, 1]."""
        x = self.normalised(image)
        # Channels-last is the faster layout of all that follows. Grey pictures have no layout.
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        x = x.contiguous(memory_format=torch.channels_last)
        z = self.blocks(x).mean((2, 3))
        return F.normalize(z, dim=1) if self.unit_embedding else z

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding (B, 8 * width), and the logit (B,) of being augmented."""
        z = self.embed(image)
        return z, self.head(z)[:, 0]
