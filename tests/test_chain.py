"""The chain as written in dvc.yaml: stages, what they depend on, and that this is true."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lossbench.params import load_params

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
EVERYWHERE = {
    # Read by every stage, and no part of what a result is: a sentence's wording, a bar, the params' models
    # (what they say is a params dependency).
    "lossbench/__init__.py", "lossbench/errors.py", "lossbench/params.py", "lossbench/options.py",
    "lossbench/progress.py", "lossbench/documents.py", "lossbench/lifetime.py", "lossbench/system.py", "lossbench/data/__init__.py",
    "stages/__init__.py", "stages/common.py", "stages/arms.py",
    # Where training and its record meet; MLflow mirrors the outs and never enters them.
    "lossbench/tracking",
}  # fmt: skip


def imported(file: Path) -> Iterator[str]:
    """Names of this project's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(module: str) -> Path | None:
    """File of a module of this project."""
    path = ROOT / Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if module.startswith(("lossbench", "stages")) and candidate.is_file():
            return candidate
    return None


def reached(stage: str) -> set[str]:
    """Every file of this project that a stage's script imports, directly or not."""
    waiting, seen = [ROOT / "stages" / f"{stage}.py"], set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        parents = [parent / "__init__.py" for parent in file.parents if (parent / "__init__.py").is_file()]
        waiting += parents
        waiting += [found for module in imported(file) if (found := file_of(module)) is not None]
    return {file.relative_to(ROOT).as_posix() for file in seen}


def code_deps(stage: str) -> list[str]:
    """Code dependencies of a stage in dvc.yaml."""
    block = STAGES[stage]
    deps = (block.get("do") or block)["deps"]
    return [dep.removeprefix("${root}/") for dep in deps if dep.startswith("${root}/")]


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(dep + "/")


CHECKED = [stage for stage in STAGES if stage != "check"]  # check's out is constant: code cannot change it


@pytest.mark.parametrize("stage", CHECKED)
def test_a_stage_depends_on_all_code_it_imports(stage: str) -> None:
    deps = [*code_deps(stage), *EVERYWHERE]
    missing = sorted(file for file in reached(stage) if not any(covers(dep, file) for dep in deps))
    assert not missing, f"dvc.yaml: stage '{stage}' imports but does not depend on {missing}"


@pytest.mark.parametrize("stage", CHECKED)
def test_a_stage_depends_on_no_code_it_does_not_import(stage: str) -> None:
    files = reached(stage)
    idle = [
        dep
        for dep in code_deps(stage)
        if dep != "requirements.lock" and not any(covers(dep, f) for f in files)
    ]
    assert not idle, f"dvc.yaml: stage '{stage}' depends on {idle} but does not import it"


@pytest.mark.parametrize("stage", CHECKED)
def test_every_stage_depends_on_the_lock_of_packages(stage: str) -> None:
    assert "requirements.lock" in code_deps(stage)


def test_the_chain_has_the_stages_of_the_design() -> None:
    assert list(STAGES) == ["check", "fetch", "validate", "tune", "train", "evaluate", "report"]


@pytest.mark.parametrize("file", [ROOT / "params.yaml", *sorted(ROOT.glob("studies/*/params.yaml"))], ids=str)
def test_committed_params_make_sense(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lossbench.checking import check

    (tmp_path / "input").mkdir()  # where a study waits for the user's own folder, or file
    (tmp_path / "input.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    check(load_params(file))


@pytest.mark.parametrize(
    "study", sorted(ROOT.glob("studies/*/params.yaml")), ids=lambda file: file.parent.name
)
def test_a_study_links_to_the_one_chain(study: Path) -> None:
    link = study.parent / "dvc.yaml"
    assert link.is_symlink()
    assert link.resolve() == ROOT / "dvc.yaml"
