"""What is scheduled: one study's retraining, and the words that fill the templates in ``deploy/``."""

import os
import pwd
import re
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
UNFIT = re.compile(r"[^A-Za-z0-9_-]")
"""What cannot stand in a job's name."""


@dataclass(frozen=True)
class Job:
    """The retraining of one study.

    Attributes:
        root: the checkout, or where the package is installed.
        study: folder that holds the params.yaml.
        bin: folder of the environment's programs.
        label: what the job is called by, in place of the study's folder; "" for that.

    """

    root: Path
    study: Path
    bin: Path
    label: str = ""

    @classmethod
    def of(cls, study: Path, label: str = "") -> "Job":
        """Take the study's folder, this checkout and the environment that runs.

        Raises:
            UserError: if the folder holds no params.yaml, or a name cannot stand in a schedule.

        """
        if UNFIT.search(label):
            raise UserError(f"--name is {label!r}; allowed: letters, digits, '_' and '-'")
        study = study.resolve()
        if not (study / "params.yaml").is_file():
            raise UserError(f"{study / 'params.yaml'}: no such file; name the study's folder, or run in it")
        job = cls(CHECKOUT, study, Path(sys.prefix) / "bin", label)
        for path in (job.root, job.study, job.bin):
            if re.search(r"[\n\r\"\\]", str(path)):
                raise UserError(
                    f"{str(path)!r}: line ends, quotes and backslashes cannot stand in a schedule"
                )
        return job

    @property
    def name(self) -> str:
        """Name the job: by its label, or the study's folder, unless it is the checkout's own."""
        if self.study == self.root and not self.label:
            return "lossbench-retrain"
        return f"lossbench-retrain-{self.label or UNFIT.sub('-', self.study.name)}"

    def expect_own(self, scheduled: Path | None) -> None:
        """Refuse to touch what is scheduled under the job's name where that is another study's.

        Folders of one name are common: every repository may have its study in ``losses/``. A study that was
        moved left nothing behind, and may take its place.

        Raises:
            UserError: naming the other study.

        """
        if (
            scheduled is None
            or scheduled.resolve() == self.study
            or not (scheduled / "params.yaml").is_file()
        ):
            return
        raise UserError(
            f"'{self.name}' is the schedule of another study, {scheduled}; --name gives this one a name of "
            "its own"
        )

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
