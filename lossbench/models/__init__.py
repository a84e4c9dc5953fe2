"""Models: one file per architecture."""

from lossbench.models import (
    autoencoder,
    detector,
    lenet,
    lstm,
    mnist_cnn,
    resnet,
    simple_cnn,
    torchvision,
    unet,
)
from lossbench.models.base import MODELS, build, check

__all__ = [
    "MODELS",
    "autoencoder",
    "build",
    "check",
    "detector",
    "lenet",
    "lstm",
    "mnist_cnn",
    "resnet",
    "simple_cnn",
    "torchvision",
    "unet",
]
