"""Functions and classes that a caller holds, as ``module:Object``: what workers import and keys are made of.

An object of an importable module is named as it stands there. One of a notebook's cell, of the script that
is run, or one made inside a function, is written to a module of its own, from its source and that of all it
uses. So its results
are kept by its source: an edited cell trains anew what it changes, a restarted kernel finds what was trained.
"""

import ast
import builtins
import inspect
import linecache
import os
import re
import symtable
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from lossbench.api.literals import NoLiteralError, literal
from lossbench.closure import closure, users_own
from lossbench.errors import UserError
from lossbench.store import hashed

PREFIX = "notebook_"
"""Of the modules that are written here."""
SCRIPTS = ("__main__", "__mp_main__")
BUILT_IN = ("torch", "torch.nn.functional", "math", "operator")
"""Where functions in C are looked for that do not say where they are."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
ALLOWED = "modules, functions, classes, numbers, text, and small tensors or arrays"


class Code:
    """What is written to a comparison's folder of code.

    Args:
        folder: for the modules; empty.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._texts: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def name_of(self, made: Any, key: str) -> str:
        """Name a function or class as ``module:Object``.

        Args:
            made: the object.
            key: the argument it came from, for messages.

        Raises:
            UserError: if workers could not make it again.

        """
        if not (inspect.isclass(made) or inspect.isroutine(made)):
            raise UserError(f"{key}: a {type(made).__name__} object; expected a class, a function, or a name")
        if (found := importable(made)) is not None:
            self._link([found.partition(":")[0]])
            return found
        if not isinstance(made, type | FunctionType):
            raise UserError(f"{key}: '{_called(made)}' belongs to an object; pass a function or a class")
        return self._written(made, key)

    def _written(self, made: Any, key: str) -> str:
        source = Source(key)
        name = source.add(made)
        text = source.text()
        module = f"{PREFIX}{name}"
        if self._texts.get(module, text) != text:
            module = f"{module}_{hashed(text)[:8]}"
        self._texts[module] = text
        (self.folder / f"{module}.py").write_text(text, encoding="utf-8")
        self._link(source.modules)
        return f"{module}:{name}"

    def _link(self, modules: Iterable[str]) -> None:
        """Link the user's modules, and those that these import, into the folder: keys hold their content."""
        waiting = {one.partition(".")[0] for one in modules}
        seen: set[str] = set()
        while waiting:
            top = waiting.pop()
            if top in seen:
                continue
            seen.add(top)
            place = None if top.startswith(PREFIX) else users_own(top)
            if place is None:
                continue
            _mirror(place, self.folder / place.name)
            found = closure([top], self.folder)
            waiting |= found.foreign | {re.split("[.:]", one)[0] for one in found.files}


def _mirror(place: Path, link: Path) -> None:
    """Link a module's file, or all files of a package: no folder, so that nobody deletes through a link."""
    if place.is_file():
        if not link.exists():
            link.symlink_to(place)
        return
    for where, folders, files in os.walk(place):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        own = link / Path(where).relative_to(place)
        own.mkdir(parents=True, exist_ok=True)
        for name in files:
            if not (own / name).exists():
                (own / name).symlink_to(Path(where, name))


def importable(made: Any) -> str | None:
    """Name an object as ``module:Object``, where a fresh process can import it so."""
    if not isinstance(made, type) and not inspect.isroutine(made):
        return None
    stated = getattr(made, "__module__", None)
    for module in [stated] if stated else BUILT_IN:
        if module in SCRIPTS or module not in sys.modules:
            continue
        for path in (made.__qualname__, made.__name__):
            if _at(sys.modules[module], path) is made and _has_source(module):
                return f"{module}:{path}"
    return None


def _has_source(name: str) -> bool:
    """Whether a module comes from where a fresh process finds it: some are made by hand."""
    top = name.partition(".")[0]
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return True
    try:
        return find_spec(top) is not None
    except (ValueError, ImportError):  # made without a spec
        return False


