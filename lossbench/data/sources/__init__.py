"""Sources: digits, digit scenes, MNIST and its kin, CIFAR-10, and the user's own folders."""

from lossbench.data.sources import cifar, digit_scenes, digits, folders, mnist
from lossbench.data.sources.base import SOURCES, Source, check, register, source

__all__ = [
    "SOURCES",
    "Source",
    "check",
    "cifar",
    "digit_scenes",
    "digits",
    "folders",
    "mnist",
    "register",
    "source",
]
