"""Params found fine are not tried on torch again; whatever a check reads, and they are."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lossbench.errors import UserError
from lossbench.execution import checks
from lossbench.outs import Outs
from lossbench.params import Params, load_params
from lossbench.reporting import bundle
from lossbench.store import Store


@pytest.fixture
def study(trained_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study whose data are younger than its params."""
    monkeypatch.setenv("LOSSBENCH_HOME", str(tmp_path / "private"))
    shutil.copytree(trained_study / "data", tmp_path / "data")
    shutil.copy(trained_study / "params.yaml", tmp_path)
    (tmp_path / "plugins").mkdir()
    params = load_params(tmp_path / "params.yaml")
    for one in params.datasets.values():
        (tmp_path / one.path).touch()
    for file in tmp_path.rglob("dataset.json"):
        os.utime(file, (time.time() + 9,) * 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def looked(params: Params, study: Path) -> bool:
    """Whether a check was made."""
    calls: list[bool] = []
    checks.checked_once(params, Outs(study), lambda: calls.append(True))
    return bool(calls)


def test_the_same_params_are_checked_once(study: Path) -> None:
    params = load_params()
    assert [looked(params, study) for _ in range(3)] == [True, False, False]


def _edit(file: str, text: str) -> Callable[[Path], object]:
    return lambda study: (study / file).write_text(text, encoding="utf-8")


def _older(study: Path) -> None:
    for file in (study / "data").rglob("dataset.json"):
        os.utime(file, (1.0, 1.0))


def _gone(study: Path) -> None:
    for one in load_params().datasets.values():
        (study / one.path).unlink(missing_ok=True)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_edit("plugins/mine.py", "x = 1\n"), id="own code"),
        pytest.param(_edit("private/checked.json", "{"), id="torn note"),
        pytest.param(_older, id="data of other params"),
        pytest.param(_gone, id="source gone"),
    ],
)
def test_what_a_check_reads_has_it_made_again(study: Path, change: Callable[[Path], object]) -> None:
    params = load_params()
    assert looked(params, study)
    change(study)
    assert looked(params, study)


@pytest.mark.parametrize("compute", [{"device": "cuda"}, {"processes": 2}, {"threads": 2}])
def test_other_params_are_checked(study: Path, compute: dict[str, object]) -> None:
    params = load_params()
    assert looked(params, study)
    other = params.model_copy(update={"compute": params.compute.model_copy(update=compute)})
    assert looked(other, study)
    assert looked(other, study) is ("threads" not in compute)  # what looks at the machine always does


def test_what_was_refused_is_not_noted_and_code_and_packages_count(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params()

    def refuse() -> None:
        raise UserError("params.yaml: no")

    with pytest.raises(UserError):
        checks.checked_once(params, Outs(study), refuse)
    assert looked(params, study)
    monkeypatch.setattr(checks, "_packages", lambda: ["torch-0.dist-info"])
    assert looked(params, study)
    monkeypatch.setattr(checks, "PACKAGE", study / "data")
    assert looked(params, study)
    assert not looked(params, study)


def test_packages_are_named_with_their_versions() -> None:
    assert any(one.startswith("torch-") for one in checks._packages())


def test_the_charts_script_is_put_together_once_and_again_where_it_was_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(bundle, "vega_bundle", lambda: made.append("vega") or "script")
    told: list[str] = []
    store = Store(str(tmp_path), told.append)
    assert [bundle.kept_bundle(store) for _ in range(2)] == ["script"] * 2
    assert len(made) == 1
    for file in tmp_path.glob("bundles/*/*/*"):
        if file.name != "entry.json":
            file.write_text("other", encoding="utf-8")
    assert [bundle.kept_bundle(store) for _ in range(2)] == ["script"] * 2
    assert (len(made), len(told)) == (2, 1)
