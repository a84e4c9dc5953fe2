"""When a run writes all outs itself, and when it leaves that to DVC's stages."""

import hashlib
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ruamel.yaml import YAML

from lossbench import chain, collecting
from lossbench.collecting import collect_at_once, data_at_once, nothing_to_restore, validation_at_once
from lossbench.doctor.living import _ours
from lossbench.execution.collect import LostError
from lossbench.outs import Outs
from lossbench.params import Params, parse_params
from lossbench.store import Store
from tests.conftest import ROOT, tiny_params, write_params


@pytest.fixture
def params() -> Params:
    return parse_params(tiny_params(), "params.yaml")


@pytest.fixture
def study(tmp_path: Path, params: Params) -> Path:
    """A study that was checked, with every arm there and known to dvc.lock."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    content = tiny_params()
    write_params(tmp_path, content)
    stages: dict[str, object] = {"fetch@digits": {"outs": [{"path": "data/digits", "md5": "0"}]}}
    for name in params.arms:
        file = Outs(tmp_path).checked / "arms" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'"{name}"')
        Outs(tmp_path).arm(params.arms[name].experiment, name).mkdir(parents=True)
        loss = f"losses.{content['arms'][name]['loss']}"
        noted = {"seeds": content["seeds"], loss: content["losses"][loss.partition(".")[2]]}
        stages[f"train@{name}"] = {
            "deps": [{"path": "data/digits", "md5": "0"}, {"md5": md5(file)}], "params": {"params.yaml": noted},
        }  # fmt: skip
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
    return done


COMMIT = ("commit", "--force", "--no-relink", "dvc.yaml:train", "dvc.yaml:evaluate")


def test_without_a_lock_all_is_collected_and_recorded_at_once(
    study: Path, params: Params, called: list[tuple[str, ...]]
) -> None:
    (study / "dvc.lock").unlink()
    assert collect_at_once(params, Outs(study), Store(str(study / "store")), settled=()) == COMMIT
    assert called == [("collect",)]


def test_arms_of_other_code_are_collected_one_alone_is_left_to_its_stage(
    study: Path, params: Params, called: list[tuple[str, ...]]
) -> None:
    for count, name in enumerate(params.arms, start=1):
        (Outs(study).checked / "arms" / f"{name}.json").write_text("other code")
        called.clear()
        commit = collect_at_once(params, Outs(study), Store(str(study / "store")), settled=())
        assert commit == (COMMIT if count > 1 else ())
        assert called == ([("collect",)] if count > 1 else [])


def test_arms_that_are_not_there_are_collected_though_the_lock_knows_them(
    study: Path, params: Params, called: list[tuple[str, ...]]
) -> None:
    """As in a fresh clone, which has the lock and no outs."""
    shutil.rmtree(study / "models")
    assert collect_at_once(params, Outs(study), Store(str(study / "store")), settled=()) == COMMIT
    assert called == [("collect",)]


PREPARE = "\n  prepare:\n    cmd: make raw\n    outs:\n      - raw\n"
"""A stage of the user's, which makes what a dataset's path names."""


@pytest.mark.parametrize("what", ["nothing", "data", "cache", "chain", "stage"])
def test_data_are_fetched_at_once_where_dvc_has_nothing_to_give_back(
    what: str, study: Path, params: Params
) -> None:
    (study / ".dvc").mkdir()
    made = {"data": "data/digits", "cache": ".dvc/cache/files/md5"}
    if what in made:
        (study / made[what]).mkdir(parents=True)
    if what == "chain":
        text = (study / "dvc.yaml").read_text()
        (study / "dvc.yaml").write_text(text.replace("lossbench.stages.fetch ", "mine "))
    if what == "stage":
        text = (study / "dvc.yaml").read_text()
        (study / "dvc.yaml").write_text(text.replace("\nplots:", f"{PREPARE}\nplots:"))
    assert nothing_to_restore(params, Outs(study)) == (what == "nothing")


@pytest.mark.parametrize("what", ["seeds", "data"])
def test_arms_of_other_params_or_data_are_collected(
    study: Path, params: Params, called: list[tuple[str, ...]], what: str
) -> None:
    outs, store = Outs(study), Store(str(study / "store"))
    assert collect_at_once(params, outs, store, settled=()) == ()
    if what == "seeds":
        write_params(study, tiny_params() | {"seeds": [7, 8, 9]})
    else:
        with (study / "dvc.lock").open() as stream:
            stages = YAML(typ="safe").load(stream)["stages"]
        stages["fetch@digits"]["outs"][0]["md5"] = "1"
        write_lock(study, stages)
    assert collect_at_once(params, outs, store, settled=()) == COMMIT
    assert called == [("collect",)]


def test_one_loss_that_is_another_is_left_to_its_stages(
    study: Path, params: Params, called: list[tuple[str, ...]]
) -> None:
    arms = {"digits-focal": params.arms["digits-focal"]}
    content = tiny_params()
    content["losses"]["focal"] = {"name": "focal", "gamma": 3}
    write_params(study, content)
    assert "digits-focal" in collecting.unrecorded(params, Outs(study))
    assert "digits-cross_entropy" not in collecting.unrecorded(params, Outs(study))
    one = params.model_copy(update={"arms": arms})
    assert collect_at_once(one, Outs(study), Store(str(study / "store")), settled=()) == ()
    assert called == []


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
    assert collect_at_once(params, Outs(study), Store(str(study / "store")), settled) == ()
    assert called == []


def test_what_is_lost_is_not_recorded(
    study: Path, params: Params, called: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise LostError("gone")

    monkeypatch.setattr(collecting, "collect_all", lost)
    write_lock(study, {})
    assert collect_at_once(params, Outs(study), Store(str(study / "store")), settled=()) == ()
    assert called == []


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was done to datasets, instead of doing it."""
    done: list[tuple[str, str]] = []

    def fetch(_: object, name: str, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "dataset.json").write_text("{}")
        done.append(("fetch", name))

    monkeypatch.setattr("lossbench.data.fetching.fetch", fetch)
    monkeypatch.setattr(
        "lossbench.execution.validation.collect_validation",
        lambda _, name, *__: done.append(("validate", name)),
    )
    return done


