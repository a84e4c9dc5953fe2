"""A small study for benchmarks.faults: made once, copied for every trial, held against the undisturbed."""

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from benchmarks.overhead import BIN, checkout

Point = tuple[str, str, str, int, float]
"""Arm, role and seed or trial, metric, step, value."""
OUTS = ("data", "models", "reports")
OF_THE_CLOCK = ("system/", "seconds")
"""Metrics that say how the machine fared, not what was trained."""
REPRO = (sys.executable, "-m", "lossbench", "run")
TRACK = (sys.executable, "-m", "lossbench", "track")
DOCTOR = (sys.executable, "-m", "lossbench", "doctor")
CLEAN = (sys.executable, "-m", "lossbench", "clean")
RETRAIN = (sys.executable, "-m", "lossbench", "retrain")
EPOCHS = 80
WEAK = 2
"""Epochs of a champion that any full training beats."""
GRACE = 15.0
"""Seconds that processes have to end after their parent was killed."""


def params() -> dict[str, Any]:
    """A study of two arms with two seeds, each trained for a few seconds."""
    recipe = {"epochs": EPOCHS, "batch_size": 32, "optimizer": {"name": "adam", "learning_rate": 0.005}}
    return {
        "root": ".",
        "code": "plugins",
        "datasets": {"digits": {"source": "digits", "path": "requirements.lock", "subset": 512}},
        "experiments": {
            "digits": {
                "task": "classification", "dataset": "digits", "recipe": recipe, "metric": "accuracy",
                "margin": 0.01,
                "model": {"name": "simple_cnn", "width": 8, "layers": 2, "hidden": 16},
            }
        },
        "losses": {"cross_entropy": {"name": "cross_entropy"}, "focal": {"name": "focal"}},
        "arms": {
            f"digits-{loss}": {"experiment": "digits", "dataset": "digits", "loss": loss}
            for loss in ("cross_entropy", "focal")
        },
        "seeds": [0, 1],
        "compute": {"device": "cpu"},
        "tuning": {"trials": 0},
        "comparison": {"baseline": "cross_entropy"},
        "retraining": {"model_name": "digits", "floor": 0.2, "max_class_drop": 1.0},
    }  # fmt: skip


@dataclass
class Study:
    """A copy of the study in some state, and what runs in it.

    Attributes:
        said: what each command printed, the study's folder written as STUDY.
        environment: what every command of this copy finds in it.
        companions: what runs beside it (a server) until the trial is over.
        lost_originals: files of the user's that a trial found gone or changed.
        within: the beginning of every command line: what it runs in (a mount, say).
        ask: puts a question to the study's record, where that is not a file in its folder.
        late: whether the run was over before harm came to it: then nothing was shown.

    """

    folder: Path
    repro_seconds: float = 0.0
    retrain_seconds: float = 0.0
    said: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    companions: ExitStack = field(default_factory=ExitStack)
    lost_originals: int = 0
    within: tuple[str, ...] = ()
    ask: Callable[[str], list[tuple[Any, ...]]] | None = None
    late: bool = False

    def asked(self, question: str) -> list[tuple[Any, ...]]:
        """Put a question in SQL to the study's record in MLflow."""
        if self.ask is not None:
            return self.ask(question)
        with reading(self.folder) as store:
            return store.execute(question).fetchall()

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a command in a group of its own; its output goes to a file beside the study."""
        with self.folder.with_suffix(".log").open("ab") as log:
            found = _environment(**self.environment | environment)
            return subprocess.Popen(
                (*self.within, *command), cwd=self.folder, env=found, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, process_group=0,
            )  # fmt: skip

    def run(self, *command: str, **environment: str) -> int:
        """Run a command to its end; what it printed last is kept in ``said``."""
        log = self.folder.with_suffix(".log")
        before = log.stat().st_size if log.exists() else 0
        process = self.start(*command, **environment)
        try:
            code = process.wait(timeout=600)
        finally:
            end(process)
        text = log.read_bytes()[before:].decode(errors="replace")
        self.said.append(text.replace(str(self.folder), "STUDY"))
        return code

    def copy(self, folder: Path) -> "Study":
        """Copy the study, for a trial."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Study(folder, self.repro_seconds, self.retrain_seconds)


def _environment(**more: str) -> dict[str, str]:
    kept = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    }
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1", **more}