def _at(module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


class Source:
    """Collects the source of an object and of all that it uses, to a module's text.

    Attributes:
        modules: that the text imports.

    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._imports: list[str] = []
        self._bodies: list[str] = []
        self._names: dict[str, Any] = {}
        self.modules: list[str] = []

    def text(self) -> str:
        """The module."""
        head = [
            '"""Written by lossbench.compare, from a function or class of a notebook."""',
            *sorted(set(self._imports)),
        ]
        return "\n".join([*head, "", *self._bodies, ""])

    def add(self, made: Any, name: str | None = None, by: Mapping[str, Any] | None = None) -> str:
        """Add a function or class, after what it uses; returns its name in the module.

        Args:
            made: it.
            name: that it has where it is used; None: its own.
            by: what who uses it sees around itself.

        """
        tree = tree_of(made, self._key)
        name = name or ("loss" if isinstance(tree, ast.Lambda) else tree.name)
        if name in self._names:
            self._expect_same(name, made)
            return name
        self._names[name] = made
        around = _around(made) or by or vars(sys.modules.get(made.__module__) or builtins)
        for used in _used(made, tree):
            if used in around:
                self._use(used, around[used], _called(made), around)
        body: ast.stmt = _assigned(name, tree) if isinstance(tree, ast.Lambda) else tree
        self._bodies += [ast.unparse(body), ""]
        if not isinstance(tree, ast.Lambda) and tree.name != name:
            self._bodies.append(f"{name} = {tree.name}")
        return name

    def _expect_same(self, name: str, value: Any) -> None:
        if self._names[name] is not value:
            raise UserError(
                f"{self._key}: it uses two things that are called '{name}'; give one another name, or put "
                "them into a module file"
            )

    def _use(self, name: str, value: Any, by: str, around: Mapping[str, Any]) -> None:
        """Have a global name of a function or class stand in the module, too."""
        if name in self._names:
            self._expect_same(name, value)
            return
        if isinstance(value, ModuleType):
            self._names[name] = value
            self._import(value.__name__, f"import {value.__name__} as {name}")
        elif (found := importable(value)) is not None:
            self._names[name] = value
            module, _, path = found.partition(":")
            top, _, rest = path.partition(".")
            if rest:
                self._import(module, f"import {module}")
                self._bodies.append(f"{name} = {module}.{path}")
            else:
                self._import(module, f"from {module} import {top} as {name}")
        elif isinstance(value, type | FunctionType):
            self.add(value, name, around)
        else:
            self._names[name] = value
            self._constant(name, value, by)

    def _constant(self, name: str, value: Any, by: str) -> None:
        try:
            written, modules = literal(value)
        except NoLiteralError as error:
            raise UserError(
                f"{self._key}: '{by}' uses '{name}', {error}, which workers cannot be given; allowed there: "
                f"{ALLOWED}. Make it inside '{by}', or put both into a module file"
            ) from None
        for module in modules:
            self._import(module, f"import {module}")
        self._bodies.append(f"{name} = {written}")

    def _import(self, module: str, line: str) -> None:
        if module in SCRIPTS:
            raise UserError(f"{self._key}: it uses the notebook's module as a whole; name what it needs")
        self._imports.append(line)
        self.modules.append(module)


Tree = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


def tree_of(made: Any, key: str) -> Tree:
    """Find the syntax tree of a function, class or lambda, annotations of its functions left out.

    Raises:
        UserError: if its source is nowhere to be found.

    """
    code = _code_of(made)
    found = [one for file in _files(made, code) for one in _matching(_parsed(file), made, code)]
    if not found or len({ast.dump(one) for one in found}) > 1:
        hint = "give it a method, or put it" if code is None else "put it"
        raise UserError(
            f"{key}: the source of '{_called(made)}' is not to be found; {hint} into a module file"
        )
    return _without_annotations(found[0])


def _files(made: Any, code: CodeType | None) -> Iterator[str]:
    """Yield the texts that a definition may stand in: its file's; of a class without a method any cell's."""
    if code is not None:
        names = [code.co_filename]
    else:
        script = getattr(sys.modules.get(made.__module__), "__file__", None)
        cells = [name for name in linecache.cache if not Path(name).exists()]
        names = [*([script] if script else []), *cells]
    for name in names:
        if lines := linecache.getlines(name):
            yield "".join(lines)


def _code_of(made: Any) -> CodeType | None:
    """Give the code of a function, or of a method that stands in a class."""
    if not isinstance(made, type):
        return getattr(made, "__code__", None)
    for one in vars(made).values():
        method = getattr(one, "__func__", one.fget if isinstance(one, property) else one)
        if isinstance(method, FunctionType) and method.__qualname__.startswith(f"{made.__qualname__}."):
            return method.__code__
    return None


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError:  # a cell with magics: IPython keeps the transformed one, a plain file has none
        kept = ["pass" if line.lstrip().startswith(("%", "!")) else line for line in text.splitlines()]
        return ast.parse("\n".join(kept))


def _matching(tree: ast.Module, made: Any, code: CodeType | None) -> Iterator[Tree]:
    """Yield the definitions that a function or class may come from."""
    for node in ast.walk(tree):
        if isinstance(made, type):
            if isinstance(node, ast.ClassDef) and node.name == made.__name__ and _holds(node, code):
                yield node
        elif code is None:
            continue
        elif isinstance(node, ast.Lambda):
            here = code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
            if here and _compiles_to(node, code):
                yield node
        elif isinstance(node, FUNCTIONS) and node.name == code.co_name:
            starts = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if starts == code.co_firstlineno:
                yield node


def _holds(node: ast.ClassDef, code: CodeType | None) -> bool:
    """Whether a method stands in a class."""
    return code is None or node.lineno <= code.co_firstlineno <= (node.end_lineno or 0)


def _compiles_to(node: ast.Lambda, code: CodeType) -> bool:
    """Whether a lambda is this one: several may stand on a line."""
    whole = compile(ast.fix_missing_locations(ast.Expression(node)), "<lambda>", "eval")
    made = next(one for one in whole.co_consts if isinstance(one, CodeType))
    free = set(code.co_freevars)  # which are global where it stands alone
    return (made.co_varnames, made.co_consts) == (code.co_varnames, code.co_consts) and (
        [name for name in made.co_names if name not in free] == list(code.co_names)
    )


def _without_annotations(node: Tree) -> Tree:
    """Leave annotations of functions out: they need names that the code does not."""
    for one in ast.walk(node):
        if isinstance(one, FUNCTIONS):
            one.returns = None
        elif isinstance(one, ast.arg):
            one.annotation = None
    return node


def _assigned(name: str, tree: ast.expr) -> ast.stmt:
    return ast.fix_missing_locations(ast.Assign([ast.Name(name, ast.Store())], tree))


def _used(made: Any, tree: Tree) -> list[str]:
    """List the names that a definition takes from around it."""
    body: ast.stmt = _assigned("made", tree) if isinstance(tree, ast.Lambda) else tree
    table = symtable.symtable(ast.unparse(body), "<source>", "exec")
    return sorted({name for name in _globals(table, top=True) if name != made.__name__})


def _globals(table: symtable.SymbolTable, top: bool = False) -> Iterator[str]:
    for symbol in table.get_symbols():
        outside = symbol.is_global() or (top and not symbol.is_assigned())
        if symbol.is_referenced() and outside:
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals(child)


def _around(made: Any) -> Mapping[str, Any]:
    """Names that a function or class sees: of its module, and of the function that it was made in."""
    functions = [made] if isinstance(made, FunctionType) else list(_methods(made))
    found: dict[str, Any] = {}
    for one in functions:
        cells = zip(one.__code__.co_freevars, one.__closure__ or (), strict=True)
        found |= {name: value for name, value in one.__globals__.items() if name not in vars(builtins)}
        found |= {name: cell.cell_contents for name, cell in cells if name != "__class__"}
    return found


def _methods(made: type) -> Iterator[FunctionType]:
    for one in vars(made).values():
        method = getattr(one, "__func__", one.fget if isinstance(one, property) else one)
        if isinstance(method, FunctionType):
            yield method


def _called(made: Any) -> str:
    return str(getattr(made, "__name__", type(made).__name__))


def unwrapped(made: Any, key: str) -> tuple[Any, dict[str, Any]]:
    """Take ``functools.partial`` apart: (function, keyword arguments).

    Raises:
        UserError: for arguments without a name.

    """
    if not isinstance(made, partial):
        return made, {}
    if made.args:
        raise UserError(f"{key}: a partial with arguments by position; name them")
    inner, given = unwrapped(made.func, key)
    return inner, {**given, **made.keywords}


def plain(value: Any, key: str) -> Any:
    """Turn a parameter into what a params.yaml can hold.

    Raises:
        UserError: for anything but numbers, text, lists and mappings of these.

    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(one, f"{key}.{name}") for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, f"{key}[{number}]") for number, one in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"{key}: a {type(value).__name__}; allowed: numbers, text, true or false, lists of these")


def fresh(folder: Path, do: Callable[[], Any]) -> Any:
    """Do something with the modules of a folder importable, and forget those written here afterwards."""
    mine = [name for name in sys.modules if name.startswith(PREFIX)]
    kept = {name: sys.modules.pop(name) for name in mine}
    sys.path.insert(0, str(folder))
    try:
        return do()
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.startswith(PREFIX)]:
            del sys.modules[name]
        sys.modules.update(kept)
