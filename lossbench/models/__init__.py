"""Models: one file per architecture."""

from lossbench.models import lenet, mnist_cnn, resnet, simple_cnn, torchvision, unet
from lossbench.models.base import MODELS, build, check

__all__ = ["MODELS", "build", "check", "lenet", "mnist_cnn", "resnet", "simple_cnn", "torchvision", "unet"]
