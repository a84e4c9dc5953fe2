"""Text becomes windows of tokens, in order, and bad input is refused in one sentence."""

import json

import numpy as np
import pandas as pd
import pytest
from law_cases import each

from lossbench.data.dataset import SPLITS, Dataset
from lossbench.data.expectations import validate
from lossbench.data.fetching import fetch
from lossbench.data.sources import source
from lossbench.data.sources.embedded_text import load_prose, paragraphs
from lossbench.data.text import tokenize, vocabulary
from lossbench.errors import UserError
from lossbench.params import Expectations
from tests.language_cases import NURSERY, block, dataset

TEXT = "".join(chr(ord("a") + one) for one in np.random.default_rng(0).integers(0, 26, 4000))
SHARES = {"validation": 0.2, "test": 0.1, "reference": 0.05}


def read(path, **options):
    """Read as `fetch` does."""
    given = block(path=path, **options)
    return source("text_file", "datasets.words").read(given, "datasets.words")


def characters(data: Dataset, split: str) -> tuple[str, str]:
    """A split's inputs and targets as text."""
    part = data.split(split)
    names = np.array(data.info.classes)
    return "".join(names[part.inputs].ravel()), "".join(names[part.targets].ravel())


def test_splits_are_contiguous_and_no_window_reaches_over_a_border(tmp_path):
    data = dataset(tmp_path, TEXT, length=30, splits=SHARES)
    borders = {
        "train": (0, 2600),
        "validation": (2600, 3400),
        "test": (3400, 3800),
        "reference": (3800, 4000),
    }
    for split in SPLITS:
        start, stop = borders[split]
        inputs, targets = characters(data, split)
        count = (stop - start - 1) // 30 * 30
        assert inputs == TEXT[start : start + count]
        assert targets == TEXT[start + 1 : start + 1 + count]


def test_the_vocabulary_is_the_training_parts(tmp_path):
    data = dataset(tmp_path, "ab" * 500 + "abz" * 100, level="char", splits=SHARES)
    assert data.info.classes == ("<unk>", "a", "b")
    assert data.info.counts[0] == 0
    assert (data.split("test").inputs == 0).mean() == pytest.approx(1 / 3, abs=0.05)
    assert data.split("test").inputs.dtype == np.uint8


def test_words_beyond_the_vocabulary_are_unknown_the_commonest_stay(tmp_path):
    text = "The cat, the dog and the bird's nest.\n" * 100
    data = dataset(tmp_path, text, level="word", vocabulary=4, lower=True, length=8)
    assert data.info.classes == ("<unk>", "the", "\n", ",")
    shares = np.array(data.info.counts) / sum(data.info.counts)
    assert shares == pytest.approx([6 / 11, 3 / 11, 1 / 11, 1 / 11], abs=0.01)
    assert data.info.extra["level"] == "word"
    assert data.info.extra["characters_per_token"] == pytest.approx(38 / 11, rel=0.01)


def test_words_are_cut_at_spaces_and_marks():
    said = "It's 3 o'clock (nearly), she said.\nNo!"
    cut = tokenize(said, "word")
    expected = "It's|3|o'clock|(|nearly|)|,|she|said|.|\n|No|!"
    assert cut.tokens == expected.split("|")
    assert [said[start] for start in cut.starts] == [one[0] for one in cut.tokens]


def test_ties_in_the_vocabulary_go_by_the_alphabet():
    assert vocabulary("cabcab", 3) == ("<unk>", "a", "b")
    assert vocabulary("cabcabb", None) == ("<unk>", "b", "a", "c")


def test_a_large_vocabulary_takes_wider_numbers(tmp_path):
    text = " ".join(f"w{i % 300}" for i in range(3000))
    assert dataset(tmp_path, text, level="word", length=8).split("train").inputs.dtype == np.int16


def test_line_ends_and_byte_order_marks_are_no_content(tmp_path):
    plain, other = tmp_path / "plain.txt", tmp_path / "windows.txt"
    plain.write_text(NURSERY * 40, encoding="utf-8")
    other.write_bytes(("\ufeff" + (NURSERY * 40).replace("\n", "\r\n")).encode())
    one, two = read(plain, length=16), read(other, length=16)
    assert one.classes == two.classes
    assert all(np.array_equal(one.groups[split].inputs, two.groups[split].inputs) for split in one.groups)


def test_the_manifest_says_where_a_window_begins_and_what_it_lacks(tmp_path):
    dataset(tmp_path, "line of words\n" * 100 + "zz\n" * 100, length=14, splits=SHARES)
    table = pd.read_parquet(tmp_path / "data" / "manifest.parquet")
    assert table["row"].tolist()[:3] == [1, 2, 3]
    assert (table["width"] == 14).all()
    assert table["id"][0] == "train/token-000000000"
    assert (table[table["split"] == "train"]["unknown"] == 0).all()
    assert (table[table["split"] == "test"]["unknown"] > 0.5).all()


