"""Own training scripts, part by part: the command line, what is read of a run, and the run itself."""

import json
import os
import signal
import string
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each, few

from lossbench.errors import GateError, UserError
from lossbench.identity import Owner
from lossbench.params import ScriptExperiment, parse_params
from lossbench.scripts.arguments import filled, placeholders, values_of
from lossbench.scripts.code import script_code
from lossbench.scripts.places import stamps, written_twice
from lossbench.scripts.results import (
    Result,
    WrongResultError,
    check_test,
    parse_result,
    read_history,
    read_result,
)
from lossbench.scripts.running import MARK, end_left_behind, run_script
from lossbench.scripts.spec import ScriptTask


@given(st.text(alphabet=string.printable), st.integers(), st.floats(allow_nan=False))
def test_what_is_no_placeholder_reaches_the_script_as_written(text: str, seed: int, rate: float) -> None:
    escaped = text.replace("{", "{{").replace("}", "}}")
    made = filled([f"{escaped}{{seed}}", "{rate}"], {"seed": seed, "rate": rate}, "k")
    assert made == [f"{text}{seed}", str(rate)]
    assert float(made[1]) == rate


def test_a_list_alone_in_an_argument_becomes_arguments() -> None:
    command = ["x", "{args}", "--on={flag}"]
    assert filled(command, {"args": ["--gamma", 2.0], "flag": True}, "k") == [
        "x",
        "--gamma",
        "2.0",
        "--on=true",
    ]
    assert filled(command, {"args": [], "flag": False}, "k") == ["x", "--on=false"]


def test_the_budget_is_the_share_of_a_replicates_epochs() -> None:
    values = values_of("focal", {"gamma": 2}, 3, {"learning_rate": 0.1, "weight_decay": 0.0}, 5, 20)
    assert values == {
        "gamma": 2, "loss": "focal", "seed": 3, "learning_rate": 0.1, "weight_decay": 0.0, "epochs": 5, "budget": 0.25,
    }  # fmt: skip


@each(
    ("argument", "said"),
    [
        ("{", "'k' has '{'"),
        ("{seed!r}", "bare names"),
        ("{seed:03d}", "bare names"),
        ("{a.b}", "bare names"),
        ("{}", "bare names"),
        ("{sed}", "did you mean 'seed'?"),
        ("{table}", "{table}, whose value is {'a': 1}"),
        ("x{list}", "a list of these where the argument is the placeholder alone"),
        ("{none}", "whose value is None"),
    ],
)
def test_a_wrong_placeholder_is_one_sentence(argument: str, said: str) -> None:
    values = {"seed": 1, "table": {"a": 1}, "list": [1], "none": None}
    with pytest.raises(UserError) as error:
        filled([argument], values, "k")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def task(**more: Any) -> ScriptTask:
    return ScriptTask(
        **{"command": ("python", "x.py"), "metrics": {"accuracy": "higher", "cost": "lower"}} | more
    )


GOOD = {"test": {"accuracy": 0.5, "cost": 3.0}, "validation": {"accuracy": 0.6}}


@given(
    st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    st.booleans(),
)
def test_a_result_is_the_same_after_it_was_kept(test: dict[str, float], diverged: bool) -> None:
    result = Result(test, {}, {"floor": test}, {}, diverged)
    assert parse_result(result.to_bytes()) == result


@each(
    ("content", "said"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("3", "is 3; allowed"),
        ({}, 'has no "test"'),
        ({"test": {}}, 'has no "test"'),
        ({"tset": {"accuracy": 1}}, "did you mean 'test'?"),
        ({"test": [0.5]}, "'test' of its metrics.json is [0.5]"),
        ({"test": {"accuracy": "0.5"}}, "'test.accuracy' of its metrics.json is '0.5'; allowed: a number"),
        ({"test": {"accuracy": True}}, "is True; allowed: a number"),
        ({"test": {"accuracy": None}}, "is None; allowed: a number"),
        ({"test": {"accuracy": 10**400}}, "allowed: a number"),
        ({"test": {"accuracy": 0.5}}, "has no 'test.cost', which 'metrics' declares; found: accuracy"),
        ('{"test": {"accuracy": NaN, "cost": 1}}', "'test.accuracy' of its metrics.json is nan"),
        ('{"test": {"accuracy": 1, "cost": Infinity}}', "is inf; allowed: a finite number"),
        ({"test": {"accuracy": 93.2, "cost": 1}}, "is 93.2, but 'accuracy' lies in 0 to 1"),
        (GOOD | {"diverged": "no"}, "'diverged' of its metrics.json is 'no'; allowed: true or false"),
        (GOOD | {"per_example": {"accuracy": []}}, "is []; allowed: a list of numbers"),
        (
            GOOD | {"per_example": {"accuracy": [0, 0, 1]}},
            "has a mean of 0.333333, but 'test.accuracy' is 0.5",
        ),
        (GOOD | {"floors": {"constant": 0.1}}, "'floors.constant' of its metrics.json is 0.1"),
    ],
)
def test_a_wrong_metrics_file_is_one_clause(content: Any, said: str, tmp_path: Path) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(WrongResultError) as error:
        check_test(read_result(tmp_path / "metrics.json"), task())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_script_that_only_prints_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(
        WrongResultError, match=r"wrote no metrics.json into the folder \{out\}: what it prints"
    ):
        read_result(tmp_path / "metrics.json")


