"""A study in a repository of the user's own: params.yaml, dvc.yaml, and what else DVC, git and MLflow need.

The chain is the checkout's own, which the package carries along; where that depends on our source, this one
depends on ``lossbench.lock`` (see :mod:`lossbench.installed`). Nothing that is there is overwritten.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossbench import installed
from lossbench.chain import has_git
from lossbench.commented import commented
from lossbench.errors import GateError, UserError
from lossbench.execution.declared import LOOKS, ensure_looks
from lossbench.originals import protect
from lossbench.params import parse_params
from lossbench.scripts.spec import COMMAND
from lossbench.studies import expect_folder, expect_name, params_for
from lossbench.system import write_atomically
from lossbench.written import CHAIN, TEMPLATES

PLUGINS = ("README.md", "example_loss.py", "example_model.py")
EXAMPLE = "train_torch.py"
"""A training script to begin with."""
OURS = ("data", "models", "reports")
"""Folders that the chain has to itself."""
SOURCE = ("lossbench", "requirements.lock", "stages")
"""What the checkout's stage ``check`` depends on below ``${root}``."""
IGNORED = {
    ".gitignore": (
        "# What Lossbench writes, and writes anew; the small files of reports/ are worth keeping.",
        *("/data/", "/models/", ".lossbench/", "mlflow.db*", "mlruns/", "mlartifacts/", "__pycache__/"),
        *(f"/reports/{name}/" for name in ("checked", "evaluation", "validation", "tuning")),
        *(f"/reports/{name}.html" for name in ("index", "claims")),
    ),
    ".dvcignore": (
        "# Compiled files in a folder that DVC watches would change its hash; it need not look into stores.",
        *("__pycache__", "*.pyc", ".lossbench", "mlflow.db*", "mlruns", "mlartifacts"),
    ),
}
DVC_HEAD = """\
# The chain: check → fetch@dataset → validate@dataset → train@arm → evaluate@experiment → report. Made by
# `lossbench new`; `dvc repro` runs it, `lossbench run` runs it with all trainings of all arms at once.
#
# `check` depends on lossbench.lock (the installed package) and on your own code, and writes for every other
# stage the hashes of the files that this runs (reports/checked): a stage depends on its own. looks.yaml holds
# the looks taken where params.yaml declares any. `root` (a key of params.yaml) leads to this file's folder.

"""
MLPROJECT_HEAD = """\
# Entry points for `mlflow run . --env-manager local`, in the environment that Lossbench is installed in.
"""
PARAMS_HEAD = """\
# Every knob of the comparison of '{name}', made by `lossbench new`. `dvc repro` reruns what depends on what
# you change, and nothing else; an unknown or mistyped key is refused, with its path, before anything runs.
# Lines that are commented out say what is taken as long as they are. An editor completes keys by the schema
# that `lossbench params --schema params.schema.json` writes.

"""
SCRIPT_LOSSES: dict[str, dict[str, Any]] = {"cross_entropy": {}, "squared": {}}
SCRIPT_ARGUMENTS = (
    *("--loss", "{loss}", "--lr", "{learning_rate}", "--seed", "{seed}", "--epochs", "{epochs}"),
    *("--data", "{data}", "--out", "{out}"),
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What a study is to be of.

    Attributes:
        name: of its dataset and experiment.
        data: folder of the user's files.
        folder: in which the study is to lie.
        script: the user's own training script, if that trains.

    """

    name: str
    data: Path
    folder: Path
    script: Path | None = None


def new_project(wanted: Wanted, say: Say = print) -> None:
    """Write a study into a folder of the user's own repository.

    Args:
        wanted: what of, and where.
        say: takes sentences on what was found, proposed and written.

    Raises:
        UserError: if something of its kind is there already, or the data are none that we read.
        GateError: if DVC cannot be set up.

    """
    expect_name(wanted.name)
    data, folder = expect_folder(wanted.data, "--data").resolve(), _absolute(wanted.folder)
    _refuse_taken(folder)
    content = _params(wanted, data, folder, say)
    example = _example(wanted, content)
    protect(parse_params(content), folder)
    folder.mkdir(parents=True, exist_ok=True)
    _set_up_dvc(folder, say)
    written = [*_write(wanted, content, folder), *_ignore(folder)]
    if wanted.script is None:
        written += _plugins(folder)
    elif example:
        wanted.script.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TEMPLATES / "scripts" / EXAMPLE, wanted.script)
        written.append(
            f"{os.path.relpath(wanted.script, folder)} (an example: put your own training into it)"
        )
    say(f"written{_seen_from_here(folder)}: {', '.join(written)}")


def _absolute(path: Path) -> Path:
    """Write a path from the root on, without ``..``; links stay."""
    return Path(os.path.normpath(path.absolute()))


def _seen_from_here(folder: Path) -> str:
    here = os.path.relpath(folder)
    return "" if here == "." else f" in {here}"


def _refuse_taken(folder: Path) -> None:
    """Refuse a folder that has a chain, params or one of the chain's folders already."""
    elsewhere = "`--folder SUBFOLDER` puts the study into a folder of its own"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--folder is '{folder}', which is no folder")
    for name in (CHAIN, "params.yaml", "dvc.lock"):
        if os.path.lexists(folder / name):
            raise UserError(f"{folder / name}: is there already and stays as it is; {elsewhere}")
    for name in OURS:
        path = folder / name
        if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
            raise UserError(f"{path}: is there already, and the chain has a folder of that name; {elsewhere}")


def _params(wanted: Wanted, data: Path, folder: Path, say: Say) -> dict[str, Any]:
    """Propose params; a path in the user's repository is written as seen from the study."""
    content = params_for(wanted.name, data, say)
    around = next(
        (one for one in (folder, *folder.parents) if has_git(one) or (one / ".dvc").is_dir()),
        folder,
    )
    if data.is_relative_to(around.resolve()):
        content["datasets"][wanted.name]["path"] = os.path.relpath(data, folder.resolve())
    content |= {"root": ".", "code": "plugins"}
    return content if wanted.script is None else _scripted(content, wanted, folder)


def _scripted(content: dict[str, Any], wanted: Wanted, folder: Path) -> dict[str, Any]:
    """Have the user's own script train, once for each loss and seed."""
    assert wanted.script is not None  # noqa: S101  # its caller asks
    absolute = _absolute(wanted.script)
    script = Path(os.path.relpath(absolute, folder))
    if script.suffix != ".py":
        raise UserError(
            f"--script is '{wanted.script}'; allowed: a Python file; for others see `task: command`"
        )
    if folder.is_relative_to(absolute.parent):
        raise UserError(
            f"--script is '{wanted.script}'; DVC watches the whole folder of a script, so it must not be the "
            "study's own or one around it: put it into a folder of its own, such as scripts/"
        )
    experiment = content["experiments"][wanted.name]
    metric = "accuracy" if experiment["task"] == "classification" else experiment["metric"]
    scripted = {
        "task": COMMAND,
        "command": ["python", script.as_posix(), *SCRIPT_ARGUMENTS],
        "metrics": {metric: "higher"},
        "dataset": wanted.name,
        "recipe": {"epochs": 20, "optimizer": {"learning_rate": 0.003}},
        "metric": metric,
        "margin": experiment["margin"],
    }
    arms = {
        f"{wanted.name}-{loss}": {"experiment": wanted.name, "dataset": wanted.name, "loss": loss}
        for loss in SCRIPT_LOSSES
    }
    return content | {
        "code": script.parent.as_posix(),
        "experiments": {wanted.name: scripted},
        "losses": SCRIPT_LOSSES,
        "arms": arms,
        "comparison": {**content["comparison"], "baseline": next(iter(SCRIPT_LOSSES))},
    }


def _example(wanted: Wanted, content: Mapping[str, Any]) -> bool:
    """Say whether an example stands in for a script that is not there.

    Raises:
        UserError: where none would fit the task.

    """
    if wanted.script is None or wanted.script.exists():
        return False
    if content["experiments"][wanted.name]["metric"] != "accuracy":
        raise UserError(
            f"--script is '{wanted.script}': no such file; an example there is for classification alone"
        )
    return True


def _set_up_dvc(folder: Path, say: Say) -> None:
    """Have the folder in a DVC repository: one that is there, else one of its own."""
    around = (folder, *folder.parents)
    if any((one / ".dvc").is_dir() for one in around):
        return
    git = next((one for one in around if has_git(one)), None)
    how = ["--no-scm"] if git is None else [] if git == folder else ["--subdir"]
    command = [sys.executable, "-m", "dvc", "init", "--quiet", *how]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        reason = [line for line in ended.stderr.splitlines() if line.strip()]
        raise GateError(
            f"`dvc {' '.join(command[3:])}` failed in {folder}: {reason[-1] if reason else 'no reason given'}"
        )
    if git is None:
        say(
            f"{folder}: no git repository; DVC works without (to have git later: `git init`, then "
            "`dvc config --unset core.no_scm`)"
        )
    else:
        say(f"{folder}: a DVC repository now (`{' '.join(['dvc', 'init', *how])}`)")


def _write(wanted: Wanted, content: Mapping[str, Any], folder: Path) -> list[str]:
    """Write params and the chain; MLproject where there is none."""
    files = {
        "params.yaml": PARAMS_HEAD.format(name=wanted.name) + commented(content, _examples(content)),
        CHAIN: chain_text(),
        "MLproject": mlproject_text(wanted.name),
    }
    there = [name for name in files if (folder / name).exists()]
    for name, text in files.items():
        if name not in there:
            write_atomically(folder / name, text, durable=True)
    ensure_looks(folder)
    installed.write(folder / installed.LOCK)
    return [*(name for name in files if name not in there), LOOKS, installed.LOCK]


def _examples(content: Mapping[str, Any]) -> dict[str, Any]:
    """Show a claim, of the first two losses."""
    [(name, experiment)] = content["experiments"].items()
    than, better, *_ = content["losses"]
    claim = f"{better} is better than {than}."
    shown = {"claim": claim, "experiment": name, "better": better, "than": than, "on": experiment["metric"]}
    return {"hypotheses": {f"{better}_helps": shown}}


def chain_text() -> str:
    """The checkout's dvc.yaml, as it stands in a repository without our source."""
    text = (TEMPLATES / CHAIN).read_text(encoding="utf-8")
    text = DVC_HEAD + text[text.index("stages:") :]
    for name in SOURCE:
        text = text.replace(f"      - ${{root}}/{name}\n", "", 1)
    return text.replace("    deps:\n", f"    deps:\n      - ${{root}}/{installed.LOCK}\n", 1)


def mlproject_text(name: str) -> str:
    """The checkout's MLproject, for whatever environment Lossbench is installed in."""
    text = (TEMPLATES / "MLproject").read_text(encoding="utf-8")
    text = re.sub(r"^python_env:.*\n\n?", "", text[text.index("name:") :], flags=re.MULTILINE)
    return MLPROJECT_HEAD + re.sub(r"^name:.*", f"name: {name}", text, count=1, flags=re.MULTILINE)


def _plugins(folder: Path) -> list[str]:
    """Write plugins/ with its README and examples; where it is there, it is the user's."""
    plugins = folder / "plugins"
    if os.path.lexists(plugins):
        return []
    plugins.mkdir()
    for name in PLUGINS:
        shutil.copyfile(TEMPLATES / "plugins" / name, plugins / name)
    return ["plugins/"]


def _ignore(folder: Path) -> list[str]:
    """Add to .gitignore and .dvcignore the lines that they lack."""
    changed = []
    for name, lines in IGNORED.items():
        file = folder / name
        before = file.read_text(encoding="utf-8", errors="surrogateescape") if file.exists() else ""
        if missing := _missing(before, lines):
            gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
            with file.open("a", encoding="utf-8") as stream:
                stream.write(gap + "\n".join(missing) + "\n")
            changed.append(name)
    return changed


def _missing(before: str, lines: Sequence[str]) -> list[str]:
    there = {line.strip() for line in before.splitlines()}
    missing = [line for line in lines if line not in there]
    return missing if any(not line.startswith("#") for line in missing) else []
