"""Every key and every environment variable is told of, as the code has them."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from law_cases import mostly_slow
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from lossbench.params import Params
from lossbench.reference import knobs, schema, told
from lossbench.variables import VARIABLES

ROOT = Path(__file__).parent.parent
STUDIES = [ROOT / "params.yaml", *sorted(ROOT.glob("studies/*/params.yaml"))]
PYTHON = [*ROOT.glob("lossbench/**/*.py"), *ROOT.glob("stages/*.py"), *ROOT.glob("benchmarks/*.py")]


def run_cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lossbench", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("maker", ["make_params", "make_models"])
def test_the_pages_are_current(maker: str) -> None:
    spec = importlib.util.spec_from_file_location(maker, ROOT / f"docs/{maker}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    for name, text in made.pages().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, f"run `python docs/{maker}.py`"


def test_every_key_is_told_of() -> None:
    found = list(knobs())
    assert len({one.key for one in found}) == len(found) > 80
    assert [one.key for one in found if not one.told and "losses" not in one.key] == []
    assert [one.key for one in found if one.told[-1:] != "."] == []


def test_strings_below_fields_are_read_with_those_of_the_models_extended() -> None:
    class One(BaseModel):
        first: int = 1
        """Of the first."""
        silent: int = 2

    class Two(One):
        second: str = ""
        """Of the
        second."""

    assert told(Two) == {"first": "Of the first.", "second": "Of the second."}
    assert [(one.key, one.default, one.allowed) for one in knobs(Two)] == [
        ("first", "1", "whole number"), ("silent", "2", "whole number"), ("second", '""', "text"),
    ]  # fmt: skip


@pytest.mark.parametrize("file", mostly_slow(STUDIES, 6), ids=lambda file: file.parent.name)
def test_the_schema_takes_what_is_shipped(file: Path) -> None:
    content = json.loads(json.dumps(YAML(typ="safe").load(file)))
    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema()).validate(content)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("compute", "device"), "tpu"),
        (("arms",), 3),
        (("seeds",), []),
        (("comparison", "lvel"), 0.1),
        (("trackin",), {}),
    ],
)
def test_the_schema_refuses_what_params_refuse(keys: tuple[str, ...], value: object) -> None:
    content = json.loads(json.dumps(YAML(typ="safe").load(ROOT / "params.yaml")))
    block = content
    for key in keys[:-1]:
        block = block[key]
    block[keys[-1]] = value
    with pytest.raises(ValidationError):
        Params.model_validate(content)
    assert not Draft202012Validator(schema()).is_valid(content)


def test_every_variable_that_is_read_is_told_of() -> None:
    named = {one.name for one in VARIABLES}
    sources = [*PYTHON, ROOT / "Makefile", ROOT / "tests/test_tracking_browser.py"]
    read = {
        found
        for file in sources
        for found in re.findall(r"LOSSBENCH_[A-Z_]+", file.read_text(encoding="utf-8"))
    }
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*")]
    read |= {
        found
        for file in pages
        if file.is_file()
        for found in re.findall(r"LOSSBENCH_[A-Z_]+", file.read_text(encoding="utf-8"))
    }
    assert read == {one for one in named if one.startswith("LOSSBENCH_")}
    assert len(named) == len(VARIABLES)


@pytest.mark.slow
def test_the_verb_prints_a_part_and_refuses_what_is_none(tmp_path: Path) -> None:
    ended = run_cli("params", "schedule.warmup")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[0] == "experiments.<name>.recipe.schedule.warmup  [default 0]"
    assert len(ended.stdout.splitlines()) == 3
    wrong = run_cli("params", "warmpu")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    written = run_cli("params", "--schema", str(tmp_path / "s.json"))
    assert written.returncode == 0
    assert json.loads((tmp_path / "s.json").read_text())["properties"]["arms"]


def test_the_version_is_the_packages() -> None:
    version = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert run_cli("--version").stdout.split() == ["lossbench", *version]
    assert f"version: {version[0]}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"lossbench:{version[0]}\n" in (ROOT / "deploy/kubernetes/cronjob.yaml").read_text()