def test_data_that_the_lock_does_not_know_are_made_and_recorded_with_the_rest(
    study: Path, params: Params, made: list[tuple[str, str]], called: list[tuple[str, ...]]
) -> None:
    (study / "dvc.lock").unlink()
    outs, store = Outs(study), Store(str(study / "store"))
    done = data_at_once(params, outs, store)
    assert made == [(what, name) for name in params.datasets for what in ("fetch", "validate")]
    shutil.rmtree(outs.checked)
    commit = collect_at_once(params, outs, store, settled=(), done=done)
    groups = ("check", "fetch", "validate", "train", "evaluate")
    assert commit == (*COMMIT[:3], *(f"dvc.yaml:{name}" for name in groups))
    assert {file.stem for file in (outs.checked / "arms").iterdir()} == set(params.arms)


def test_originals_that_were_edited_while_arms_were_trained_are_not_recorded_as_what_was_read(
    study: Path, params: Params, made: list[tuple[str, str]], called: list[tuple[str, ...]]
) -> None:
    (study / "dvc.lock").unlink()
    outs, store = Outs(study), Store(str(study / "store"))
    done = data_at_once(params, outs, store)
    original = study / params.datasets["digits"].path
    original.write_text("edited")
    shutil.rmtree(outs.checked)
    later = (outs.data("digits") / "dataset.json").stat().st_mtime + 1
    os.utime(original, (later, later))
    assert collect_at_once(params, outs, store, settled=(), done=done) == ()
    assert called == []


@pytest.mark.parametrize("why", ["shipped", "chain"])
def test_data_that_were_fetched_just_now_are_validated_at_once(
    why: str, study: Path, params: Params, made: list[tuple[str, str]], called: list[tuple[str, ...]]
) -> None:
    outs, store = Outs(study), Store(str(study / "store"))
    if why == "chain":
        text = (study / "dvc.yaml").read_text()
        (study / "dvc.yaml").write_text(text.replace("lossbench.stages.validate ", "mine "))
    done = validation_at_once(params, outs, store)
    assert made == ([] if why == "chain" else [("validate", name) for name in params.datasets])
    (study / "dvc.lock").unlink()
    commit = collect_at_once(params, outs, store, settled=(), done=done)
    expected = (*COMMIT[:3], *(f"dvc.yaml:{name}" for name in (*done, "train", "evaluate")))
    assert commit == (COMMIT if why == "chain" else expected)


@pytest.mark.parametrize("why", ["recorded", "chain", "stage"])
def test_data_are_left_to_the_stages(
    why: str, study: Path, params: Params, made: list[tuple[str, str]]
) -> None:
    if why == "chain":
        (study / "dvc.lock").unlink()
        text = (study / "dvc.yaml").read_text()
        (study / "dvc.yaml").write_text(text.replace("lossbench.stages.fetch ", "mine "))
    if why == "stage":
        (study / "dvc.lock").unlink()
        text = (study / "dvc.yaml").read_text()
        (study / "dvc.yaml").write_text(text.replace("\nplots:", f"{PREPARE}\nplots:"))
    assert data_at_once(params, Outs(study), Store(str(study / "store"))) == ()
    assert made == []


def test_dvc_is_given_several_commands_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, ...]] = []
    monkeypatch.setattr(chain, "step", lambda *command: steps.append(command))
    chain.in_turn((), ("repro",))
    chain.in_turn(("commit", "--force"), ("repro",))
    assert steps[0] == ("dvc", "repro")
    assert steps[1][1:3] == ("-m", "lossbench.chain")
    assert all(_ours(list(one), waiting=()) for one in steps)  # what runs here is not disturbed
    told: list[list[str]] = []
    codes = iter([0, 3, 0])
    stand_in = SimpleNamespace(main=lambda words: told.append(words) or next(codes))
    monkeypatch.setitem(sys.modules, "dvc.cli", stand_in)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert chain._tell([*steps[1][3:], "--", "status"]) == 3
    assert told == [["commit", "--force"], ["repro"]]