def test_more_than_was_declared_is_no_fault() -> None:
    check_test(parse_result(json.dumps(GOOD | {"test": GOOD["test"] | {"mine": -4}}).encode()), task())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch,loss\n1,2\n", "begins with 'epoch,loss'; allowed: epoch,split,metric,value"),
        ("epoch,split,metric,value\n0,train,loss,1\n", "line 2 of its history.csv is '0,train,loss,1'"),
        ("epoch,split,metric,value\n1,train,loss\n", "line 2"),
        ("epoch,split,metric,value\n1,train,loss,1\n1,train,loss,2\n", "twice"),
    ],
)
def test_a_wrong_history_is_one_clause(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(WrongResultError) as error:
        read_history(tmp_path)
    assert said in str(error.value)


def test_a_history_is_read_as_written(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    (tmp_path / "history.csv").write_text(
        "epoch,split,metric,value\r\n1,train,loss,0.5\r\n2,train,loss,nan\r\n"
    )
    assert read_history(tmp_path)[0] == (1, "train", "loss", 0.5)


def run(code: str, tmp_path: Path, **more: Any) -> Any:
    (tmp_path / "x.py").write_text(code)
    return run_script(["python", "x.py", "; echo $HOME"], tmp_path, tmp_path, 2, **more)


def test_arguments_are_never_given_to_a_shell(tmp_path: Path) -> None:
    run("import os, sys; print(sys.argv[1:], os.environ['OMP_NUM_THREADS'], os.getcwd())", tmp_path)
    assert (tmp_path / "stdout.txt").read_text() == f"['; echo $HOME'] 2 {tmp_path}\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import sys; print('a' * 5, file=sys.stderr); sys.exit(3)",
            "ended with exit code 3; its last lines:\n    aaaaa",
        ),
        ("print('only here'); raise SystemExit(1)", "its last lines:\n    only here"),
        ("raise SystemExit(1)", "ended with exit code 1; it said nothing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by signal 9 (SIGKILL)"),
        ("raise ValueError('no such loss')", "ValueError: no such loss"),
    ],
)
def test_a_script_that_fails_is_quoted(code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(GateError) as error:
        run(code, tmp_path)
    assert said in str(error.value)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="'no-such-program' cannot be started: No such file"):
        run_script(["no-such-program"], tmp_path, tmp_path, 1)


FAMILY = """
import subprocess, sys, time, pathlib
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path("child").write_text(str(child.pid))
"""


SESSION = """
import os, pathlib, subprocess, sys, time
if not os.fork():
    os.setsid()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    pathlib.Path("part").write_text(str(child.pid))
    os.rename("part", "child")
    os._exit(0)
while not pathlib.Path("child").exists():
    time.sleep(0.01)
"""
"""It starts a process as a daemon does: forked twice, in a session of its own."""


