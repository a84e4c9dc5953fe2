"""A law held over a table tells every row that fails, and rows share nothing."""

import os
from pathlib import Path

import pytest
from law_cases import each, few, full
from losses_cases import _third


def test_all_rows_that_fail_are_told(tmp_path: Path) -> None:
    @each(("number", "name"), [(1, "a"), (2, "b"), (3, "c")])
    def law(number: int, name: str, tmp_path: Path) -> None:
        (tmp_path / name).touch()
        assert len(list(tmp_path.iterdir())) == 1, "rows share a folder"
        if number == 3:
            pytest.fail("as wanted")
        assert number == 2

    with pytest.raises(BaseExceptionGroup, match="2 of 3 fail") as told:
        law(tmp_path=tmp_path)
    assert [one.__notes__ for one in told.value.exceptions] == [
        ["with number=1, name='a'"],
        ["with number=3, name='c'"],
    ]


def test_rows_leave_no_patch_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    @each("value", [1, 2])
    def law(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOSSBENCH_ROW", f"{seen}")
        seen.append(value)

    law(monkeypatch=monkeypatch)
    assert seen == [1, 2]
    with pytest.raises(KeyError):
        os.environ["LOSSBENCH_ROW"]


def test_some_rows_are_tried_quickly_and_all_among_the_slow_tests() -> None:
    seen: list[int] = []

    @few("value", range(9))
    def law(value: int) -> None:
        seen.append(value)

    law()
    assert seen == (list(range(9)) if full() else [0, 4, 8])


def test_three_laws_of_names_of_successive_sums_hold_a_whole_family() -> None:
    for family in (["a"], ["a", "b"], list("abcdefgh")):
        assert {one for law in "abc" for one in _third(family, law)} == set(family)
        assert all(_third(family, law) for law in "abc")
