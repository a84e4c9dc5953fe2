"""A user's folder becomes a study in one command."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, in_process, stage, tiny_params, write_params
from law_cases import each, mostly_slow
from PIL import Image

from lossbench.checking import check
from lossbench.cli import VERBS
from lossbench.errors import UserError
from lossbench.outs import seen_from_top
from lossbench.params import load_params
from lossbench.studies import new_study, params_for


def draw(file: Path, seed: int, side: int = 24, mask: bool = False) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (side, side)) if mask else rng.integers(0, 256, (side, side, 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(file)


@pytest.fixture
def by_class(tmp_path: Path) -> Path:
    """A folder per class, beside a chain."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    for label, name in enumerate(("cat", "dog")):
        for number in range(40):
            draw(tmp_path / "pets" / name / f"{number}.png", 100 * label + number)
    return tmp_path / "pets"


@pytest.fixture
def with_masks(tmp_path: Path) -> Path:
    """Images beside masks, and a chain."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    for number in range(40):
        draw(tmp_path / "cells/images" / f"{number}.png", number)
        draw(tmp_path / "cells/masks" / f"{number}.png", number, mask=True)
    return tmp_path / "cells"


@pytest.mark.parametrize("kind", mostly_slow(["with_masks", "by_class"], 2))
def test_a_folder_becomes_a_study_that_checks_and_fetches(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_study("mine", request.getfixturevalue(kind), tmp_path)
    assert (folder / "dvc.yaml").is_symlink()
    monkeypatch.chdir(folder)
    params = load_params()
    check(params)
    assert params.retraining.model_name == "lossbench-mine", "on a shared server each study has its own"
    assert seen_from_top(folder, params) == "studies/mine"
    run = stage(folder, "fetch", "mine")
    assert run.returncode == 0, run.stderr
    assert (folder / "data/mine/train/inputs.npy").exists()


def test_what_is_proposed_follows_the_data(by_class: Path, with_masks: Path, tmp_path: Path) -> None:
    even = ["cross_entropy", "focal", "label_smoothing"]
    assert list(params_for("mine", by_class)["losses"]) == even
    for number in range(30):
        (by_class / "dog" / f"{number}.png").unlink()
    made = params_for("mine", by_class)
    assert list(made["losses"]) == [*even, "weighted_ce", "logit_adjusted"]
    assert made["comparison"]["baseline"] == "cross_entropy"
    assert len(made["tuning"]["seeds"]) >= 3
    assert made["tuning"]["trials"] >= 5
    masks = params_for("mine", with_masks)["losses"]
    assert list(masks) == ["cross_entropy", "ce_dice", "dice", "focal", "weighted_ce"]


@pytest.mark.slow
def test_the_command_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "lossbench", "new-study", "mine", str(tmp_path / "nowhere")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "nowhere': no such folder" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b"])
def test_a_name_that_is_no_name_is_refused(name: str, by_class: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NAME"):
        new_study(name, by_class, tmp_path)


def test_a_taken_name_is_refused(by_class: Path, tmp_path: Path) -> None:
    new_study("mine", by_class, tmp_path)
    with pytest.raises(UserError, match="exists already"):
        new_study("mine", by_class, tmp_path)


def test_a_study_links_to_no_chain_that_is_not_there(by_class: Path, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").unlink()
    with pytest.raises(UserError, match=r"dvc.yaml: no such file.*`lossbench new mine --data"):
        new_study("mine", by_class, tmp_path)
    assert not (tmp_path / "studies").exists()


def lossbench(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lossbench", *arguments], cwd=folder, env={**os.environ, **more},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@each("verb", sorted({*VERBS} - {"new", "new-study", "params", "predict", "export", "seeds", "verdict"}))
def test_a_verb_on_a_folder_without_params_exits_2(verb: str, tmp_path: Path) -> None:
    needed = {"schedule": ["show", "cron"], "store": ["list"], "backup": ["to"], "restore": ["from"]}
    run = in_process(tmp_path, verb, *needed.get(verb, []), "--study", str(tmp_path))
    assert run.returncode == 2
    assert "params.yaml: no such file" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_a_device_that_is_not_there_is_refused_and_params_stay_as_they_are(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params())
    before = (tmp_path / "params.yaml").read_bytes()
    run = in_process(tmp_path, "run", "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert run.returncode == 2
    assert "compute.device" in run.stderr
    assert (tmp_path / "params.yaml").read_bytes() == before


@pytest.mark.slow
def test_a_study_with_other_code_than_the_commands_is_refused(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params())
    (tmp_path / "lossbench").mkdir()
    (tmp_path / "lossbench/closure.py").touch()
    run = lossbench(ROOT, "run", "--study", str(tmp_path))
    assert run.returncode == 2
    assert f"'root' leads to the code in {tmp_path}, but this is lossbench of {ROOT}" in run.stderr


HEAVY = {"torch", "mlflow", "great_expectations", "pandas", "dvc", "scipy", "sklearn"}
STAGES = sorted(one.stem for one in (ROOT / "stages").glob("*.py") if one.stem not in ("__init__", "common"))


def test_a_reader_that_has_gone_is_no_bug(tmp_path: Path) -> None:
    """As in `lossbench params | head -1`: silence, and the exit code of a program that SIGPIPE ended."""
    run = subprocess.Popen(
        [sys.executable, "-m", "lossbench", "params"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout is not None
    run.stdout.close()
    _, said = run.communicate()
    assert (run.returncode, said) == (128 + signal.SIGPIPE, b"")


EXPLAIN = f"""
import os, runpy, sys
import lossbench.cli  # once for all, which are forked from here
for command in COMMANDS:
    if (child := os.fork()) == 0:
        module, *verb = command
        sys.argv, code = ["x", *verb, "--help"], None
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        sys.stdout.flush()
        heavy = set(sys.modules) & {HEAVY!r}
        if code or heavy:
            print(*command, "ends with", code, "and imports", heavy, file=sys.stderr, flush=True)
        os._exit(1 if code or heavy else 0)
    if os.waitpid(child, 0)[1]:
        sys.exit(" ".join(command))
"""


@pytest.mark.slow
def test_every_entry_point_explains_itself_without_heavy_imports(tmp_path: Path) -> None:
    commands = [
        *([f"lossbench.stages.{one}"] for one in STAGES),
        ["lossbench"],
        *(["lossbench", verb] for verb in VERBS),
    ]
    code = EXPLAIN.replace("COMMANDS", repr(commands))
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("usage:") == len(commands)
