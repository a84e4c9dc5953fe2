"""When a run writes all outs itself, and when it leaves that to DVC's stages."""

import hashlib
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lossbench import collecting
from lossbench.collecting import collect_at_once
from lossbench.execution.collect import LostError
from lossbench.outs import Outs
from lossbench.params import Params, parse_params
from lossbench.store import Store
from tests.conftest import ROOT, tiny_params


@pytest.fixture
def params() -> Params:
    return parse_params(tiny_params(), "params.yaml")


@pytest.fixture
def study(tmp_path: Path, params: Params) -> Path:
    """A study that was checked, and of which dvc.lock knows every arm."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    stages = {}
    for name in params.arms:
        file = Outs(tmp_path).checked / "arms" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'"{name}"')
        stages[f"train@{name}"] = {"deps": [{"path": "data/digits", "md5": "0"}, {"md5": md5(file)}]}
    write_lock(tmp_path, stages)
    return tmp_path


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def write_lock(study: Path, stages: object) -> None:
    with (study / "dvc.lock").open("w") as stream:
        YAML(typ="safe").dump({"schema": "2.0", "stages": stages}, stream)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was done, instead of doing it."""
    done: list[tuple[str, ...]] = []
    monkeypatch.setattr(collecting, "collect_all", lambda *_: done.append(("collect",)))
    monkeypatch.setattr(collecting, "step", lambda *command: done.append(command))
    return done


COMMIT = ("dvc", "commit", "--quiet", "--force", "dvc.yaml:train", "dvc.yaml:evaluate")


def test_without_a_lock_all_is_collected_and_recorded_at_once(
    study: Path, params: Params, called: list[tuple[str, ...]]
) -> None:
    (study / "dvc.lock").unlink()
    collect_at_once(params, Outs(study), Store(str(study / "store")), settled=())
    assert called == [("collect",), COMMIT]


def test_arms_of_other_code_are_collected_one_alone_is_left_to_its_stage(
    study: Path, params: Params, called: list[tuple[str, ...]]
) -> None:
    for count, name in enumerate(params.arms, start=1):
        (Outs(study).checked / "arms" / f"{name}.json").write_text("other code")
        called.clear()
        collect_at_once(params, Outs(study), Store(str(study / "store")), settled=())
        assert called == ([("collect",), COMMIT] if count > 1 else [])


@pytest.mark.parametrize("why", ["recorded", "settled", "chain"])
def test_it_is_left_to_the_stages(
    why: str, study: Path, params: Params, called: list[tuple[str, ...]]
) -> None:
    if why != "recorded":
        (study / "dvc.lock").unlink()
    if why == "chain":
        text = (study / "dvc.yaml").read_text()
        (study / "dvc.yaml").write_text(text.replace("lossbench.stages.train ", "mine "))
    settled = ["train@x"] if why == "settled" else []
    collect_at_once(params, Outs(study), Store(str(study / "store")), settled)
    assert called == []


def test_what_is_lost_is_not_recorded(
    study: Path, params: Params, called: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise LostError("gone")

    monkeypatch.setattr(collecting, "collect_all", lost)
    write_lock(study, {})
    collect_at_once(params, Outs(study), Store(str(study / "store")), settled=())
    assert called == []
