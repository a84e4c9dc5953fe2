"""Sources: digits, digit scenes, MNIST and its kin, CIFAR-10, and the user's own folders."""

from typing import TYPE_CHECKING

from lossbench.lookup import lazily

if TYPE_CHECKING:
    from lossbench.data.sources.base import SOURCES as SOURCES
    from lossbench.data.sources.base import Source as Source
    from lossbench.data.sources.base import check as check
    from lossbench.data.sources.base import register as register
    from lossbench.data.sources.base import source as source

__getattr__ = lazily(
    __name__,
    {
        "SOURCES": "base",
        "Source": "base",
        "check": "base",
        "register": "base",
        "source": "base",
    },
)
