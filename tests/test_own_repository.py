"""A study in the user's own repository: what `lossbench new` writes, and what it refuses."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, tiny_params
from law_cases import mostly_slow
from ruamel.yaml import YAML
from test_studies import draw

from lossbench import cli, installed, project
from lossbench.cli import VERBS
from lossbench.closure import closure
from lossbench.commented import commented
from lossbench.errors import UserError
from lossbench.params import load_params, parse_params
from lossbench.project import Wanted, chain_text, mlproject_text, new_project
from lossbench.reference import knobs

STUDIES = [ROOT / "params.yaml", *sorted(ROOT.glob("studies/*/params.yaml"))]
KNOB = re.compile(r"^( *)# (?=[\w-]+:( |$))", re.MULTILINE)


def loaded(text: str) -> Any:
    return YAML(typ="safe").load(text)


def plain(file: Path) -> Any:
    return json.loads(json.dumps(loaded(file.read_text())))


@pytest.mark.parametrize("file", mostly_slow(STUDIES, 6), ids=lambda file: file.parent.name)
def test_params_written_with_comments_are_the_same_params(file: Path) -> None:
    content = plain(file)
    text = commented(content, {})
    assert parse_params(loaded(text)) == parse_params(content)
    comments = [line for line in text.splitlines() if "# " in line]
    assert max(map(len, comments)) <= 110


@pytest.mark.parametrize("file", mostly_slow(STUDIES, 6), ids=lambda file: file.parent.name)
def test_a_knob_in_a_comment_says_what_is_taken_without_it(file: Path) -> None:
    """All comments that are knobs, made knobs: nothing changes."""
    content = plain(file)
    text = KNOB.sub(r"\1", commented(content, {}))
    assert parse_params(loaded(text)) == parse_params(content)


def test_every_knob_stands_in_the_file() -> None:
    content = tiny_params()
    del content["hypotheses"]
    examples = {"hypotheses": tiny_params()["hypotheses"]}
    text = commented(content, examples)
    assert parse_params(loaded(KNOB.sub(r"\1", text))).hypotheses["focal_wins"].better == "focal"
    shown = set(re.findall(r"^ *(?:# )?([\w-]+):", text, re.MULTILINE))
    within = set(re.findall(r"\w+", " ".join(re.findall(r"Its keys: [^.]*", text.replace("\n", " ")))))
    scripts = {"command", "metrics", "monitor", "depends", "timeout", "writes"}
    told = {one.key.rpartition(".")[2] for one in knobs()}
    assert told - shown - within - scripts - {"experiment", "dataset", "loss", "<name>", "name"} == set()


def test_the_chain_is_the_checkout_s_but_for_what_the_check_depends_on() -> None:
    ours, theirs = loaded((ROOT / "dvc.yaml").read_text()), loaded(chain_text())
    assert theirs["stages"]["check"]["deps"] == ["${root}/lossbench.lock", "${code}", "looks.yaml"]
    for chain in (ours, theirs):
        del chain["stages"]["check"]["deps"]
    assert ours == theirs
    modules = [(one.get("do") or one)["cmd"].split()[2] for one in theirs["stages"].values()]
    assert [one for one in modules if not (ROOT / f"{one.replace('.', '/')}.py").is_file()] == []


def test_the_entry_points_of_mlflow_are_the_checkout_s_in_the_environment_that_is_there() -> None:
    ours, theirs = loaded((ROOT / "MLproject").read_text()), loaded(mlproject_text("pets"))
    assert theirs == {"name": "pets", "entry_points": ours["entry_points"]}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder per class in a repository of git's."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(12):
            draw(tmp_path / "images" / name / f"{number}.png", 100 * label + number, side=8)
    (tmp_path / ".git/objects").mkdir(parents=True)
    (tmp_path / ".git/HEAD").touch()
    return tmp_path / "images"


@pytest.fixture
def dvc_calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be called of DVC; a test of the wheel calls it."""
    calls: list[list[str]] = []

    def called(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command[3:])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(project.subprocess, "run", called)
    return calls


def begun(folder: Path, data: Path, **more: Any) -> list[str]:
    said: list[str] = []
    new_project(Wanted("pets", data, folder, **more), said.append)
    return said


def test_a_study_is_begun_where_one_is(pets: Path, tmp_path: Path, dvc_calls: list[list[str]]) -> None:
    (tmp_path / ".gitignore").write_text("*.log\n__pycache__/")
    begun(tmp_path, pets)
    assert dvc_calls == [["init", "--quiet"]]
    params = load_params(tmp_path / "params.yaml")
    assert (params.root, params.code, params.datasets["pets"].path) == (".", "plugins", "images")
    ignored = (tmp_path / ".gitignore").read_text().splitlines()
    assert ignored[:2] == ["*.log", "__pycache__/"]
    assert len(set(ignored) - {""}) == len([one for one in ignored if one])
    there = {"dvc.yaml", "MLproject", "looks.yaml", "lossbench.lock", ".dvcignore", "plugins/README.md"}
    assert [one for one in there if not (tmp_path / one).is_file()] == []
    assert installed.read(tmp_path / "lossbench.lock") == installed.present()


