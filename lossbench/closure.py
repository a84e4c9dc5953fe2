"""The code that something runs: the import closure of modules, read from their source.

Not from what happens to be imported, and not from whole folders: a replicate's key holds the files that it
runs, so that a new loss, a docstring or a file elsewhere trains nothing anew. Comments, docstrings and layout
are no part of it; nor are modules called ``names``, which only say where a name is defined: what was looked
up there stands in the closure itself.
"""

import ast
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lossbench.system import write_atomically

PACKAGE = Path(__file__).parent
INIT = "__init__.py"
LOOKUPS = "names"
"""Name of the modules that hold nothing but where names are defined."""
RULES = b"2"
"""Of what is read from a file; to be raised with every change of them."""


@dataclass(frozen=True)
class Closure:
    """What some modules run.

    Attributes:
        files: module → hash of its code, ours and the user's.
        foreign: top-level packages that these import.

    """

    files: Mapping[str, str]
    foreign: frozenset[str] = field(default_factory=frozenset)

    @property
    def digest(self) -> str:
        """Hash of the files' hashes."""
        return hashlib.sha256(json.dumps(sorted(self.files.items())).encode()).hexdigest()


def closure(modules: Iterable[str], user: Path | None = None) -> Closure:
    """Follow the imports of modules, those inside functions included.

    Args:
        modules: names such as ``lossbench.training.loop``.
        user: folder of the user's own modules, on ``sys.path``.

    Returns:
        Ours and the user's modules, each with the packages that its import runs; of the rest, the names.

    """
    memory = _memory()
    waiting = list(modules)
    files: dict[str, str] = {}
    foreign: set[str] = set()
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        file = source_of(name, user)
        if file is None:
            if name.partition(".")[0] not in sys.stdlib_module_names:
                foreign.add(name.partition(".")[0])
            continue
        waiting += _parents(name)
        if name.rpartition(".")[2] == LOOKUPS:
            continue
        code = memory.read(file)
        files[name] = code.digest
        waiting += _imports(code, name, file, user)
    memory.keep()
    return Closure(files, frozenset(foreign))


def loaded() -> dict[str, bytes]:
    """Keep the source of our modules as they are imported now: a file may be edited while a process lives."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return {
        name: Path(file).read_bytes()
        for name, file in files.items()
        if file is not None and name.partition(".")[0] == PACKAGE.name
    }


def edited(code: Closure, before: Mapping[str, bytes]) -> list[str]:
    """Name the modules of a closure whose code differs from what was imported; see :func:`loaded`."""
    both = sorted(code.files.keys() & before.keys())
    return [name for name in both if _memory().of(before[name], name).digest != code.files[name]]


def source_of(module: str, user: Path | None = None) -> Path | None:
    """Find a module's file among ours and the user's; None for anybody else's."""
    top, _, inside = module.partition(".")
    if top == PACKAGE.name:
        return _file(PACKAGE, inside)
    return None if user is None else _file(user, module)


def _file(folder: Path, module: str) -> Path | None:
    # Strings: a run asks for tens of thousands of names, most of which are no modules.
    path = os.path.join(folder, *module.split("."))  # noqa: PTH118  # as above
    for one in (os.path.join(path, INIT), f"{path}.py"):  # noqa: PTH118  # as above
        if os.path.isfile(one):  # noqa: PTH113  # as above
            return Path(one)
    return None


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imports(code: "_Code", module: str, file: Path, user: Path | None) -> Iterator[str]:
    """List the modules that a module imports; ``from package import name`` may mean either."""
    package = module if file.name == INIT else module.rpartition(".")[0]
    for level, base, names in code.imports:
        if level:
            above = package.split(".")[: len(package.split(".")) - level + 1]
            whole = ".".join([*above, *([base] if base else [])])
        else:
            whole = base
        yield whole
        within = source_of(whole, user) if names else None
        if within is not None and within.name != INIT:  # a module has none inside
            continue
        for name in names:
            if source_of(f"{whole}.{name}", user) is not None:
                yield f"{whole}.{name}"


@dataclass(frozen=True)
class _Code:
    digest: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]


