"""The code that something runs: the import closure of modules, read from their source.

Not from what happens to be imported, and not from whole folders: a replicate's key holds the files that it
runs, so that a new loss, a docstring or a file elsewhere trains nothing anew. Comments, docstrings and layout
are no part of it; nor are our modules called ``names``, which only say where a name is defined: what was
looked up there stands in the closure itself.

Of the user's code also what no import statement says: modules that ``import_module`` is given by name,
compiled ones, and files of the code folder that a module names in strings. The user's are the modules of
that folder, and those that are installed as they stand elsewhere (``pip install --editable``) or lie on
``PYTHONPATH``: the version of such a package stays the same through all edits.
"""

import ast
import hashlib
import json
import os
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lossbench.system import write_atomically

PACKAGE = Path(__file__).parent
LOOKUPS = "names"
"""Name of the modules that hold nothing but where names are defined."""
RULES = b"4"
"""Of what is read from a file; to be raised with every change of them."""
FILE_NAME = re.compile(r"[^\n\0]{0,200}\.\w{1,10}|[^\s\0]{1,100}")
"""A string that may name a file, or a folder on the way to it."""


OUTS = frozenset({"data", "models", "reports"})
"""Folders of a study that runs write."""


@dataclass(frozen=True)
class Closure:
    """What some modules run.

    Attributes:
        files: module → hash of its code, ours and the user's; ``module: name`` → that of a file it names.
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
    memory, tops = _memory(), _tops(user)

    @cache
    def find(module: str) -> Path | None:  # the same are asked for again and again
        return source_of(module, user if module.partition(".")[0] in tops else None)

    waiting = list(modules)
    files: dict[str, str] = {}
    foreign: set[str] = set()
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        file = find(name)
        if file is None:
            if name.partition(".")[0] not in sys.stdlib_module_names:
                foreign.add(name.partition(".")[0])
            continue
        waiting += _parents(name)
        ours = name.partition(".")[0] == PACKAGE.name
        if ours and name.rpartition(".")[2] == LOOKUPS:
            continue
        code = memory.read(file)
        files[name] = code.digest
        waiting += _imports(code.imports, name, file, find)
        if not ours:
            named = tuple(one for one in code.named if one[1] or file.name == "__init__.py")
            waiting += _imports(named, name, file, find)
            folder = _folder_of(name, file, user)
            for word, path in _told(code.words, file, folder):
                own = _module_of(path, folder)
                if own is not None and find(own) == path:
                    waiting.append(own)  # run as it stands, or imported by its path
                else:
                    files[f"{name}: {word}"] = _hash_of(path)
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
    top, *rest = module.split(".")
    if top == PACKAGE.name:
        return _file(PACKAGE, rest, (".py",))
    found = None if user is None else _file(user, [top, *rest], OWN_SUFFIXES)
    if found is not None:
        return found
    place = users_own(top)
    return None if place is None else _file(place.parent, [top, *rest], OWN_SUFFIXES)


def _tops(folder: Path | None) -> set[str]:
    """Name what lies in a folder, as modules are named: what is not there is not looked for each time."""
    return set() if folder is None else {name.partition(".")[0] for name in _entries(folder)}


OWN_SUFFIXES = (*EXTENSION_SUFFIXES, ".py")
"""Of modules, in the order in which Python looks for them."""


def _file(folder: Path, parts: list[str], suffixes: Iterable[str]) -> Path | None:
    path = "/".join((str(folder), *parts))
    modules = [path + suffix for suffix in suffixes] if parts else []
    candidates = (f"{path}/__init__.py", *modules)
    # Thousands a run: pathlib would take most of what a collecting stage takes.
    found = next((one for one in candidates if os.path.isfile(one)), None)  # noqa: PTH113  # pathlib costs more, thousands of times
    return None if found is None else Path(found)


def users_own(top: str) -> Path | None:
    """Find a top-level module's file or folder, if it is neither ours, nor Python's, nor installed.

    What is installed as it stands elsewhere is the user's own, as is what lies on ``PYTHONPATH``.
    """
    if top in sys.stdlib_module_names or top == PACKAGE.name:
        return None
    return _users_own(top, tuple(sys.path))


@cache
def _users_own(top: str, _: tuple[str, ...]) -> Path | None:
    try:
        spec = find_spec(top)
    except (ValueError, ImportError):
        return None
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        return None
    folders = list(spec.submodule_search_locations or ())
    place = Path(folders[0] if folders else spec.origin or "")
    installed = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    # Of another environment, too: one may be put behind another.
    elsewhere = any(part.endswith("-packages") for part in place.parts)
    if elsewhere or place.suffix not in ("", ".py") or any(place.is_relative_to(one) for one in installed):
        return None
    return place.resolve()


def _folder_of(module: str, file: Path, user: Path | None) -> Path:
    """The folder of the user's in which a module lies: the code folder, or that of its package."""
    if user is not None and file.is_relative_to(user):
        return user
    return file.parents[module.count(".") + (file.name == "__init__.py")]


