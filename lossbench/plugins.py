"""``module:Object`` in params.yaml: the user's own code, or any installed package's."""

import importlib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from dis import opmap
from pathlib import Path
from typing import Any

from lossbench.errors import UserError, nearest

FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
OURS = Path(__file__).parent
IMPORTS = Path(importlib.__file__).parent
INSTALLED = {Path(sysconfig.get_path(one)) for one in ("stdlib", "platstdlib", "purelib", "platlib")}
RAISE = opmap["RAISE_VARARGS"]
ENDS = " (it is imported: what ends a process belongs under if __name__ == '__main__')"


def is_path(name: object) -> bool:
    """Whether a name is ``module:Object`` and not one of ours."""
    return isinstance(name, str) and ":" in name


def use_code(folder: Path | None) -> None:
    """Let modules of the user's folder be imported."""
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def load_object(name: str, key: str) -> Any:
    """Import what ``module:Object`` names.

    Args:
        name: as written in params.yaml.
        key: where it stands there, for messages.

    Raises:
        UserError: not of this form, no such module or object, or the module's own error.

    """
    if not FORM.fullmatch(name):
        raise UserError(f"'{key}' is '{name}'; allowed: one of our names, or module:Object")
    module_name, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            where = "a module of your 'code' folder, or an installed package"
            raise UserError(
                f"'{key}' is '{name}', but there is no module '{error.name}'; allowed: {where}"
            ) from None
        raise UserError(
            f"'{key}' is '{name}', whose module needs '{error.name}', which is not installed"
        ) from None
    except BaseException as error:  # the user's module may raise anything; the sentence says what and where
        if asked_to_end(error):
            raise
        hint = "" if isinstance(error, Exception) else ENDS
        raise UserError(f"'{key}' is '{name}', whose module raised {_told(error)}{hint}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = [one for one in dir(found) if not one.startswith("_")]
            raise UserError(f"'{key}' is '{name}', but there is no '{part}' in it; {nearest(part, known)}")
        found = getattr(found, part)
    return found


def parameters_of(made: Any) -> list[str]:
    """Name what a class or function takes; nothing where it is built in C, without a signature."""
    try:
        return list(inspect.signature(made).parameters)
    except (TypeError, ValueError):
        return []


def takes_any(made: Any) -> bool:
    """Whether a class or function takes keyword arguments of any name, as what a decorator returns does."""
    try:
        kinds = [one.kind for one in inspect.signature(made).parameters.values()]
    except (TypeError, ValueError):
        return False
    return inspect.Parameter.VAR_KEYWORD in kinds


def call_object(made: Callable[..., Any], given: Mapping[str, Any], name: str, key: str) -> Any:
    """Call a class or factory with keyword arguments of params.yaml.

    Raises:
        UserError: naming the argument that it does not take, or what it raised.

    """
    try:
        inspect.signature(made).bind(**given)
    except TypeError as error:
        known = [
            one.name
            for one in inspect.signature(made).parameters.values()
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        ]
        wrong = next((one for one in given if one not in known), None)
        if wrong is not None:
            raise UserError(f"unknown key '{key}.{wrong}'; {nearest(wrong, known)}") from None
        raise UserError(f"'{key}': {name} {error}") from None
    except ValueError:  # built in C, without a signature: its call says what it does not take
        pass
    try:
        return made(**given)
    except UserError:
        raise
    except BaseException as error:  # the user's object may raise anything; the sentence says what and where
        if asked_to_end(error):
            raise
        raise UserError(f"'{key}': {name} raised {_told(error)}") from error


def asked_to_end(error: BaseException) -> bool:
    """Say whether a person or the system asks for the end, and not the user's code that is running.

    Python raises its KeyboardInterrupt, and a handler of ours its SystemExit, within whatever runs then.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, KeyboardInterrupt | SystemExit):
        return False
    if isinstance(error, KeyboardInterrupt):
        return trace.tb_frame.f_code.co_code[trace.tb_lasti] != RAISE
    return Path(trace.tb_frame.f_code.co_filename).is_relative_to(OURS)


def _told(error: BaseException) -> str:
    """Say an error with the user's line that raised it, or called what did."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith("<")]
    others = [one for one in frames if not {OURS, IMPORTS} & {*Path(one.filename).parents}]
    own = [one for one in others if not INSTALLED & {*Path(one.filename).parents}]
    where = "".join(f" ({Path(one.filename).name}, line {one.lineno})" for one in (own or others)[-1:])
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}{where}: {text}" if text else f"{type(error).__name__}{where}"
