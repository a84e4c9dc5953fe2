"""The page of licences follows from the lock, and tells of every copyleft package."""

import importlib.util

from conftest import ROOT

SPEC = importlib.util.spec_from_file_location("make_licences", ROOT / "docs/make_licences.py")
assert SPEC is not None
assert SPEC.loader is not None
licences = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(licences)


def test_the_page_is_what_the_lock_says():
    assert licences.PAGE.read_text(encoding="utf-8") == licences.page()


def test_every_package_says_its_licence_and_every_copyleft_one_is_told():
    packages = licences.pinned()
    assert [name for name in packages if not licences.licence(name)] == []
    assert set(licences.copyleft(packages)) == set(licences.TOLD)


def test_nothing_of_ours_imports_a_package_of_the_gpl_family():
    ours = [*ROOT.glob("lossbench/**/*.py"), *ROOT.glob("stages/*.py")]
    lines = [line.strip() for file in ours for line in file.read_text(encoding="utf-8").splitlines()]
    for name in ("pygit2", "grandalf", "asyncssh", "dulwich"):
        assert not [one for one in lines if one.startswith((f"import {name}", f"from {name}"))]
