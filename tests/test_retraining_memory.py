"""What a retraining remembers: the record of attempts, the frozen reference split, the looks at a test split."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples

from lossbench.errors import GateError, UserError
from lossbench.retraining import records, run
from lossbench.retraining.looks import FILE, Looks, share
from lossbench.retraining.records import Attempt
from lossbench.retraining.reference import expect_frozen, frozen_file
from lossbench.retraining.registry import Standing


def test_an_interrupted_attempt_s_row_is_completed_in_its_place(tmp_path):
    first, second = Attempt("1", "failed", "not known"), Attempt("2", "kept", "no better")
    for one in (first, second):
        records.add(tmp_path, one)
    done = Attempt("1", "promoted", "better", id=first.id)
    assert not records.knows(tmp_path, done)
    records.add(tmp_path, done)
    records.add(tmp_path, done)
    assert [one.outcome for one in records.read(tmp_path)] == ["promoted", "kept"]
    assert records.knows(tmp_path, done)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
)
def test_a_record_of_any_bytes_loses_no_new_attempt(tmp_path_factory, content):
    root = tmp_path_factory.mktemp("record")
    (root / "reports").mkdir()
    (root / records.CSV).write_bytes(content)
    told = records.set_aside_if_unreadable(root)
    aside = list((root / "reports").glob("*.broken-*"))
    assert len(aside) == (told is not None)
    assert all(one.read_bytes() == content for one in aside)
    records.add(root, Attempt("3", "promoted", "better", challenger_score="x"))
    assert records.read(root)[-1].outcome == "promoted"


def test_the_page_of_attempts_needs_no_network_and_says_so_to_the_browser():
    html = records.page([Attempt("1", "kept", "<script>alert(1)</script>")])
    assert "default-src 'none'" in html.partition("<style>")[0]
    assert "<script>" not in html


@each("name", ["it's", "", "a/b", "a:b", "a@b", "a%b", " a", "a\n", "a" * 101, 'a"b', "ä"])
def test_a_model_s_name_that_no_registry_or_query_takes_is_refused_before_anything_is_trained(name):
    from lossbench.params import parse_params
    from tests.conftest import tiny_params

    with pytest.raises(UserError, match=r"retraining\.model_name"):
        parse_params(tiny_params() | {"retraining": {"model_name": name}}, "params.yaml")
    parse_params(tiny_params() | {"retraining": {"model_name": "Digits 2.0_b-c"}}, "params.yaml")


def table(**labels):
    return pd.DataFrame(
        {
            "split": ["reference" if name.startswith("r") else "train" for name in labels],
            "sha256": [f"hash of {name[1:]}" for name in labels],
            "label": list(labels.values()),
            "target_sha256": "t",
            "source": [f"folder/{name[1:]}.png" for name in labels],
        }
    )


def test_what_the_reference_split_held_keeps_its_label_and_its_place(tmp_path):
    assert expect_frozen(tmp_path, "mine", table(r1="cat", r2="dog", t3="cat")) == 2
    assert expect_frozen(tmp_path, "mine", table(r1="cat", r2="dog", t3="cat")) == 0
    assert expect_frozen(tmp_path, "mine", table(r1="cat", r2="dog", r4="cat", t3="dog")) == 1  # data grow
    with pytest.raises(GateError, match=r"2 of its samples have another label.*folder/1.png \(cat → dog\)"):
        expect_frozen(tmp_path, "mine", table(r1="dog", r2="cat", r4="cat"))
    with pytest.raises(GateError, match=r"1 of its samples went to another split.*folder/4.png"):
        expect_frozen(tmp_path, "mine", table(r1="cat", r2="dog", t4="cat"))
    with pytest.raises(GateError, match=r"1 of its samples are gone.*folder/2.png"):
        expect_frozen(tmp_path, "mine", table(r1="cat", r4="cat"))
    expect_frozen(tmp_path, "mine", table(r1="dog", r2="cat"), anew=True)
    assert expect_frozen(tmp_path, "mine", table(r1="dog", r2="cat")) == 0


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("1234"), st.sampled_from(["cat", "dog"])), min_size=1, max_size=6),
    st.randoms(),
    st.tuples(st.sampled_from("1234"), st.sampled_from(["cat", "dog"])),
)
def test_an_image_that_is_there_twice_hides_no_changed_label(tmp_path_factory, rows, chance, further):
    """In whatever order the rows come, and whether the same image had two labels from the first."""

    def made(rows):
        return pd.concat([table(**{f"r{number}": label}) for number, label in rows])

    root = tmp_path_factory.mktemp("reference")
    assert expect_frozen(root, "mine", made(rows)) == len(set(rows))
    chance.shuffle(rows)
    assert expect_frozen(root, "mine", made(rows)) == 0
    rows.insert(chance.randrange(len(rows) + 1), further)
    if rows.count(further) > 1:
        assert expect_frozen(root, "mine", made(rows)) == 0
    elif [number for number, _ in rows].count(further[0]) > 1:
        with pytest.raises(GateError, match="another label"):
            expect_frozen(root, "mine", made(rows))
    else:
        assert expect_frozen(root, "mine", made(rows)) == 1


@each(
    "harm",
    [
        lambda _: b"\xff\xfe",
        lambda _: b"",
        lambda _: b"sha256,label,source\n",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"".join(content.splitlines(keepends=True)[:-1]),
        lambda content: b"".join(content.splitlines(keepends=True)[:1]),
        lambda content: content + b"\0\0\n",
        lambda content: content + b"hash of 9\n",
        lambda content: content.replace(b",", b";"),
        lambda content: b"<<<<<<< HEAD\n" + content,
    ],
)
def test_a_damaged_list_of_the_reference_split_is_no_empty_one(tmp_path, harm):
    expect_frozen(tmp_path, "mine", table(r1="cat", r2="dog"))
    file = frozen_file(tmp_path, "mine")
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(UserError, match=r"retraining-reference-mine\.csv"):
        expect_frozen(tmp_path, "mine", table(r1="dog", r2="cat"))


def test_a_list_that_is_gone_after_a_promotion_is_not_made_anew_unasked(tmp_path):
    swapped = table(r1="dog", r2="cat")
    with pytest.raises(
        UserError, match=r"retraining-reference-mine\.csv: gone; restore it .*--new-reference"
    ):
        expect_frozen(tmp_path, "mine", swapped, promoted=True)
    assert not frozen_file(tmp_path, "mine").exists()
    assert expect_frozen(tmp_path, "mine", swapped, anew=True, promoted=True) == 2
    assert expect_frozen(tmp_path, "mine", swapped, promoted=True) == 0
    assert expect_frozen(tmp_path, "other", table(t1="dog"), promoted=True) == 0  # no such split


def test_a_list_that_a_spreadsheet_saved_is_read(tmp_path):
    expect_frozen(tmp_path, "mine", table(r1="cat"))
    file = frozen_file(tmp_path, "mine")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert expect_frozen(tmp_path, "mine", table(r1="cat")) == 0


@each(
    "content",
    [
        "",
        "[]",
        "{",
        '{"mine": 3}',
        '{"mine": {"examples": null, "taken": {}}}',
        '{"mine": {"examples": [1], "taken": {}}}',
        '{"mine": {"examples": [], "taken": []}}',
        '{"mine": {"examples": [], "taken": {"a": 0}}}',
        '{"mine": {"examples": [], "taken": {"a": "1"}}}',
        '{"mine": {"examples": [], "taken": {"a": true}}}',
    ],
)
def test_damaged_looks_are_told_and_not_spent_anew(tmp_path, content):
    (tmp_path / "reports").mkdir()
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=r"retraining-looks\.json"):
        Looks.read(tmp_path, "mine")


def test_all_looks_together_spend_no_more_than_the_level():
    assert sum(share(number) for number in range(1, 100_000)) == pytest.approx(1, abs=1e-4)
    assert all(share(number) > share(number + 1) for number in range(1, 50))


def test_a_look_is_paid_once_and_fresh_examples_begin_a_new_period(tmp_path):
    def spend(what, count):
        return Looks.read(tmp_path, "mine").spend(what, [f"{one:064d}"[::-1] for one in range(count)], 0.05)

    first, second = spend("a", 100), spend("b", 100)
    assert first == pytest.approx(0.05 * share(1))
    assert second == pytest.approx(0.05 * share(2))
    assert spend("a", 100) == first
    assert spend("c", 199) == pytest.approx(0.05 * share(3))  # 99 fresh ones: fewer than there were
    assert spend("d", 200) == pytest.approx(0.05 * share(1))
    (tmp_path / FILE).write_text("{")
    with pytest.raises(UserError, match=r"retraining-looks\.json"):
        spend("e", 200)


def test_what_somebody_has_to_correct_is_an_attempt_that_failed_and_is_told(tmp_path, monkeypatch):
    """A damaged list of looks stops every tick of a schedule: with a row and a notification, not in silence."""
    heard = tmp_path / "heard.json"
    (tmp_path / "reports").mkdir()
    (tmp_path / FILE).write_text("{")
    retraining = SimpleNamespace(notify=["sh", "-c", f"cat > {heard}"])
    for name, answer in (("_in_use", False), ("_anything_new", True), ("_repro", None)):
        monkeypatch.setattr(run._Attempt, name, lambda _, answer=answer: answer)
    monkeypatch.setattr(run._Attempt, "_decide", lambda one: Looks.read(one.root, "mine"))
    said = []
    with pytest.raises(UserError, match=r"retraining-looks\.json"):
        run._Attempt(SimpleNamespace(retraining=retraining), tmp_path, said.append, run.Told()).run()
    (row,) = records.read(tmp_path)
    assert (row.outcome, row.fingerprint) == ("failed", "")
    assert row.reason.endswith("; the champion stays")
    assert json.loads(heard.read_text())["reason"] == row.reason
    assert said == [f"failed: {row.reason}"]


def test_a_record_that_a_spreadsheet_saved_is_read(tmp_path):
    """Spreadsheets begin a file with a byte order mark and end lines their own way."""
    records.add(tmp_path, Attempt("2026-01-01", "kept", "no gain", fingerprint="f"))
    file = tmp_path / records.CSV
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert records.set_aside_if_unreadable(tmp_path) is None
    assert records.last_fingerprint(tmp_path) == "f"


@pytest.mark.parametrize("harm", ["another SHA-256", "no files", "arm.json cut"])
def test_a_rollback_to_a_version_that_cannot_be_read_moves_nothing(tmp_path, monkeypatch, harm):
    """At night nobody looks twice: what is put into service has to be whole."""
    moved = []

    @contextmanager
    def folder_of(version):
        assert version == "1"
        if harm == "another SHA-256":
            raise GateError("models:/mine/1: weights.safetensors is not what was promoted")
        if harm == "arm.json cut":
            (tmp_path / "arm.json").write_text("{")
        yield tmp_path

    registry = SimpleNamespace(
        settle=lambda: None,
        standing=lambda: Standing("2", "1", {"1": {}, "2": {}}),
        folder_of=folder_of,
        roll_back=moved.append,
    )
    monkeypatch.setattr(run, "connect", lambda _: None)
    monkeypatch.setattr(run, "Registry", lambda *_: registry)
    params = SimpleNamespace(retraining=SimpleNamespace(model_name="mine", notify=[]), code="plugins")
    with pytest.raises(GateError, match="the former champion cannot be read"):
        run.rollback(params, tmp_path)
    assert not moved
    assert records.read(tmp_path) == []
