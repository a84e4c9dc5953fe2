"""Models: one file per architecture."""

from typing import TYPE_CHECKING

from lossbench.lookup import lazily

if TYPE_CHECKING:
    from lossbench.models.base import MODELS as MODELS
    from lossbench.models.base import build as build
    from lossbench.models.base import check as check
    from lossbench.models.names import LOOP_ONLY as LOOP_ONLY

__getattr__ = lazily(
    __name__,
    {
        "MODELS": "base",
        "LOOP_ONLY": "names",
        "build": "base",
        "check": "base",
    },
)
