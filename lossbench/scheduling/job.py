"""What is scheduled: one study's retraining, and the words that fill the templates in ``deploy/``."""

import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossbench.errors import GateError, UserError

CHECKOUT = Path(__file__).resolve().parents[2]
TEMPLATES = Path(__file__).parents[1] / "templates" / "deploy"
"""A link to ``deploy/`` in a checkout, a folder of the package where that is installed."""


@dataclass(frozen=True)
class Job:
    """The retraining of one study.

    Attributes:
        root: the checkout, or where the package is installed.
        study: folder that holds the params.yaml.
        bin: folder of the environment's programs.

    """

    root: Path
    study: Path
    bin: Path

    @classmethod
    def of(cls, study: Path) -> "Job":
        """Take the study's folder, this checkout and the environment that runs.

        Raises:
            UserError: if the folder holds no params.yaml, or its name cannot stand in a schedule.

        """
        study = study.resolve()
        if not (study / "params.yaml").is_file():
            raise UserError(f"{study / 'params.yaml'}: no such file; name the study's folder, or run in it")
        job = cls(CHECKOUT, study, Path(sys.prefix) / "bin")
        for path in (job.root, job.study, job.bin):
            if re.search(r"[\n\r\"\\]", str(path)):
                raise UserError(
                    f"{str(path)!r}: line ends, quotes and backslashes cannot stand in a schedule"
                )
        return job

    @property
    def name(self) -> str:
        """Name the job: by the study, unless it is the checkout's own."""
        suffix = re.sub(r"[^A-Za-z0-9_-]", "-", self.study.name)
        return "lossbench-retrain" if self.study == self.root else f"lossbench-retrain-{suffix}"

    @property
    def user(self) -> str:
        """Name the owner of the study's folder: whoever retrains must be able to write there."""
        number = self.study.stat().st_uid
        try:
            return pwd.getpwuid(number).pw_name
        except KeyError:
            return str(number)

    def words(self, when: str) -> Mapping[str, str]:
        """List what stands for each placeholder of a template."""
        paths = {"ROOT": self.root, "STUDY": self.study, "BIN": self.bin}
        return {"NAME": self.name, "USER": self.user, "WHEN": when} | {
            key: os.fspath(path) for key, path in paths.items()
        }


def expect_own(job: Job, other: Path | None) -> None:
    """Refuse to replace, or to remove, what is installed under this name for another study.

    Names are made of the folder's name alone. A study that is no longer where it was is no other: it was
    moved here, or is gone.

    Args:
        job: whose name it is.
        other: the folder that stands in what is installed under it now; None where nothing is.

    Raises:
        GateError: naming the other study.

    """
    if other is not None and other.resolve() != job.study and (other / "params.yaml").is_file():
        raise GateError(
            f"'{job.name}' is the schedule of another study, {other}; take that one out first "
            f"(--study {shlex.quote(os.fspath(other))}), or give this study's folder another name"
        )


def filled(template: str, words: Mapping[str, str]) -> str:
    """Fill a template of ``deploy/``: ``@NAME@`` becomes the word. Pages that are not there go unnamed."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    if not (CHECKOUT / "docs").is_dir():
        text = re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"@([A-Z]+)@", lambda found: words[found[1]], text)


def called(command: Sequence[str], needs: str, content: str | None = None) -> str:
    """Run a scheduler's own program and return what it prints.

    Raises:
        UserError: if it is not installed; ``needs`` says what to do.
        GateError: if it refuses, with its reason.

    """
    if shutil.which(command[0]) is None:
        raise UserError(f"'{command[0]}' is not installed; {needs}")
    ended = subprocess.run(command, input=content, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise GateError(f"`{' '.join(command)}` failed: {' '.join(ended.stderr.split()) or ended.returncode}")
    return ended.stdout