def _told(words: Iterable[str], file: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Find the files of a folder that a module names, as seen from itself, from the folder or from above.

    In one string (``"tables/costs.json"``) or in several (``HERE / "tables" / "costs.json"``): folders that
    it names are looked into, too.
    """
    inside, wanted = folder.resolve(), list(words)
    first = list(dict.fromkeys((file.parent, folder, folder.parent)))
    places, told = [*first], set[str]()
    known = {os.path.realpath(one) for one in first}
    for place in places:  # which grows
        there = _entries(place)
        for word in wanted:
            if word.partition("/")[0] not in there and word[:1] not in ("", ".", "/"):
                continue
            path = Path(os.path.normpath(place / word))
            if not path.is_relative_to(inside):
                continue
            if os.path.isdir(path):  # noqa: PTH112  # False of a name that is too long; pathlib raises
                real = os.path.realpath(path)
                written = word.partition("/")[0] in OUTS and "params.yaml" in there
                if real not in known and not written:
                    places.append(path)
                known.add(real)
            elif os.path.isfile(path) and path != file:  # noqa: PTH113  # False of a name that is too long
                name = word if place in first else path.relative_to(inside).as_posix()
                if name not in told:
                    told.add(name)
                    yield name, path


def _entries(folder: Path) -> set[str]:
    """Names in a folder, in which thousands of words are looked up."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208  # pathlib would make a path of each
    except OSError:  # not there, or not to be listed: then nothing of it can be imported or read either
        return set()


def _module_of(file: Path, folder: Path) -> str | None:
    """Name the module that a file of a folder is."""
    parts = file.relative_to(folder.resolve()).with_suffix("").parts
    return ".".join(parts) if file.suffix == ".py" and all(one.isidentifier() for one in parts) else None


def hashes_of(word: str, folders: Iterable[Path]) -> list[str]:
    """Hash the files that a word means as seen from some folders."""
    if not FILE_NAME.fullmatch(word):
        return []
    files = [folder / word for folder in folders]
    return [_hash_of(one) for one in files if os.path.isfile(one)]  # noqa: PTH113  # False of a name that is too long


def _hash_of(path: Path) -> str:
    found = path.stat()
    return _hash_of_file(path, found.st_mtime_ns, found.st_size)


@cache
def _hash_of_file(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


_Imports = tuple[tuple[int, str, tuple[str, ...]], ...]
"""Of each import: dots before it, the module, the names taken from it."""


def _imports(found: _Imports, module: str, file: Path, find: Callable[[str], Path | None]) -> Iterator[str]:
    """List the modules that a module imports; ``from package import name`` may mean either."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for level, base, names in found:
        if level:
            above = package.split(".")[: len(package.split(".")) - level + 1]
            whole = ".".join([*above, *([base] if base else [])])
        else:
            whole = base
        yield whole
        within = find(whole) if names else None
        if within is not None and within.name != "__init__.py":  # a module has none inside
            continue
        for name in names:
            if find(f"{whole}.{name}") is not None:
                yield f"{whole}.{name}"


@dataclass(frozen=True)
class _Code:
    """What a file holds: hash, imports; of the user's, modules and files that it names in strings, too."""

    digest: str
    imports: _Imports = ()
    named: _Imports = ()
    words: tuple[str, ...] = ()


class _Memory:
    """What files were found to hold, by the hash of their bytes: parsing takes a hundred times as long."""

    def __init__(self) -> None:
        self._file = Path(os.environ.get("LOSSBENCH_HOME", ".lossbench")) / "closures.json"
        self._new = False
        try:
            content = json.loads(self._file.read_bytes())
            self.code = {
                key: _Code(digest, _tuples(imports), _tuples(named), tuple(words))
                for key, (digest, imports, named, words) in content["code"].items()
            }
            self.providers: dict[str, list[str]] = content["providers"]
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or none that can be read: made anew
            self.code, self.providers = {}, {}

    def read(self, file: Path) -> _Code:
        return self.of(file.read_bytes(), str(file)) if file.suffix == ".py" else _Code(_hash_of(file))

    def of(self, content: bytes, name: str) -> _Code:
        key = hashlib.sha256(RULES + content).hexdigest()
        if key not in self.code:
            try:
                self.code[key] = _parsed(ast.parse(content, name))
            except (SyntaxError, ValueError, RecursionError):  # nor can it be imported: by its bytes
                self.code[key] = _Code(hashlib.sha256(content).hexdigest())
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
        code = {key: [one.digest, one.imports, one.named, one.words] for key, one in self.code.items()}
        write_atomically(self._file, json.dumps({"code": code, "providers": self.providers}))
        self._new = False


def _tuples(imports: Iterable[tuple[int, str, Iterable[str]]]) -> _Imports:
    return tuple((level, base, tuple(names)) for level, base, names in imports)


def _parsed(tree: ast.Module) -> _Code:
    pieces: list[str] = []
    _shape(tree, pieces.append)
    digest = hashlib.sha256("".join(f"{piece}\0" for piece in pieces).encode(errors="surrogatepass"))
    words = {
        one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)
    }
    files = tuple(sorted(word for word in words if FILE_NAME.fullmatch(word)))
    return _Code(digest.hexdigest(), tuple(_found(tree)), tuple(_named(tree)), files)


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


def _shape(node: ast.AST, write: Callable[[str], None]) -> None:
    """Write a tree without positions and docstrings, alike under every Python that reads the same source."""
    if isinstance(node, ast.If) and _only_types(node.test):
        for other in node.orelse:
            _shape(other, write)
        return
    write(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or value == []:  # fields that only some Pythons have
            continue
        write(name)
        listed = value if isinstance(value, list) else [value]
        if name == "body":
            listed = [one for one in listed if not _only_told(one)]
        for one in listed:
            if isinstance(one, ast.AST):
                _shape(one, write)
            else:
                write(repr(one))
    write(")")


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


def _named(tree: ast.Module) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Find modules named in strings: in a call of ``import_module``, and in ``__all__``, for ``import *``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = [*node.args, *(one.value for one in node.keywords if one.arg == "name"), None]
            called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            name = getattr(given[0], "value", None)
            if called in ("import_module", "__import__") and isinstance(name, str):
                base = name.lstrip(".")
                yield len(name) - len(base), base, ()
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if getattr(targets[0], "id", None) == "__all__":
                listed = [getattr(one, "value", None) for one in getattr(statement.value, "elts", ())]
                yield 1, "", tuple(one for one in listed if isinstance(one, str))


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
