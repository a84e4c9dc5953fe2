"""A replicate's key holds the code that it runs: exactly that, read from the source."""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from conftest import ROOT, tiny_params
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each, shared, some

from lossbench import closure as closures
from lossbench.closure import closure, hashes_of, versions_of
from lossbench.execution.identity import Identity, data_hash, described_hash
from lossbench.execution.lineage import differing, write_lineage
from lossbench.outs import Outs
from lossbench.params import parse_params
from lossbench.training.member import Member

PACKAGE = ROOT / "lossbench"
MODULES = sorted(
    ".".join(("lossbench", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
)


@pytest.fixture(autouse=True)
def _no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSBENCH_HOME", str(tmp_path / "nowhere"))
    closures._memory.cache_clear()


@pytest.fixture(scope="module")
def arms(trained_study: Path) -> dict[str, Identity]:
    params = parse_params(tiny_params())
    return {name: Identity(params, name, trained_study) for name in params.arms}


def keys(trained_study: Path) -> dict[str, str]:
    """Keys of the arms' first replicates, computed anew."""
    params = parse_params(tiny_params())
    recipe = params.experiments["digits"].recipe
    return {
        name: Identity(params, name, trained_study).training(Member(0), recipe)
        for name in ("digits-focal", "scenes-cross_entropy")
    }


@shared
def test_an_edit_changes_the_keys_of_exactly_the_replicates_that_run_it(
    arms: dict[str, Identity], trained_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every file of the package: all at once in those that neither runs, one after another in the others."""
    shutil.copytree(PACKAGE, tmp_path / "lossbench", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(closures, "PACKAGE", tmp_path / "lossbench")
    running = {name: set(arms[name].code.files) for name in ("digits-focal", "scenes-cross_entropy")}
    before = keys(trained_study)

    def planted(*modules: str) -> set[str]:
        files = {file: file.read_text(encoding="utf-8") for file in map(closures.source_of, modules) if file}
        assert len(files) == len(modules)
        for file, written in files.items():
            file.write_text(written + "\nPLANTED = 1\n", encoding="utf-8")
        changed = {name for name, key in keys(trained_study).items() if key != before[name]}
        for file, written in files.items():
            file.write_text(written, encoding="utf-8")
        return changed

    quiet = [module for module in MODULES if not any(module in files for files in running.values())]
    assert planted(*quiet) == set()
    for module in some(sorted(set(MODULES) - set(quiet))):
        assert planted(module) == {name for name, files in running.items() if module in files}, module


@pytest.mark.slow
def test_all_that_training_imports_is_in_its_closure(arms: dict[str, Identity]) -> None:
    """Told by an interpreter that imports the roots: nothing that runs is left out."""
    code = arms["digits-focal"].code
    roots = [
        "lossbench.training.loop", "lossbench.training.setting", "lossbench.tasks.classification",
        "lossbench.models.simple_cnn", "lossbench.losses.distribution",
    ]  # fmt: skip
    script = f"import sys\nfor one in {roots}: __import__(one)\nprint(*(m for m in sys.modules if m.startswith('lossbench')))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    imported = {
        one for one in run.stdout.split() if not one.endswith(".names") and not one.startswith("lossbench_")
    }
    assert imported <= set(code.files)
    others = {
        "lossbench.losses.region",
        "lossbench.tasks.segmentation",
        "lossbench.models.unet",
        "lossbench.cli",
    }
    assert not others & set(code.files)


def test_what_verdicts_are_made_of_trains_nothing_anew(arms: dict[str, Identity]) -> None:
    """They are read from scores: an edit of a test or a sentence must not cost all trainings."""
    for arm in arms.values():
        parts = {name.split(".")[1] for name in arm.code.files if "." in name}
        assert not parts & {"statistics", "verdicts", "reporting", "tracking", "retraining", "serving"}
        scoring = {
            name
            for name in arm.scoring.files
            if name.startswith(("lossbench.verdicts", "lossbench.statistics"))
        }
        assert scoring <= {"lossbench.statistics", "lossbench.statistics.calibration"}


def test_how_errors_are_told_trains_nothing_anew(arms: dict[str, Identity]) -> None:
    for one in arms.values():
        assert "lossbench.errors" in one.code.files
        assert "lossbench.telling" not in one.code.files


def test_no_modules_of_ours_import_each_other_in_a_circle() -> None:
    """As they are imported: what a function imports when it is called comes after."""
    graph = {module: set(imported_first(module)) & set(MODULES) - {module} for module in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def imported_first(module: str) -> Iterator[str]:
    """List what the import of a module imports of ours."""
    file = closures.source_of(module)
    assert file is not None
    waiting: list[ast.AST] = [ast.parse(file.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in MODULES else node.module
        later = isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.If) and closures._only_types(node.test)
        )
        if not later:  # an import stands in no expression
            waiting += [one for one in ast.iter_child_nodes(node) if not isinstance(one, ast.expr)]


@given(
    st.sampled_from(
        ["# a comment\n", '"""A docstring."""\n', "\n\n", "if TYPE_CHECKING:\n    import nothing\n"]
    )
)
def test_comments_docstrings_and_types_are_no_code(added: str) -> None:
    plain = "import os\n\n\ndef f(x):\n    return x + 1\n"
    code = added + plain
    assert digest(code) == digest(plain)
    assert digest(plain.replace("+ 1", "+ 2")) != digest(plain)


def digest(source: str) -> str:
    return closures._parsed(ast.parse(source)).digest


@each(
    ("source", "found"),
    [
        ("import torch.nn", {"torch"}),
        ("def f():\n    from scipy import stats", {"scipy"}),
        ("from . import beside", {"mine.beside"}),
        ("from .beside import x", {"mine.beside"}),
        ("from mine import beside", {"mine.beside"}),
        ("import os, json", set()),
        ("import importlib\nimportlib.import_module('mine.beside')", {"mine.beside"}),
        ("from importlib import import_module\ndef f():\n    import_module('.beside', __package__)", {"mine.beside"}),
        ("__import__('mine.beside')", {"mine.beside"}),
        ("try:\n    from .beside import x\nexcept ImportError:\n    x = 0", {"mine.beside"}),
        ("from mine.star import *", {"mine.star", "mine.star.inner", "mine.star.added", "mine.star.typed"}),
        ("from . import names", {"mine.names"}),
        ("from . import made", {"mine.made"}),
        ("from . import broken", {"mine.broken"}),
        ("open('table.json')", {"mine.own: table.json"}),
        ("open('mine/table.json')", {"mine.own: mine/table.json"}),
        ("open('../shared.json')", {"mine.own: ../shared.json"}),
        ("open(HERE / 'star' / 'deep' / 'costs.csv')", {"mine.own: mine/star/deep/costs.csv"}),
        ("import os\nopen(os.path.join(HERE, 'star', 'deep', 'vocabulary'))", {"mine.own: mine/star/deep/vocabulary"}),
        ("FOLDER, FILE = 'mine/star/deep', 'costs.csv'\nopen(FOLDER + '/' + FILE)", {"mine.own: mine/star/deep/costs.csv"}),
        ("import runpy\nrunpy.run_path('beside.py')", {"mine.beside"}),
        ("import importlib\nimportlib.import_module(package='mine', name='.beside')", {"mine.beside"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\nelse:\n    import numpy", {"numpy"}),
    ],
)  # fmt: skip
def test_the_users_own_modules_are_followed_and_the_rest_is_named(
    source: str, found: set[str], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").touch()
    (tmp_path / "mine/beside.py").touch()
    (tmp_path / "mine/star").mkdir()
    (tmp_path / "mine/star/__init__.py").write_text(
        "__all__ = ['inner']\n__all__ += ['added']\n__all__: list = ['typed']"
    )
    (tmp_path / "mine/star/deep").mkdir()
    modules = ("star/inner.py", "star/added.py", "star/typed.py", "names.py")
    for name in (*modules, "table.json", "../shared.json", "star/deep/costs.csv", "star/deep/vocabulary"):
        (tmp_path / "mine" / name).touch()
    (tmp_path / "mine" / f"made{EXTENSION_SUFFIXES[0]}").write_bytes(b"\x7fELF")
    (tmp_path / "mine/broken.py").write_text("def (")
    (tmp_path / "mine/own.py").write_text(source)
    made = closure(["mine.own"], tmp_path)
    assert (set(made.files) | made.foreign) - {"mine", "mine.own"} == found


def test_what_a_run_writes_into_the_study_is_no_code(tmp_path: Path) -> None:
    for name in ("reports/metrics.json", "tables/metrics.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "params.yaml").touch()
    (tmp_path / "mine.py").write_text(
        "open('reports' + '/' + 'metrics.json'), open('tables' + '/' + 'metrics.json')"
    )
    assert set(closure(["mine"], tmp_path).files) == {"mine", "mine: tables/metrics.json"}


@pytest.mark.parametrize("edited", ["names.py", "made.so", "broken.py", "table.json"])
def test_an_edit_of_whatever_the_users_code_runs_is_seen(edited: str, tmp_path: Path) -> None:
    name = edited.replace(".so", EXTENSION_SUFFIXES[0])
    (tmp_path / "mine.py").write_text(
        "import names, made\ntry:\n    import broken\nfinally:\n    open('table.json')"
    )
    for one in ("names.py", f"made{EXTENSION_SUFFIXES[0]}", "broken.py", "table.json"):
        (tmp_path / one).write_text("def (")
    before = closure(["mine"], tmp_path).digest
    assert closure(["mine"], tmp_path).digest == before
    (tmp_path / name).write_text("def f(): pass")
    assert closure(["mine"], tmp_path).digest != before


def test_a_package_that_is_installed_as_it_stands_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version says nothing of an edit: `pip install --editable`, or PYTHONPATH."""
    (tmp_path / "src/theirs").mkdir(parents=True)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/mine.py").write_text("from theirs.losses import f")
    (tmp_path / "src/theirs/__init__.py").touch()
    (tmp_path / "src/theirs/losses.py").write_text("def f(): return 1")
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    before = closure(["mine"], tmp_path / "plugins")
    assert {"theirs", "theirs.losses"} <= set(before.files)
    assert "theirs" not in before.foreign
    (tmp_path / "src/theirs/losses.py").write_text("def f(): return 2")
    assert closure(["mine"], tmp_path / "plugins").digest != before.digest
    installed = tmp_path / "elsewhere/site-packages/others"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(installed.parent))
    assert closure(["others"], tmp_path / "plugins").foreign == {"others"}, "of another environment"


def test_a_run_notices_what_dvc_does_not_watch(
    trained_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code outside of ``code``: the arms that run it, and no other."""
    (tmp_path / "src/theirs").mkdir(parents=True)
    (tmp_path / "src/theirs/__init__.py").write_text("def f(logits, target): return logits.sum()")
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    (tmp_path / "data").symlink_to(trained_study / "data")
    content = tiny_params()
    content["losses"]["focal"] = {"name": "theirs:f"}
    content["experiments"].pop("scenes")
    content["arms"] = {name: one for name, one in content["arms"].items() if one["experiment"] == "digits"}
    params, outs = parse_params(content), Outs(tmp_path)
    write_lineage(params, outs)
    assert differing(params, outs) == []
    (tmp_path / "src/theirs/__init__.py").write_text("def f(logits, target): return 2 * logits.sum()")
    assert differing(params, outs) == ["arms/digits-focal.json"]


def test_what_was_read_is_remembered_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSBENCH_HOME", str(tmp_path))
    closures._memory.cache_clear()
    first = closure(["lossbench.training.loop"])
    assert (tmp_path / "closures.json").is_file()
    closures._memory.cache_clear()
    monkeypatch.setattr(closures.ast, "parse", lambda *_: pytest.fail("parsed again"))
    assert closure(["lossbench.training.loop"]) == first
    (tmp_path / "closures.json").write_text("torn")
    closures._memory.cache_clear()
    monkeypatch.undo()
    assert closure(["lossbench.training.loop"]) == first


def test_versions_are_those_of_the_metadata() -> None:
    import numpy

    assert versions_of(["numpy"]) == {"numpy": numpy.__version__}
    assert {"numpy", "scipy", "scikit-learn", "joblib"} <= set(versions_of(["sklearn"], deep=True))
    assert versions_of(["no_such_package"]) == {}


def test_other_data_are_another_key(trained_study: Path, tmp_path: Path) -> None:
    """What training reads is; who handed it over, and what is kept aside for retraining, is not."""
    shutil.copytree(trained_study / "data/digits", tmp_path / "digits")
    same, told = data_hash(tmp_path / "digits"), described_hash(tmp_path / "digits")
    assert same == data_hash((trained_study / "data/digits").resolve())
    (tmp_path / "digits/manifest.parquet").write_bytes(b"other names")
    assert data_hash(tmp_path / "digits") == same
    assert described_hash(tmp_path / "digits") != told
    for file, change in (
        ("provenance.json", {"samples_sha256": "others"}),
        ("dataset.json", {"mean": [0.5]}),
    ):
        content = json.loads((tmp_path / "digits" / file).read_bytes())
        (tmp_path / "digits" / file).write_text(json.dumps(content | change))
        assert data_hash(tmp_path / "digits") != same
        (tmp_path / "digits" / file).write_text(json.dumps(content))
    (tmp_path / "digits/provenance.json").write_text("{}")
    assert data_hash(tmp_path / "digits") == described_hash(tmp_path / "digits"), "of data fetched before"


def test_words_that_are_no_names_of_files_and_links_that_lead_above_are_passed_over(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "costs.csv").touch()
    words = ["." + "\u4e00" * 190, "\u4e00" * 100, "one", "two", "costs.csv"]
    (tmp_path / "mine.py").write_text("\n".join(map(repr, words)))
    assert {"mine", "mine: costs.csv"} <= set(closure(["mine"], tmp_path).files)
    assert hashes_of("\u4e00" * 100, [tmp_path]) == []
