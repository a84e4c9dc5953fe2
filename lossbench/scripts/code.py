"""The files that a script's result depends on: itself, what it imports, and what ``depends`` names."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lossbench.closure import Closure, closure
from lossbench.errors import UserError
from lossbench.scripts.running import PYTHON
from lossbench.scripts.spec import ScriptTask

RUNNER = "lossbench.scripts.results"
"""Our own part in a result: reading it."""
PREFIX = "script/"
"""Before names of the user's files, which might be called like modules of ours."""


def script_code(task: ScriptTask, study: Path) -> Closure:
    """Hash what a script runs.

    Python files of the command are followed along their imports, comments and docstrings left out; other
    files, those beside them that a module names, and those under ``depends`` count byte by byte. Packages
    are known where the Python is ours.

    Args:
        task: the command.
        study: the folder that paths are seen from.

    """
    ours = dict(closure([RUNNER]).files)
    theirs: dict[str, str] = {}
    packages: set[str] = set()
    for file, module, root in _named(task.command, study):
        if file.suffix == ".py":
            found = closure([module], root)
            # The study's own folder holds what runs write, too: there `depends` alone says what counts.
            seen = {one: at for one, at in found.files.items() if root != study or ": " not in one}
            theirs |= {f"{PREFIX}{name}": digest for name, digest in seen.items()}
            packages |= found.foreign
        else:
            theirs[PREFIX + _shown(file, study)] = _digest(file)
    for name in task.depends:
        for file in files_below(study / name):
            theirs[PREFIX + _shown(file, study)] = _digest(file)
    return Closure({**ours, **theirs}, frozenset(packages if task.command[0] in PYTHON else ()))


def named_files(command: Sequence[str], study: Path) -> list[Path]:
    """Find the files that a command names: ``train.py``, or the module after ``-m``."""
    return [file for file, _, _ in _named(command, study)]


def _named(command: Sequence[str], study: Path) -> Iterator[tuple[Path, str, Path]]:
    """Yield each file with the module that it is, and the folder from which it imports."""
    for before, argument in zip(("", *command), command, strict=False):
        if "{" in argument:
            continue
        if before == "-m":
            for module in (argument, f"{argument}.__main__"):
                path = study / (module.replace(".", "/") + ".py")
                if path.is_file():
                    yield path, module, study
        elif (path := study / argument).is_file() and not _is_program(argument, command, path):
            yield path, path.stem, path.parent


def _is_program(argument: str, command: Sequence[str], path: Path) -> bool:
    """Whether a file is the interpreter that runs the script, elsewhere on the machine."""
    return argument == command[0] and Path(argument).is_absolute() and path.suffix == ""


def files_below(path: Path) -> Iterator[Path]:
    """List a file, or all files of a folder in order; what caches hold is left out."""
    if path.is_file():
        yield path
    for where, folders, names in os.walk(path):
        folders[:] = sorted(one for one in folders if one not in ("__pycache__", ".git"))
        yield from (Path(where, name) for name in sorted(names))


def _shown(file: Path, study: Path) -> str:
    return Path(os.path.relpath(file, study)).as_posix()


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
