"""Files of scores: the lines that sentences name, remarks, what is packed, piped or no text at all."""

import codecs
import csv
import gzip
import io
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lossbench
from lossbench.cli import main
from lossbench.commands.seeds import plan
from lossbench.errors import UserError
from lossbench.verdicts.files import read_csv

ROWS = [(0.70, 0.78), (0.71, 0.77), (0.69, 0.75), (0.72, 0.80), (0.70, 0.79), (0.71, 0.77), (0.73, 0.81)]
PLAIN = "seed,ce,dice\n" + "".join(f"{seed},{ce},{dice}\n" for seed, (ce, dice) in enumerate(ROWS))


def judged(tmp_path, content, name="scores.csv", **asked):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return lossbench.verdict(file, "ce", 0.01, "dice", **asked)


def refusal(tmp_path, content, **asked):
    with pytest.raises(UserError) as caught:
        judged(tmp_path, content, **asked)
    said = str(caught.value)
    assert "\n" not in said
    return said


def lines(rows, before=()):
    """Write rows, each after so many blank lines or remarks, and say on which line each begins."""
    text, number, begun = "", 1, []
    for row, between in zip(rows, [*before, *[[]] * len(rows)], strict=False):
        for one in between:
            text += one + "\n"
            number += 1
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(row)
        begun.append(number)
        text += out.getvalue()
        number += out.getvalue().count("\n")
    return text, begun


names = st.text(st.sampled_from('ab ,;"\n#\t\x0c\u2028'), min_size=1, max_size=8).filter(
    lambda one: one.strip() and not one.lstrip().startswith("#")
)
betweens = st.lists(st.sampled_from(["", "   ", "# a remark", ",,"]), max_size=3)


@settings(max_examples=25, deadline=None)
@given(st.lists(names, min_size=1, max_size=8), st.lists(betweens, max_size=9))
def test_every_row_is_named_by_the_line_on_which_an_editor_shows_it(tmp_path_factory, cells, between):
    text, begun = lines([("loss", "seed", "score"), *((one, 1, 2) for one in cells)], between)
    file = tmp_path_factory.mktemp("lines") / "scores.csv"
    file.write_bytes(text.encode())
    assert [where for where, _ in read_csv(file)] == [f"line {one}" for one in begun[1:]]
    assert [row["loss"] for _, row in read_csv(file)] == [one.strip() for one in cells]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_remarks_and_names_of_two_lines_count_as_lines(end, tmp_path):
    text = '# made by us\n\nloss,seed,score\n"ce\nplain",0,0.5\n\n# half of them\nce plain,1,\n'
    said = refusal(tmp_path, text.replace("\n", end))
    assert "scores.csv: line 8: the score of loss 'ce plain' on seed 1 is no number" in said


def test_a_twin_a_short_row_and_an_unclosed_quote_are_named_by_their_lines(tmp_path):
    assert "line 12 has 2 cells, the header 3" in refusal(tmp_path, PLAIN + "\n\n\n7,0.7\n")
    assert "line 11: not a table" in refusal(tmp_path, PLAIN + '\n\n"7,0.7,0.8\n')
    long = "loss,seed,score\n\nce,0,.5\n\n# again\nce,0,.6\n"
    assert "line 6: loss 'ce' has a second score on seed 0, the first is in line 3" in refusal(tmp_path, long)


def test_remarks_are_left_out_and_a_row_behind_a_hash_is_asked_about(tmp_path):
    plain = judged(tmp_path, PLAIN).json()
    assert judged(tmp_path, "# by hand\n" + PLAIN + "# the end\n").json() == plain
    assert judged(tmp_path, "# " + PLAIN).json() == plain, "as numpy.savetxt writes a header"
    said = refusal(tmp_path, PLAIN + "#7,0.1,0.9\n")
    assert "line 9 begins with '#' and has as many cells as the header" in said


def test_what_is_packed_is_unpacked(tmp_path):
    packed = judged(tmp_path, gzip.compress(PLAIN.encode()), "scores.csv.gz")
    assert packed.json() == judged(tmp_path, PLAIN).json()
    half = PLAIN[:40].encode(), PLAIN[40:].encode()
    assert (
        judged(tmp_path, gzip.compress(half[0]) + gzip.compress(half[1])).json()
        == judged(tmp_path, PLAIN).json()
    )
    assert "cannot be unpacked" in refusal(tmp_path, b"\x1f\x8bnothing")
    assert "cannot be unpacked" in refusal(tmp_path, gzip.compress(PLAIN.encode())[:-12]), "cut short"


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [(PLAIN, 0, "dice beats ce"), ("seed,ce,dice\n0,a,1\n", 2, "standard input: line 2, 'ce' is 'a'")],
)
def test_scores_come_through_a_pipe(content, code, said, monkeypatch, capsys):
    asked = ["verdict", "-", "--baseline", "ce", "--margin", "0.01", "--metric", "dice"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    monkeypatch.setattr(sys, "argv", ["lossbench", *asked])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert said in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"PAR1", "a Parquet file"), (b"PK\x03\x04", "a workbook"), (b"\x89HDF\r\n", "an HDF5 file"),
        (b"SQLite format 3\0", "a SQLite database"), (b"ARROW1\0\0", "a Feather file"),
    ],
)  # fmt: skip
def test_a_table_that_is_no_text_is_told_what_reads_it(first, kind, tmp_path):
    said = refusal(tmp_path, first + b"\0\x01\x02")
    assert kind in said
    assert "lossbench.verdict(pandas.read_" in said


