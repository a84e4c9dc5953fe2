"""Outs that DVC links to its cache: a run writes through none of them, and its last line is the report's own path."""

import hashlib
from pathlib import Path

import pytest
from conftest import tiny_params, write_params
from dvc_cases import checkout, dvc, lossbench

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def altered(folder: Path) -> list[str]:
    """Files of DVC's cache that are not what their names say."""
    cached = [one for one in (folder / ".dvc/cache/files/md5").rglob("*") if one.is_file()]
    assert cached, "DVC keeps something there"
    return [
        one.name
        for one in cached
        if hashlib.md5(one.read_bytes(), usedforsecurity=False).hexdigest()
        != one.parent.name + one.name.removesuffix(".dir")
    ]


@pytest.mark.parametrize("kind", ["hardlink", "symlink", "reflink"])
def test_runs_alter_nothing_in_the_cache_and_name_the_report_where_it_is(kind: str, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "study")
    assert dvc(folder, "config", "cache.type", kind).returncode == 0
    content = tiny_params()
    content["seeds"] = [0, 1]
    del content["experiments"]["scenes"], content["datasets"]["scenes"]
    content["arms"] = {name: arm for name, arm in content["arms"].items() if arm["experiment"] == "digits"}
    for level in (0.05, 0.1):  # the second replaces outs that are linked
        content["comparison"]["level"] = level
        write_params(folder, content)
        ran = lossbench(folder, "run")
        if kind == "reflink" and ran.returncode:  # a file system without them
            assert "Traceback" not in ran.stdout + ran.stderr
            assert "No possible cache link types" in ran.stderr
            assert altered(folder) == []
            return
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.splitlines()[-1] == str(folder / "reports/index.html")
        assert altered(folder) == []
    linked = folder / "reports/index.html"
    assert linked.is_symlink() == (kind == "symlink")
    assert (linked.stat().st_nlink > 1) == (kind == "hardlink")
