"""The wheel alone: what it holds, and a stranger's way from `pip install` to a report in a repository of their own."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from dvc_cases import BIN
from ruamel.yaml import YAML
from test_studies import draw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PACKAGES = Path(sysconfig.get_path("purelib"))
MODULE = """
import torch.nn.functional as F
from torch import Tensor, nn


def net(input_shape: tuple[int, ...], outputs: int, *, width: int = 8) -> nn.Module:
    channels, height, wide = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * wide, width), nn.ReLU(), nn.Linear(width, outputs))


def squared(logits: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(logits.softmax(1), F.one_hot(target, logits.shape[1]).float())
"""


def called(folder: Path, *command: str | Path, code: int = 0, **more: str) -> str:
    """Run a command without the checkout on the path; returns what it printed."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run(
        [str(one) for one in command], cwd=folder, env={**kept, "DO_NOT_TRACK": "true", **more},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, which is built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    called(
        ROOT,
        BIN / "uv",
        "build",
        "--offline",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "--out-dir",
        folder,
    )
    [made] = folder.glob("*.whl")
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return made


def environment(folder: Path, wheel: Path) -> Path:
    """A fresh environment with the wheel alone; returns its folder of packages."""
    called(folder, sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv/bin/python"
    called(folder, BIN / "uv", "pip", "install", "--offline", "--no-deps", "--python", python, wheel)
    [packages] = (folder / "venv/lib").glob("python*/site-packages")
    return packages


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in an environment that sees the other packages of ours; returns its programs' folder."""
    folder = tmp_path_factory.mktemp("installed")
    (environment(folder, wheel) / "beside.pth").write_text(f"{PACKAGES}\n")
    return folder / "venv/bin"


def test_the_wheel_holds_one_package_with_all_that_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"lossbench"}
    for folder in ("lossbench", "stages"):
        modules = (file for file in (ROOT / folder).rglob("*.py") if "templates" not in file.parts)
        inside = "" if folder == "lossbench" else "lossbench/"
        assert {f"{inside}{file.relative_to(ROOT).as_posix()}" for file in modules} <= set(names)
    for file in (ROOT / "lossbench").rglob("*.j2"):
        assert file.relative_to(ROOT).as_posix() in names
    parts = (
        "dvc.yaml",
        "MLproject",
        "plugins/README.md",
        "plugins/example_loss.py",
        "scripts/train_torch.py",
    )
    assert [one for one in parts if f"lossbench/templates/project/{one}" not in names] == []
    assert "lossbench/templates/deploy/systemd/lossbench-retrain.service" in names


def test_the_base_needs_numpy_and_scipy_and_says_what_the_rest_needs(wheel: Path, tmp_path: Path) -> None:
    packages = environment(tmp_path, wheel)
    for name in ("numpy", "numpy.libs", "scipy", "scipy.libs"):
        if (PACKAGES / name).exists():
            (packages / name).symlink_to(PACKAGES / name)
    program = tmp_path / "venv/bin/lossbench"
    assert called(tmp_path, program, "--version").startswith("lossbench ")
    rows = [
        f"{loss},{seed},{base + seed * step % 5 / 100}"
        for loss, base, step in (("ce", 0.7, 3), ("dice", 0.8, 2))
        for seed in range(8)
    ]
    (tmp_path / "scores.csv").write_text("\n".join(["loss,seed,score", *rows]) + "\n")
    judged = called(
        tmp_path, program, "verdict", "scores.csv", "--baseline", "ce", "--metric", "dice", "--margin", "0.01"
    )
    assert "dice beats ce" in judged
    assert "seeds" in called(tmp_path, program, "seeds", "--sd", "0.02", "--margin", "0.01", "--arms", "4")
    for words in (
        ["new", "mine", "--data", "."],
        ["predict", "x.png", "--arm", "x"],
        ["schedule", "show", "cron"],
    ):
        said = called(tmp_path, program, *words, code=2)
        assert "pip install 'lossbench[" in said
        assert said.count("\n") == 1


def repository(folder: Path) -> Path:
    """A repository of git's, with a folder of images."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(16):
            draw(folder / "images" / name / f"{number}.png", 100 * label + number, side=8)
    called(folder, "git", "init", "-q")
    return folder


def changed(folder: Path, **blocks: Any) -> None:
    """Write blocks of params.yaml as a user might; shallow."""
    yaml = YAML()
    content = yaml.load((folder / "params.yaml").read_text())
    for key, value in blocks.items():
        if isinstance(value, dict) and key == "experiments":
            content[key]["pets"].update(value)
        else:
            content[key] = value
    with (folder / "params.yaml").open("w") as stream:
        yaml.dump(content, stream)


SMALL: dict[str, Any] = {"seeds": [0, 1, 2], "tuning": {"trials": 0}}


def test_from_the_wheel_to_a_report_in_a_repository_of_ones_own(installed: Path, tmp_path: Path) -> None:
    study, program = repository(tmp_path), installed / "lossbench"
    path = {"PATH": f"{installed}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"}
    called(study, program, "new", "pets", "--data", "images", **path)
    (study / "plugins/mine.py").write_text(MODULE)
    arms = {
        f"pets-{loss}": {"experiment": "pets", "dataset": "pets", "loss": loss}
        for loss in ("cross_entropy", "mine")
    }
    recipe = {"epochs": 2, "batch_size": 8, "optimizer": {"name": "adam", "learning_rate": 0.01}}
    changed(
        study, **SMALL, arms=arms, experiments={"model": {"name": "mine:net", "width": 4}, "recipe": recipe},
        losses={"cross_entropy": {"name": "cross_entropy"}, "mine": {"name": "mine:squared"}},
    )  # fmt: skip
    called(study, program, "run", **path)
    assert "mine" in (study / "reports/verdicts.csv").read_text()
    assert (study / "reports/index.html").stat().st_size > 10_000
    again = called(study, BIN / "dvc", "repro", **path)
    assert "Running stage" not in again
    untracked = called(study, "git", "status", "--porcelain", "--untracked-files=all")
    assert not [
        line
        for line in untracked.splitlines()
        if "/seed-" in line or "mlflow" in line or ".lossbench/" in line
    ]
    [image, *_] = (study / "images/cat").glob("*.png")
    assert image.name in called(study, program, "predict", image, "--arm", "pets-mine", **path)
    assert "nothing to repair" in called(study, program, "doctor", **path)
    for scheduler, shown in (("cron", "17 3 * * * cd"), ("systemd", "OnFailure="), ("serving", "@champion")):
        assert shown in called(study, program, "schedule", "show", scheduler, **path)
    lock = study / "lossbench.lock"
    lock.write_text(lock.read_text().replace("code: ", "code: f"))
    refused = called(study, BIN / "dvc", "repro", code=255, **path)
    assert "another installation than the one it names: code f" in refused
    assert "lossbench.lock: code f" in called(study, program, "lock", **path)
    assert "Running stage" not in called(study, BIN / "dvc", "repro", **path)


def test_from_the_wheel_to_a_report_with_a_training_script(installed: Path, tmp_path: Path) -> None:
    study, program = repository(tmp_path) / "losses", installed / "lossbench"
    path = {"PATH": f"{installed}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"}
    script = study / "scripts/train.py"
    called(
        tmp_path, program, "new", "pets", "--data", "images", "--folder", "losses", "--script", script, **path
    )
    changed(study, **SMALL, experiments={"recipe": {"epochs": 1}})
    called(study, BIN / "dvc", "repro", **path)
    assert "squared" in (study / "reports/verdicts.csv").read_text()
    assert (study / "reports/index.html").stat().st_size > 10_000
