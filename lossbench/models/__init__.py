"""Models: one file per architecture."""

from lossbench.models import simple_cnn, unet
from lossbench.models.base import MODELS, build, check

__all__ = ["MODELS", "build", "check", "simple_cnn", "unet"]
