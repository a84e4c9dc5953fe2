"""The chain as written in dvc.yaml: stages, what they depend on, and that this is true."""

import re
import shutil
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
from conftest import tiny_params, write_params
from law_cases import each
from ruamel.yaml import YAML

from lossbench.errors import GateError
from lossbench.params import load_params, parse_params
from lossbench.stages.common import expect_as_read

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


def deps(stage: str) -> list[str]:
    """Dependencies of a stage in dvc.yaml."""
    block = STAGES[stage]
    found: list[str] = (block.get("do") or block)["deps"]
    return found


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "check"])
def test_a_stage_depends_on_the_code_that_check_found_it_to_run(stage: str) -> None:
    checked = [dep for dep in deps(stage) if dep.startswith("reports/checked/")]
    assert len(checked) == 1
    assert not any(dep.startswith("${root}") for dep in deps(stage)), "folders of code are check's alone"


def test_check_depends_on_all_code() -> None:
    assert {"${root}/lossbench", "${root}/stages", "${root}/requirements.lock", "${code}"} <= set(
        deps("check")
    )


def test_the_lineage_names_a_file_for_every_dependency(trained_study: Path) -> None:
    from lossbench.execution.lineage import lineage

    params = load_params(trained_study / "params.yaml")
    made = lineage(params, trained_study)
    wanted = {"validation.json", "report.json"}
    wanted |= {f"datasets/{name}.json" for name in params.datasets}
    wanted |= {f"arms/{name}.json" for name in params.arms}
    wanted |= {f"experiments/{name}.json" for name in params.experiments}
    assert set(made) == wanted
    assert "lossbench.losses.distribution" in made["arms/digits-focal.json"]["code"]
    assert made["experiments/digits.json"]["arms"] == {
        "digits-cross_entropy": "cross_entropy", "digits-focal": "focal",
    }  # fmt: skip


def test_an_arm_of_one_experiment_changes_no_other_experiments_lineage(trained_study: Path) -> None:
    from lossbench.execution.lineage import lineage

    content = tiny_params()
    before = lineage(parse_params(content), trained_study)
    content["losses"]["hinge"] = {"name": "hinge"}
    content["arms"]["digits-hinge"] = {"experiment": "digits", "dataset": "digits", "loss": "hinge"}
    after = lineage(parse_params(content), trained_study)
    changed = {file for file in before if before[file] != after[file]}
    assert changed == {"experiments/digits.json"}
    assert set(after) - set(before) == {"arms/digits-hinge.json"}


def test_the_chain_has_the_stages_of_the_design() -> None:
    assert list(STAGES) == ["check", "fetch", "validate", "train", "evaluate", "report"]


@each("file", [ROOT / "params.yaml", *sorted(ROOT.glob("studies/*/params.yaml"))])
def test_committed_params_make_sense(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lossbench.checking import check

    (tmp_path / "input").mkdir()  # where a study waits for the user's own folder, or file
    (tmp_path / "input.txt").write_text("text")
    if (file.parent / "scripts").is_dir():  # of the user's own training
        shutil.copytree(file.parent / "scripts", tmp_path / "scripts")
    monkeypatch.chdir(tmp_path)
    check(load_params(file))


@each("study", sorted(ROOT.glob("studies/*/params.yaml")))
def test_a_study_links_to_the_one_chain(study: Path) -> None:
    link = study.parent / "dvc.yaml"
    assert link.is_symlink()
    assert link.resolve() == ROOT / "dvc.yaml"


@pytest.mark.parametrize("stage", [name for name, block in STAGES.items() if "do" in block])
def test_a_stage_reads_of_params_what_dvc_notes(stage: str) -> None:
    """So that it sees an edit of these while it is at work, and of no others."""
    params = parse_params(tiny_params())
    key = {"fetch": "digits", "validate": "digits", "train": "digits-focal", "evaluate": "digits"}[stage]
    arm = params.arms["digits-focal"]
    filled = {"key": key, "item.experiment": arm.experiment, "item.loss": arm.loss}
    noted = [
        re.sub(r"\$\{(.+?)\}", lambda found: filled[found[1]], text) for text in STAGES[stage]["do"]["params"]
    ]
    read = import_module(f"lossbench.stages.{stage}").reads(params, key)
    assert [".".join(part) for part in read] == noted


@pytest.mark.parametrize(
    ("edit", "refused"),
    [("focal", True), ("dice", False), ("gone", True), ("half written", True), ("comment", False)],
)
def test_what_was_made_while_its_params_were_edited_is_refused(
    edit: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = tiny_params()
    content["losses"]["dice"] = {"name": "dice"}
    write_params(tmp_path, content)
    params, file = load_params(), tmp_path / "params.yaml"
    match edit:
        case "gone":
            file.unlink()
        case "half written":
            file.write_text(file.read_text()[:-40] + ": [")
        case "comment":
            file.write_text("# a comment\n" + file.read_text())
        case loss:
            content["losses"][loss]["name"] = "mse"
            write_params(tmp_path, content)
    said = pytest.raises(GateError, match=r"params\.yaml: 'losses\.focal' was edited while")
    with said if refused else nullcontext():
        expect_as_read(params, [("losses", "focal"), ("compute",)])


@pytest.mark.parametrize(
    ("stage", "work"),
    [
        ("check", "lossbench.execution.lineage.write_lineage"),
        ("report", "lossbench.reporting.write.write_report"),
    ],
)
def test_check_and_report_read_all_params(
    stage: str, work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert STAGES[stage]["params"] == [{"params.yaml": None}]
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())
    module = import_module(f"lossbench.stages.{stage}")
    for name in ("die_with_parent", "expect_locked"):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(f"{module.__name__}.checked_by_caller", lambda: True, raising=False)
    monkeypatch.setattr(work, lambda *_: write_params(tmp_path, tiny_params() | {"seeds": [7]}))
    with pytest.raises(GateError, match=r"params\.yaml: 'seeds' was edited while the stage was at work"):
        module.main()
