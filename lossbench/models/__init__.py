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

LOOP_ONLY = frozenset({"lstm"})
"""Models that no population can train: torch has no rule for stacking an LSTM."""

__all__ = [
    "LOOP_ONLY",
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
