"""Names and where what they name is defined: a module is imported when one of its names is asked for.

Hence a process imports what it uses, and a replicate's key holds the code that it runs: a new file beside it
changes nothing. A package has such a table in its module ``names``; ``__init__`` may give the same objects
out under their Python names.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Lookup(Mapping[str, T], Generic[T]):
    """A registry that imports on demand.

    Args:
        package: whose modules hold the objects.
        where: name → module of the package, whose import enters the object.

    """

    def __init__(self, package: str, where: Mapping[str, str]) -> None:
        self._package, self._where = package, where
        self._entered: dict[str, T] = {}

    def enter(self, name: str, made: T, module: str) -> bool:
        """Enter an object under its name; ``module`` is where it is defined.

        Returns:
            Whether it was: one of the user's own is named by its path, and needs no entry.

        Raises:
            ValueError: if the table of names says otherwise, or another object has the name.

        """
        if module.partition(".")[0] != self._package.partition(".")[0]:
            return False
        stated = f"{self._package}.{self._where[name]}" if name in self._where else None
        if stated != module:
            raise ValueError(
                f"{self._package}.names says that {name!r} is defined in {stated}, but {module} enters it; "
                f"add it there: {name!r}: {module.removeprefix(self._package + '.')!r}"
            )
        if name in self._entered:
            raise ValueError(f"{module} enters two objects under {name!r}")
        self._entered[name] = made
        return True

    def __getitem__(self, name: str) -> T:
        if name not in self._entered:
            import_module(f"{self._package}.{self._where[name]}")
        return self._entered[name]

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def lazily(package: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__`` (PEP 562) for objects that are imported when first asked for.

    Args:
        package: its ``__name__``.
        where: name of the object → module of the package; an empty module is the module of that name itself.

    """

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{where[name] or name}")
        return getattr(module, name) if where[name] else module

    return get