def family(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """List the living descendants of a process."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def end(process: "subprocess.Popen[bytes]") -> None:
    """End what is left of a group."""
    with suppress(ProcessLookupError):  # it ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outliving(children: Sequence[psutil.Process], grace: float = GRACE) -> list[psutil.Process]:
    """List the processes that still run when ``grace`` seconds have passed.

    One that has ended does not run, even where nobody asks for its exit status: a container's first process
    often does not, and a zombie then keeps its number for as long as the container lives.
    """
    deadline = time.monotonic() + grace
    while (alive := [one for one in children if _runs(one)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_running(children: Sequence[psutil.Process]) -> int:
    """Count the processes that outlived a killed parent; they are ended then."""
    alive = outliving(children)
    for one in alive:
        one.kill()
    return len(alive)


@dataclass(frozen=True)
class Templates:
    """The study in the states in which faults find it.

    Attributes:
        ready: data are there and valid, nothing is trained.
        untracked: everything is trained and reported, MLflow knows nothing.
        done: after `make repro`.
        served: after the first `make retrain`: there is a champion.
        weak: the same, but the champion was hardly trained.

    """

    ready: Study
    untracked: Study
    done: Study
    served: Study | None = None
    weak: Study | None = None


def prepare(folder: Path, wanted: Container[str]) -> Templates:
    """Make the study once, undisturbed; of the states that retraining leaves only those that are wanted."""
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(params(), stream)
    study = Study(checkout(folder / "ready", folder / "params.yaml"))
    must(study.run("dvc", "repro", "validate@digits"), study)
    untracked = study.copy(folder / "untracked")
    began = time.perf_counter()
    must(untracked.run("dvc", "repro"), untracked)
    seconds = time.perf_counter() - began
    done = untracked.copy(folder / "done")
    must(done.run(*REPRO), done)
    for one in (study, untracked, done):
        one.repro_seconds = seconds
    made = Templates(study, untracked, done)
    return _retrained(folder, made) if "served" in wanted or "weak" in wanted else made


def _retrained(folder: Path, made: Templates) -> Templates:
    """Add what retraining leaves."""
    served, weak = made.done.copy(folder / "served"), made.ready.copy(folder / "weak")
    began = time.perf_counter()
    must(served.run(*RETRAIN), served)
    seconds = time.perf_counter() - began
    set_epochs(weak, WEAK)
    must(weak.run(*RETRAIN), weak)
    for one in (made.ready, made.untracked, made.done, served, weak):
        one.retrain_seconds = seconds
    return replace(made, served=served, weak=weak)


def set_epochs(study: Study, epochs: int) -> None:
    """Change how long the study trains."""
    yaml = YAML()
    file = study.folder / "params.yaml"
    content = yaml.load(file.read_text(encoding="utf-8"))
    content["experiments"]["digits"]["recipe"]["epochs"] = epochs
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def must(code: int, study: Study) -> None:
    """Refuse to measure on a study that does not run undisturbed."""
    if code:
        raise RuntimeError(f"the undisturbed study ends with {code}: {study.said[-1][-3000:]}")


def tree(folder: Path) -> dict[str, str]:
    """Hash every file of the outs."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for out in OUTS
        for file in sorted((folder / out).rglob("*"))
        if file.is_file() and file.name != ".gitignore"
    }


def lock(folder: Path) -> Any:
    """Parse dvc.lock; None where there is none or half of one."""
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load((folder / "dvc.lock").read_text(encoding="utf-8"))
    except (FileNotFoundError, YAMLError):
        return None


def points(study: Study) -> Counter[Point]:
    """Read every metric of the present runs from MLflow's store, past MLflow."""
    chosen = """
        SELECT a.value, r.value, coalesce(s.value, t.value, ''), m.key, m.step, m.value
        FROM metrics m JOIN runs u ON u.run_uuid = m.run_uuid AND u.lifecycle_stage = 'active'
        JOIN tags c ON c.run_uuid = u.run_uuid AND c.key = 'lossbench.current' AND c.value = 'true'
        JOIN tags a ON a.run_uuid = u.run_uuid AND a.key = 'arm'
        JOIN tags r ON r.run_uuid = u.run_uuid AND r.key = 'lossbench.role'
        LEFT JOIN tags s ON s.run_uuid = u.run_uuid AND s.key = 'seed'
        LEFT JOIN tags t ON t.run_uuid = u.run_uuid AND t.key = 'trial'"""
    return Counter(
        (arm, f"{role} {which}", key, int(step), float(value))
        for arm, role, which, key, step, value in study.asked(chosen)
        if not key.startswith(OF_THE_CLOCK)
    )


def running(study: Study) -> int:
    """Count the runs that still look alive."""
    wanted = "SELECT count(*) FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'"
    return int(study.asked(wanted)[0][0])


@contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the study's MLflow store for reading."""
    store = sqlite3.connect(folder / "mlflow.db", timeout=30)
    try:
        yield store
    finally:
        store.close()


@dataclass(frozen=True)
class Undisturbed:
    """What every trial has to end as."""

    outs: dict[str, str]
    lock: Any
    points: Counter[Point]

    @classmethod
    def of(cls, study: Study) -> "Undisturbed":
        """Take it down from the study that nothing happened to."""
        return cls(tree(study.folder), lock(study.folder), points(study))

    def losses(self, study: Study) -> dict[str, int]:
        """Count what a study lacks after its recovery, and what it has too much."""
        outs = tree(study.folder)
        names = self.outs.keys() | outs.keys()
        found = points(study)
        return {
            "lost_metrics": (self.points - found).total(),
            "doubled_metrics": (found - self.points).total(),
            "damaged_outs": sum(self.outs.get(name) != outs.get(name) for name in names)
            + (lock(study.folder) != self.lock),
            "left_running": running(study),
        }


Inject = Callable[[Study, random.Random], int]
"""Does the harm; returns how many processes outlived it."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: what happens.
        start: the state of the study in which it happens.
        inject: makes it happen, at a random moment or place.
        recovery: the one command that repairs it.
        judge: counts wrong promotions; such a trial is judged by its registry alone, for its outs may
            rightly be others than the undisturbed ones.
        missing: says what is not installed that it needs; empty where everything is.
        alone: whether it starts servers: in a network that has ``lo`` alone, with no other trial beside it.

    """

    name: str
    start: str
    inject: Inject
    recovery: tuple[str, ...] = REPRO
    judge: Callable[[Study], int] | None = None
    missing: Callable[[], str] = str
    alone: bool = False

    @property
    def command(self) -> str:
        """The recovery as a person would type it."""
        return f"make {'repro' if self.recovery == REPRO else self.recovery[-1]}"


def newest(folder: Path, pattern: str) -> Path:
    """Find the file that was written last."""
    return max(folder.glob(pattern), key=lambda file: file.stat().st_mtime_ns)


def stated(study: Study) -> dict[str, Any]:
    """What the commands said: the last line of each, and how many ended in a traceback."""
    lines = [text.strip().splitlines()[-1][:200] for text in study.said if text.strip()]
    return {"said": lines, "tracebacks": sum("Traceback (most recent" in text for text in study.said)}
