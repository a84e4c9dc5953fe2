"""What DVC says about the chain, and what it is told: `python -m lossbench.chain COMMAND -- COMMAND`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from lossbench.errors import GateError
from lossbench.processes import step

NEXT = "--"
"""Between two commands."""


def in_turn(*commands: Sequence[str]) -> None:
    """Give DVC commands, one after another, in one process: it takes a second to start.

    Args:
        commands: each without "dvc"; an empty one is none, and of none nothing is done.

    Raises:
        GateError: if one fails; its own output says why, and those after it are not given.

    """
    if not any(commands):
        return
    first, *others = filter(None, commands)
    further = [word for command in others for word in (NEXT, *command)]
    step(*([sys.executable, "-m", "lossbench.chain"] if others else ["dvc"]), *first, *further)


def _tell(words: Sequence[str]) -> int:
    """Give DVC what stands between two ``--``; the exit code of the first that fails, or 0."""
    # `-m` puts the working directory first, where a user may have a module of a name that DVC imports.
    sys.path[:] = [one for one in sys.path if one != os.getcwd()]  # noqa: PTH109  # sys.path holds a string, unresolved
    from dvc.cli import main

    for told, command in groupby(words, lambda word: word != NEXT):
        if told and (code := main(list(command))):
            return int(code)
    return 0


def without_git(study: Path, say: Callable[[str], None] = print) -> None:
    """Tell DVC to work without git where there is none: code that was downloaded without its history.

    It is told in ``.dvc/config.local``, which belongs to this machine; inside a git repository, nothing is.
    A ``.git`` that is none (a copied submodule's, which leads nowhere) ends DVC as a missing one does.
    """
    around = (study.resolve(), *study.resolve().parents)
    repository = next((one for one in around if (one / ".dvc").is_dir()), None)
    if repository is None or any(has_git(one) for one in (repository, *repository.parents)):
        return
    from dvc.config import Config

    config = Config(os.fspath(repository / ".dvc"))
    if config["core"].get("no_scm"):
        return
    with config.edit("local") as own:
        own["core"]["no_scm"] = True
    say(f"{repository}: no git repository; DVC is told to work without (core.no_scm in .dvc/config.local)")


def has_git(folder: Path) -> bool:
    """Say whether a folder is a git repository's, or a worktree or submodule that leads to one."""
    git = folder / ".git"
    if git.is_file():
        with suppress(OSError, UnicodeDecodeError):
            leads = git.read_text("utf-8").strip()
            return leads.startswith(LEADS) and (folder / leads.removeprefix(LEADS).strip() / "HEAD").exists()
        return False
    # HEAD may be a link to a branch that has no commit yet.
    return os.path.lexists(git / "HEAD") and (git / "objects").is_dir()


LEADS = "gitdir:"
"""How the file begins that stands in a worktree's or submodule's place of ``.git``."""


def changed_stages(study: Path, targets: Sequence[str] = ("dvc.yaml",)) -> set[str]:
    """Ask ``dvc status`` which stages would run: data, code, params or the lock of packages changed.

    Sources that are downloaded are pinned by checksum in the code: they change with it or not at all. What
    follows a changed stage is named only where something of its own changed too.

    Args:
        study: its folder.
        targets: stages; else all of the study's, and those of no other study beside it.

    Raises:
        GateError: if dvc cannot say.

    """
    command = [sys.executable, "-m", "dvc", "status", "--json", *targets]
    ended = subprocess.run(command, cwd=study, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise GateError(f"`dvc status` failed: {_last_line(ended.stderr)}; `lossbench doctor` may help")
    return set(json.loads(ended.stdout or "{}"))


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


if __name__ == "__main__":
    sys.exit(_tell(sys.argv[1:]))
