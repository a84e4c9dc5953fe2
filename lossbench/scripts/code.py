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
    files and those under ``depends`` count byte by byte. Packages are known where the Python is ours.

    Args:
        task: the command.
        study: the folder that paths are seen from.

    """
    ours = dict(closure([RUNNER]).files)
    theirs: dict[str, str] = {}
    packages: set[str] = set()
    for file in named_files(task.command, study):
        if file.suffix == ".py":
            found = closure([file.stem], file.parent)
            theirs |= {f"{PREFIX}{name}": digest for name, digest in found.files.items()}
            packages |= found.foreign
        else:
            theirs[PREFIX + _shown(file, study)] = _digest(file)
    for name in task.depends:
        for file in files_below(study / name):
            theirs[PREFIX + _shown(file, study)] = _digest(file)
    return Closure({**ours, **theirs}, frozenset(packages if task.command[0] in PYTHON else ()))


def named_files(command: Sequence[str], study: Path) -> list[Path]:
    """Find the files that a command names: ``train.py``, or the module after ``-m``."""
    found = []
    for before, argument in zip(("", *command), command, strict=False):
        path = study / (argument.replace(".", "/") + ".py" if before == "-m" else argument)
        if "{" not in argument and path.is_file() and not _is_program(argument, command, path):
            found.append(path)
    return found


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