@pytest.mark.slow
def test_sound_text_meets_its_expectations_and_a_strange_test_part_is_noticed(tmp_path):
    def said(text: str, name: str) -> dict[str, bool]:
        dataset(tmp_path / name, text, splits=SHARES)
        report = tmp_path / f"{name}.json"
        validate(tmp_path / name / "data", Expectations(), "words", report, tmp_path / f"{name}-docs")
        results = json.loads(report.read_bytes())["expectations"]
        return {one["name"]: one["success"] for one in results}

    sound = said(TEXT, "sound")
    assert all(sound.values())
    assert "min_per_class" not in sound, "a rare word is no fault of a text"
    strange = said(TEXT[:2800] + "Ω" * 1200, "strange")
    assert {name for name, met in strange.items() if not met} == {
        "few_unknown",
        "unknown_drift",
        "not_constant",
        "no_duplicates_across_splits",
        "no_duplicates_within_split",
    }


BAD: dict[str, tuple[bytes, str]] = {
    "not UTF-8": (b"first\nsecond \xe9t\xe9\n", r"bad, row 2: byte 0xe9 at offset 13 is not UTF-8 .*save the file as UTF-8"),
    "cut off in a character": (b"first\n" + "é".encode()[:1], r"bad, row 2: byte 0xc3 at offset 6 is not UTF-8"),
    "a video": (b"\x00\x00\x00\x20ftypisom\x00\x00", r"bad, row 1: a NUL byte at offset 0, as binary files \(a video"),
    "UTF-16": ("two\nrows".encode("utf-16-le"), r"bad, row 1: a NUL byte at offset 1.*UTF-16"),
    "empty": (b"", "bad: empty; expected UTF-8 text"),
    "blank": (b" \n\n ", "bad: empty"),
    "too short": (b"not much", r"bad: 8 chars, of which the train split gets 5; windows of 128 need 129 or more"),
}  # fmt: skip


@each("fault", BAD)
def test_bad_input_is_refused_in_one_sentence(tmp_path, fault):
    content, sentence = BAD[fault]
    file = tmp_path / "bad"
    file.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as refusal:
        read(file)
    assert "\n" not in str(refusal.value)


def test_a_part_that_is_too_short_is_named(tmp_path):
    file = tmp_path / "text"
    file.write_text(TEXT)
    with pytest.raises(UserError, match="of which the test split gets 40; windows of 64 need 65 or more"):
        read(file, length=64, splits={"validation": 0.2, "test": 0.01})


def test_a_missing_reference_part_is_allowed(tmp_path):
    data = dataset(tmp_path, TEXT, splits={"validation": 0.1, "test": 0.1, "reference": 0})
    assert data.info.sizes["reference"] == 0


@pytest.mark.parametrize("path", ["missing.txt", "."])
def test_what_is_no_file_is_refused_before_anything_runs(path):
    with pytest.raises(UserError, match=rf"'datasets.words.path' is '{path}'.*name a file of UTF-8 text"):
        source("text_file", "datasets.words").check(block(path=path), "datasets.words")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"level": "byte"}, "'datasets.words.level' is 'byte'"),
        ({"length": 1}, "'datasets.words.length' is 1"),
        ({"vocabulary": 1}, "'datasets.words.vocabulary' is 1"),
        ({"levels": "char"}, "unknown key 'datasets.words.levels'; did you mean 'level'"),
    ],
)
def test_nonsense_options_are_refused(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, **options)


@pytest.mark.slow
def test_the_embedded_prose_is_enough_plain_english_each_paragraph_once():
    prose = load_prose()
    lines = prose.splitlines()
    assert len(prose) > 100_000
    assert len(set(lines)) == len(lines)
    assert all(line[0].isupper() and line[-1] in ".!?" for line in lines)
    letters = sum(one.isalpha() or one == " " for one in prose) / len(prose)
    assert letters > 0.94
    assert prose.count(" the ") / len(prose.split()) > 0.03


def test_formulas_code_and_parameters_are_no_prose():
    sentence = "This function does something that takes a sentence of more than eighty characters to say."
    code = f'''
def f(x):
    """{sentence}

    Parameters
    ----------
    x : float
        {sentence}

    Notes
    -----
    Also {sentence}

    It computes x = y for all {sentence}

    >>> f(1)  # {sentence}
    """
'''
    assert list(paragraphs(code)) == [sentence, f"Also {sentence}"]


def test_the_embedded_text_is_fetched_like_any_other(tmp_path, monkeypatch):
    """Its first words: all of them are looked at among the slow tests."""
    prose = "\n".join(f"This is sentence {number} of the prose." for number in range(500))
    monkeypatch.setattr("lossbench.data.sources.embedded_text.load_prose", lambda: prose)
    fetch(block("embedded_text", length=64), "prose", tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    assert data.info.kind == "tokens"
    assert data.info.input_shape == data.info.target_shape == (64,)
    assert json.loads((tmp_path / "data" / "provenance.json").read_bytes())["licence"] == "BSD-3-Clause"