def ended(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_after_its_timeout_a_script_ends_with_all_that_it_started(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"took longer than its 'timeout' of 1\.5 s and was ended"):
        run(FAMILY + "time.sleep(600)", tmp_path, timeout=1.5)
    assert ended(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize("script", [FAMILY, SESSION])
def test_what_a_script_leaves_running_ends_with_it(script: str, tmp_path: Path) -> None:
    run(script, tmp_path)
    assert ended(int((tmp_path / "child").read_text()))


@few("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@each("script", [FAMILY, SESSION])
def test_ctrl_c_ends_a_script_with_all_that_it_started(script: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(script + "time.sleep(600)")
    driver = (
        "import pathlib, signal\n"
        # who runs the tests in a shell's background hands down that Ctrl-C is ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lossbench.scripts.running import run_script\n"
        "from lossbench.training.interruption import ending_on_sigterm\n"
        "here = pathlib.Path.cwd()\n"
        "with ending_on_sigterm():\n"
        "    run_script(['python', 'x.py'], here, here, 1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", driver],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "child").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    process.send_signal(number)
    process.wait(timeout=30)
    if number == signal.SIGKILL:  # it could do nothing; who comes next does
        end_left_behind()
    assert ended(int((tmp_path / "child").read_text()))


def test_what_runs_for_others_is_not_ended(tmp_path: Path) -> None:
    """Not a script of a worker that lives, nor one of another space of process numbers (a container's)."""
    marks = ["x nonsense", f"x {Owner.me()}", f"x {replace(Owner.me(), space='1', pid=2**22, started=1.0)}"]
    sleeps = [
        subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: mark}, start_new_session=True)
        for mark in marks
    ]
    try:
        run("pass", tmp_path)
        time.sleep(0.1)
        assert [one.poll() for one in sleeps] == [None] * len(marks)
    finally:
        for one in sleeps:
            one.kill()
            one.wait()


def test_two_runs_that_write_to_one_place_are_told(tmp_path: Path) -> None:
    ledger = tmp_path / ".lossbench" / "writes"
    before = stamps(tmp_path)
    (tmp_path / "other.csv").write_text("")  # so that the folder is not empty at the second look
    assert written_twice(tmp_path, before or {"x": 0}, ledger, "a", "run a", ()) is None
    before = stamps(tmp_path)
    (tmp_path / "best.pt").write_bytes(b"1")
    assert written_twice(tmp_path, before, ledger, "a", "run a", ()) is None
    before = stamps(tmp_path)
    os.utime(tmp_path / "best.pt", ns=(1, 1))
    assert written_twice(tmp_path, before, ledger, "a", "run a", ()) is None, "the same run, again"
    os.utime(tmp_path / "best.pt", ns=(2, 2))
    assert written_twice(tmp_path, before, ledger, "b", "run b", ("*.pt",)) is None, "declared"
    assert written_twice(tmp_path, before, ledger, "b", "run b", ()) == ("best.pt", "run a")


def test_what_people_and_the_chain_write_is_no_scripts_doing(tmp_path: Path) -> None:
    before = {"x": 0}
    for name in (
        "notes.md",
        "train.py",
        "models/a/seed-0.json",
        ".hidden/x.bin",
        "mlflow.db-shm",
        "env/pyvenv.cfg",
        "env/lib.so",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert written_twice(tmp_path, before, tmp_path / ".l", "a", "run a", ()) is None
    assert not (tmp_path / ".l").exists()


def test_what_a_script_imports_and_depends_on_is_its_code(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text('"""Docstring."""\nimport numpy\nfrom nets import small\n')
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "__init__.py").write_text("")
    (tmp_path / "nets" / "small.py").write_text("WIDTH = 3\n")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.yaml").write_text("x: 1\n")
    chosen = task(command=("python", "train.py", "--out", "{out}"), depends=("conf",))
    code = script_code(chosen, tmp_path)
    assert {"script/train", "script/nets", "script/nets.small", "script/conf/a.yaml"} <= code.files.keys()
    assert code.foreign == {"numpy"}
    (tmp_path / "train.py").write_text('"""Another."""\nimport numpy  # a comment\nfrom nets import small\n')
    assert script_code(chosen, tmp_path).digest == code.digest
    (tmp_path / "conf" / "a.yaml").write_text("x: 2\n")
    changed = script_code(chosen, tmp_path).digest
    assert changed != code.digest
    (tmp_path / "nets" / "small.py").write_text("WIDTH = 4\n")
    assert script_code(chosen, tmp_path).digest != changed
    elsewhere = task(command=("/opt/python", "train.py"))
    assert not script_code(elsewhere, tmp_path).foreign, "which packages another Python has is not known"


def test_a_script_run_as_a_module_imports_from_the_studys_folder(tmp_path: Path) -> None:
    """``python -m scripts.train`` finds ``scripts.nets``, which ``python scripts/train.py`` calls ``nets``."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/train.py").write_text(
        "from scripts import nets\nfrom . import more\nopen('best.pt')"
    )
    (tmp_path / "scripts/__main__.py").write_text("from . import train")
    for name in ("scripts/nets.py", "scripts/more.py", "best.pt"):
        (tmp_path / name).touch()
    for module in ("scripts.train", "scripts"):
        chosen = task(command=("python", "-m", module, "--out", "{out}"))
        before = script_code(chosen, tmp_path)
        assert {"script/scripts.train", "script/scripts.nets", "script/scripts.more"} <= before.files.keys()
        (tmp_path / "best.pt").write_text(module)  # what a run leaves in the study's folder
        assert script_code(chosen, tmp_path).digest == before.digest
        (tmp_path / "scripts/nets.py").write_text(f"EDITED = '{module}'")
        assert script_code(chosen, tmp_path).digest != before.digest


def test_an_experiment_needs_no_network_and_shows_none() -> None:
    assert placeholders(["{seed}", "{loss}{seed}"], "k") == ["seed", "loss"]
    content = {
        "datasets": {"d": {"source": "digits", "path": "x"}},
        "experiments": {
            "x": {
                "task": "command", "command": ["a"], "metrics": {"m": "lower"}, "dataset": "d", "recipe": {"epochs": 2},
                "metric": "m", "margin": 0.1,
            }
        },
        "losses": {"a": {}, "b": {}},
        "arms": {f"x-{loss}": {"experiment": "x", "dataset": "d", "loss": loss} for loss in "ab"},
        "seeds": [0, 1],
        "compute": {},
        "tuning": {},
        "comparison": {"baseline": "a"},
    }  # fmt: skip
    params = parse_params(content)
    experiment = params.experiments["x"]
    assert isinstance(experiment, ScriptExperiment)
    assert experiment.recipe.model_dump() == {
        "epochs": 2, "optimizer": {"learning_rate": 0.001, "weight_decay": 0.0},
    }  # fmt: skip
    assert parse_params(json.loads(params.model_dump_json())) == params