class _Memory:
    """What files were found to hold, by the hash of their bytes: parsing takes a hundred times as long."""

    def __init__(self) -> None:
        self._file = Path(os.environ.get("LOSSBENCH_HOME", ".lossbench")) / "closures.json"
        self._new = False
        try:
            content = json.loads(self._file.read_bytes())
            self.code = {
                key: _Code(digest, tuple((level, base, tuple(names)) for level, base, names in imports))
                for key, (digest, imports) in content["code"].items()
            }
            self.providers: dict[str, list[str]] = content["providers"]
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or none that can be read: made anew
            self.code, self.providers = {}, {}

    def read(self, file: Path) -> _Code:
        return self.of(file.read_bytes(), str(file))

    def of(self, content: bytes, name: str) -> _Code:
        key = hashlib.sha256(RULES + content).hexdigest()
        if key not in self.code:
            tree = ast.parse(content, name)
            digest = hashlib.sha256()
            for piece in _shape(tree):
                digest.update(piece.encode(errors="surrogatepass") + b"\0")
            self.code[key] = _Code(digest.hexdigest(), tuple(_found(tree)))
            self._new = True
        return self.code[key]

    def distributions(self, package: str) -> list[str]:
        """Name the distributions that give a top-level package."""
        if package not in self.providers:
            self.providers[package] = sorted(set(_providers(_stamps()).get(package, ())))
            self._new = True
        return self.providers[package]

    def keep(self) -> None:
        """Write it down, if there is a private folder to write to."""
        if not self._new or not self._file.parent.is_dir():
            return
        code = {key: [one.digest, one.imports] for key, one in self.code.items()}
        write_atomically(self._file, json.dumps({"code": code, "providers": self.providers}))
        self._new = False


@cache
def _memory() -> _Memory:
    return _Memory()


@lru_cache(maxsize=1)
def _providers(_: tuple[tuple[str, int], ...]) -> Mapping[str, list[str]]:
    """List which distributions give each package: a second's reading, done once until one is installed."""
    return packages_distributions()


def _stamps() -> tuple[tuple[str, int], ...]:
    """When each folder of ``sys.path`` last got or lost an entry, as it does when something is installed."""
    return tuple((one, Path(one or ".").stat().st_mtime_ns) for one in sys.path if Path(one or ".").exists())


def _shape(node: ast.AST) -> Iterator[str]:
    """Write a tree without positions and docstrings, alike under every Python that reads the same source."""
    if isinstance(node, ast.If) and _only_types(node.test):
        for other in node.orelse:
            yield from _shape(other)
        return
    yield type(node).__name__
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or value == []:  # fields that only some Pythons have
            continue
        yield name
        listed = value if isinstance(value, list) else [value]
        if name == "body":
            listed = [one for one in listed if not _only_told(one)]
        for one in listed:
            if isinstance(one, ast.AST):
                yield from _shape(one)
            else:
                yield repr(one)
    yield ")"


def _only_told(statement: ast.AST) -> bool:
    """Say whether a statement is a string alone: a docstring, of whatever stands above it too."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _found(node: ast.AST) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Find imports, but for those that type checkers alone see."""
    if isinstance(node, ast.If) and _only_types(node.test):
        for other in node.orelse:
            yield from _found(other)
        return
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield 0, alias.name, ()
    elif isinstance(node, ast.ImportFrom):
        yield node.level, node.module or "", tuple(alias.name for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _found(child)


def _only_types(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def versions_of(packages: Iterable[str], deep: bool = False) -> dict[str, str]:
    """Return the versions of the distributions that give top-level packages, from their metadata.

    Args:
        packages: as imported; those that are not installed are left out.
        deep: also of what these require and is installed.

    """
    memory = _memory()
    waiting = [name for package in packages for name in memory.distributions(package)]
    memory.keep()
    found: dict[str, str] = {}
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        made = _installed(name, _stamps())
        if made is None:
            continue
        found[name], needed = made
        if deep:
            waiting += needed
    return dict(sorted(found.items()))


@cache
def _installed(name: str, _: tuple[tuple[str, int], ...]) -> tuple[str, tuple[str, ...]] | None:
    """Version of a distribution and what it needs here: read once until something is installed."""
    try:
        made = distribution(name)
    except PackageNotFoundError:
        return None
    needed = map(Requirement, made.requires or ())
    return made.version, tuple(
        one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})
    )
