"""Sources: digits, digit scenes, MNIST and its kin, CIFAR-10, and the user's own folders."""

from lossbench.data.sources import (
    cifar,
    coco,
    digit_scenes,
    digits,
    embedded_text,
    folders,
    mnist,
    multilabel_csv,
    text_file,
    voc,
)
from lossbench.data.sources.base import SOURCES, Source, check, register, source

__all__ = [
    "SOURCES",
    "Source",
    "check",
    "cifar",
    "coco",
    "digit_scenes",
    "digits",
    "embedded_text",
    "folders",
    "mnist",
    "multilabel_csv",
    "register",
    "source",
    "text_file",
    "voc",
]