def test_a_part_of_a_bigger_repository_has_a_dvc_of_its_own(
    pets: Path, tmp_path: Path, dvc_calls: list[list[str]]
) -> None:
    begun(tmp_path / "losses", pets)
    assert dvc_calls == [["init", "--quiet", "--subdir"]]
    assert load_params(tmp_path / "losses/params.yaml").datasets["pets"].path == "../images"
    (tmp_path / ".dvc").mkdir()
    begun(tmp_path / "more", pets)
    assert len(dvc_calls) == 1


def test_without_git_dvc_is_told_so(pets: Path, tmp_path: Path, dvc_calls: list[list[str]]) -> None:
    shutil.rmtree(tmp_path / ".git")
    said = begun(tmp_path / "losses", pets)
    assert dvc_calls == [["init", "--quiet", "--no-scm"]]
    assert any("no git repository" in one for one in said)
    assert Path(load_params(tmp_path / "losses/params.yaml").datasets["pets"].path) == pets


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml", "dvc.lock", "models", "data", "reports"])
def test_what_is_there_is_never_overwritten(name: str, pets: Path, tmp_path: Path) -> None:
    mine = tmp_path / name / "mine.txt" if "." not in name else tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=rf"/{re.escape(name)}: is there already.*--folder") as refused:
        begun(tmp_path, pets)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert mine.read_text() == "mine"


def test_the_users_own_plugins_and_mlproject_stay(
    pets: Path, tmp_path: Path, dvc_calls: list[list[str]]
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "MLproject").write_text("name: mine\n")
    begun(tmp_path, pets)
    assert list((tmp_path / "plugins").iterdir()) == []
    assert (tmp_path / "MLproject").read_text() == "name: mine\n"


def test_a_script_of_ones_own_trains(pets: Path, tmp_path: Path, dvc_calls: list[list[str]]) -> None:
    said = begun(tmp_path, pets, script=tmp_path / "scripts/train.py")
    assert "scripts/train.py (an example" in said[-1]
    params = load_params(tmp_path / "params.yaml")
    assert (params.code, params.experiments["pets"].task.name) == ("scripts", "command")
    text = (tmp_path / "params.yaml").read_text()
    assert parse_params(loaded(KNOB.sub(r"\1", text))).experiments == params.experiments


@pytest.mark.parametrize("script", ["train.py", "../train.py", "scripts/train.sh"])
def test_a_script_whose_folder_cannot_be_watched_is_refused(script: str, pets: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--script is '.*(folder of its own|a Python file)"):
        begun(tmp_path / "study", pets, script=tmp_path / "study" / script)
    assert not (tmp_path / "study").exists()


# lossbench.lock


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(chain_text())
    installed.write(tmp_path / "lossbench.lock")
    return tmp_path


def test_another_installation_is_seen_said_and_written_down(own: Path) -> None:
    params, lock, said = parse_params(tiny_params()), own / "lossbench.lock", []
    installed.refresh(params, own, said.append)
    installed.expect_locked(params, own)
    assert said == []
    lock.write_text(lock.read_text().replace("lossbench: ", "lossbench: 9."))
    with pytest.raises(
        UserError, match=r"lossbench.lock: another installation.*lossbench 9\.\S+ → .*lossbench lock"
    ):
        installed.expect_locked(params, own)
    installed.refresh(params, own, said.append)
    assert len(said) == 1
    installed.expect_locked(params, own)


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n", "lossbench\n", "\0"])
def test_a_lock_that_is_none_is_refused_by_a_stage_and_written_anew_by_a_run(text: str, own: Path) -> None:
    params, lock = parse_params(tiny_params()), own / "lossbench.lock"
    lock.write_text(text)
    with pytest.raises(UserError, match=r"lossbench.lock, line 1: .* `lossbench lock` writes it anew"):
        installed.expect_locked(params, own)
    installed.refresh(params, own, lambda _: None)
    assert installed.read(lock) == installed.present()


def test_a_checkout_depends_on_its_source_and_has_no_such_file() -> None:
    assert installed.is_checkout(ROOT)
    assert installed.lock_of(load_params(ROOT / "params.yaml"), ROOT) is None


# The packages that verbs need.


def test_every_package_that_a_verb_imports_is_brought_by_an_extra_that_the_sentence_names(
    tmp_path: Path,
) -> None:
    verbs = [f"lossbench.commands.{verb.replace('-', '_')}" for verb in VERBS]
    stages = [f"lossbench.stages.{file.stem}" for file in (ROOT / "stages").glob("[a-z]*.py")]
    needed = closure([*verbs, *stages]).foreign - {"numpy", "scipy", "ray", "submitit"}
    assert needed - set().union(*cli.EXTRAS.values()) == set()


def test_the_extras_name_what_is_locked() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = declared["optional-dependencies"]

    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines}

    wanted = [line for line in (ROOT / "requirements.in").read_text().splitlines() if line[:1].isalpha()]
    brought = names(declared["dependencies"]) | names(extras["train"]) | names(extras["pipeline"])
    assert names(wanted) == brought - {"lossbench"}
    assert declared["dependencies"] == ["numpy", "scipy"]


def test_a_package_that_is_missing_is_one_sentence() -> None:
    def needs(package: str) -> None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)

    with pytest.raises(UserError, match=r"needs the package 'dvc'.*pip install 'lossbench\[pipeline\]'"):
        cli._with_packages(lambda: needs("dvc.config"))
    with pytest.raises(ModuleNotFoundError):
        cli._with_packages(lambda: needs("no_such_package"))