def test_what_is_no_file_or_no_text_is_said(tmp_path):
    assert "UTF-16 without its mark" in refusal(tmp_path, PLAIN.encode("utf-16-le"))
    assert "not UTF-8 text" in refusal(tmp_path, codecs.BOM_UTF16_LE + b"\x00\xd8\x00\x00x")
    assert "scores.csv: empty" in refusal(tmp_path, ",,\n,,\n")
    assert "no cell holds anything" in refusal(tmp_path, '"",""\n"",""\n')
    assert "no scores" in refusal(tmp_path, "# seed,ce,dice\n")
    for path in (tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be read"):
            lossbench.verdict(path, "ce", 0.01, "dice")


@pytest.mark.parametrize(
    ("first", "second"), [("CE", "ce"), ("ce_dice", "ce dice"), ("ﬁne", "fine"), ("di\u200bce", "dice")]
)
def test_one_loss_written_in_two_ways_is_asked_about(first, second, tmp_path):
    rows = [f"{loss},{seed},0.{seed + 5}" for seed in range(4) for loss in (first, second if seed else first)]
    said = refusal(tmp_path, "loss,seed,score\n" + "\n".join(dict.fromkeys(rows)) + "\nbase,0,1\n")
    assert f"'{second}'" in said
    assert f"'{first}' in line 2" in said


def test_an_underscore_within_digits_is_no_score(tmp_path):
    assert "is '0_75'; a score is a number" in refusal(tmp_path, PLAIN + "7,0_75,0.8\n")


def test_a_whole_number_beyond_floats_is_refused():
    with pytest.raises(UserError, match="row 1, 'ce' is a whole number too large"):
        lossbench.verdict({"seed": [0, 1], "ce": [1, 10**400], "dice": [1, 2]}, "ce", 1, "psnr")


@pytest.mark.parametrize("column", ["fold", "Epoch", "index", "n"])
def test_a_column_that_is_no_loss_is_not_judged_as_one(column, tmp_path):
    """It would also take its share of the level from the losses."""
    text = PLAIN.replace("\n", ",1\n").replace("dice,1", f"dice,{column}")
    assert f"column '{column}' would be a loss" in refusal(tmp_path, text)


def test_two_thousand_seeds_get_a_verdict_paired_or_not():
    """2/2^n and the number of ways to deal them are beyond a float."""
    draws = np.random.default_rng(0).normal(size=(2, 2_000))
    table = {"seed": range(2_000), "ce": draws[0], "dice": draws[1] + 0.5}
    for unpaired in (False, True):
        found = lossbench.verdict(table, "ce", 0.01, "psnr", True, unpaired=unpaired)
        assert found[0].verdict == "better"


def test_a_margin_and_a_spread_too_far_apart_are_refused():
    with pytest.raises(UserError, match="too far apart to compute with"):
        plan(sd=1e300, margin=1e-300)


def test_seeds_written_in_two_ways_are_shown_where_none_pair():
    rows = [{"loss": loss, "seed": f"{mark}{seed}", "score": seed / 10 + (loss == "dice") / 9}
            for loss, mark in (("ce", ""), ("dice", "seed_")) for seed in range(5)]  # fmt: skip
    found = lossbench.verdict(rows, "ce", 0.01, "dice")
    assert any("no seed has scores of both: seed_0, seed_1, … against 0, 1, …" in one for one in found.notes)


@pytest.mark.parametrize("metric", ["quality", "dice"])
def test_per_cent_of_one_loss_beside_shares_of_another_are_told_or_refused(metric):
    table = {"seed": range(5), "ce": [0.70, 0.71, 0.69, 0.72, 0.7], "focal": [71, 72, 70, 71.5, 69]}
    asked = {"metric": metric, "higher_is_better": True}
    if metric == "dice":  # known to be a share
        with pytest.raises(UserError, match="per cent beside shares"):
            lossbench.verdict(table, "ce", 0.01, **asked)
    else:
        assert any(
            "per cent beside shares" in one for one in lossbench.verdict(table, "ce", 0.01, **asked).notes
        )
