"""Networks: with an embedding and a logit (STSSAD), or those of the baselines."""

from stssad_fast.detectors.autoencoder import ConvAutoEncoder
from stssad_fast.detectors.backbone import BackboneDetector, backbone_name, module_digest
from stssad_fast.detectors.deep_svdd import SVDDNetwork
from stssad_fast.detectors.pretrained import efficientnet_lite0
from stssad_fast.detectors.resnet import MIN_IMAGE_SIZE, ResNetDetector
from stssad_fast.detectors.wide_resnet import WideResNet

__all__ = [
    "MIN_IMAGE_SIZE",
    "BackboneDetector",
    "ConvAutoEncoder",
    "ResNetDetector",
    "SVDDNetwork",
    "WideResNet",
    "backbone_name",
    "efficientnet_lite0",
    "module_digest",
]
