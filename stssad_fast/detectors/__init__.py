"""Networks that give an embedding and a logit."""

from stssad_fast.detectors.resnet import MIN_IMAGE_SIZE, ResNetDetector

__all__ = ["MIN_IMAGE_SIZE", "ResNetDetector"]
