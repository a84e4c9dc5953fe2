"""What a source is: it turns a block of ``params.yaml`` into samples."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from lossbench.data.samples import Fetched
from lossbench.data.sources.listing import existing_folder
from lossbench.data.sources.names import MODULES
from lossbench.errors import UserError, nearest
from lossbench.lookup import Lookup
from lossbench.options import Options, parse_options
from lossbench.params import Dataset
from lossbench.plugins import is_path, load_object

__all__ = ["SOURCES", "FolderSource", "Options", "Source", "check", "register", "source"]

OptionsT = TypeVar("OptionsT", bound=Options)


class Source(ABC, Generic[OptionsT]):
    """Reads one kind of data. Subclasses are registered by name and live in one file each."""

    name: ClassVar[str]
    options: ClassVar[type[Options]] = Options
    shape: ClassVar[tuple[int, ...] | None] = None
    """Of one sample, where it is the same whatever params say."""

    def check(self, dataset: Dataset, key: str) -> OptionsT:
        """Validate the source's own keys.

        Raises:
            UserError: naming the key's path, what was found and what is allowed.

        """
        return parse_options(self.options, dataset.options, key)  # type: ignore[return-value]  # options is its type

    def read(self, dataset: Dataset, key: str) -> Fetched:
        """Read the samples; ``key`` is the block's path in params.yaml, for messages."""
        return self.load(dataset, self.check(dataset, key), key)

    def input_shape(self, options: OptionsT) -> tuple[int, ...] | None:
        """Return one sample's shape where params alone tell it, before anything is read; else None."""
        size, channels = getattr(options, "size", None), getattr(options, "channels", None)
        if isinstance(size, tuple) and isinstance(channels, int):
            return (channels, *size)
        return self.shape

    @abstractmethod
    def load(self, dataset: Dataset, options: OptionsT, key: str) -> Fetched:
        """Read the samples with checked options."""


class FolderSource(Source[OptionsT]):
    """Reads a folder of the user's, which ``path`` names."""

    def check(self, dataset: Dataset, key: str) -> OptionsT:
        """Check the options, and that the folder is there."""
        options = super().check(dataset, key)
        existing_folder(dataset.path, key)
        return options


SOURCES: Lookup[Source[Any]] = Lookup("lossbench.data.sources", MODULES)
"""Every source by its name in params.yaml, imported when it is asked for."""


def register(kind: type[Source[Any]]) -> type[Source[Any]]:
    """Make a source known under its name."""
    SOURCES.enter(kind.name, kind(), kind.__module__)
    return kind


def source(name: str, key: str) -> Source[Any]:
    """Find a source by name.

    Raises:
        UserError: naming ``key`` and the nearest name.

    """
    if is_path(name):
        made = load_object(name, f"{key}.source")
        if not (isinstance(made, type) and issubclass(made, Source)):
            raise UserError(
                f"'{key}.source' is '{name}', which is no source; "
                "allowed: a subclass of lossbench.data.sources.Source"
            )
        return made()
    if name not in SOURCES:
        raise UserError(f"'{key}.source' names no source: '{name}'; {nearest(name, SOURCES)}")
    return SOURCES[name]


def check(dataset: Dataset, key: str) -> None:
    """Check a dataset's block without reading data."""
    source(dataset.source, key).check(dataset, key)
