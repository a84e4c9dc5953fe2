"""Tables as spreadsheets save them, scores in two units, and very many of them."""

import codecs
import json
import time
from html import unescape

import numpy as np
import pytest
from law_cases import each
from scipy import stats

import lossbench
from lossbench.cli import main
from lossbench.errors import UserError
from lossbench.statistics.paired import sign_flip_p

ROWS = [(0.70, 0.78), (0.71, 0.77), (0.69, 0.75), (0.72, 0.80), (0.70, 0.79), (0.71, 0.77), (0.73, 0.81)]
PLAIN = "seed,ce,dice\n" + "".join(f"{seed},{ce},{dice}\n" for seed, (ce, dice) in enumerate(ROWS))
EXCEL = PLAIN.replace(",", ";").replace(".", ",")


def judged(tmp_path, content, metric="dice", **asked):
    file = tmp_path / "scores.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return lossbench.verdict(file, "ce", 0.01, metric, **asked)


def refusal(tmp_path, content, **asked):
    with pytest.raises(UserError) as caught:
        judged(tmp_path, content, **asked)
    return str(caught.value)


@each(
    "content",
    [
        PLAIN.replace(",", ";"),
        EXCEL,
        "sep=;\n" + EXCEL,
        EXCEL.replace(";", "\t"),
        codecs.BOM_UTF8 + PLAIN.encode(),
        codecs.BOM_UTF16_LE + PLAIN.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + EXCEL.encode("utf-16-be"),
        PLAIN.replace("\n", "\r\n"),
        "\n" + PLAIN,
    ],
)
def test_a_table_says_the_same_however_a_spreadsheet_saved_it(content, tmp_path):
    assert judged(tmp_path, content).json() == judged(tmp_path, PLAIN).json()


@pytest.mark.parametrize("number", ["1.234,5", "1,234,567"])
def test_commas_that_may_be_thousands_are_refused(number, tmp_path):
    said = refusal(tmp_path, EXCEL + f"7;{number};0,8\n")
    assert "line 9, 'ce'" in said
    assert "write 0.5, not 0,5" in said


def test_commas_beside_points_are_not_guessed_at(tmp_path):
    assert "write 0.5, not 0,5" in refusal(tmp_path, PLAIN.replace(",", ";") + "7;0,7;0.8\n")


def test_a_per_cent_sign_and_a_name_among_the_numbers_get_a_hint(tmp_path):
    assert "without the sign" in refusal(tmp_path, PLAIN + "7,70%,0.8\n")
    assert "a column 'loss'" in refusal(tmp_path, "model,seed,dice\nce,0,0.7\n")


@pytest.mark.parametrize("metric", ["accuracy", "dice", "test/mean_iou"])
def test_per_cent_beside_shares_is_refused_and_both_are_named(metric, tmp_path):
    mixed = "seed,ce,dice\n" + "".join(f"{i},{ce},{100 * dice:g}\n" for i, (ce, dice) in enumerate(ROWS))
    said = refusal(tmp_path, mixed, metric=metric)
    assert "'dice' has a score of" in said
    assert "'ce' none above 0.73" in said
    assert judged(tmp_path, mixed, metric, bounds=(0, 100))[0].verdict == "better"


@pytest.mark.parametrize("score", [-0.1, 100.5])
def test_a_share_that_cannot_be_is_refused(score, tmp_path):
    assert "lies between 0 and 1" in refusal(tmp_path, PLAIN + f"7,0.7,{score}\n")


@pytest.mark.parametrize("asked", [{"floor": np.nan}, {"floor": np.inf}, {"bounds": (1, 0)}])
def test_a_floor_or_bounds_that_say_nothing_are_refused(asked, tmp_path):
    assert "must be" in refusal(tmp_path, PLAIN, **asked)


def test_scores_that_count_as_one_get_no_number_of_seeds(tmp_path):
    found = judged(tmp_path, "seed,ce,dice\n" + "".join(f"{i},{ce},0.75\n" for i, (ce, _) in enumerate(ROWS)))
    (row,) = json.loads(found.json())["verdicts"]
    assert (row["verdict"], row["seeds_needed"], row["seeds_for_tie"]) == ("undecided", None, None)
    assert "so count as one" in row["sentence"]
    assert "?." not in found.text() + found.markdown() + found.html()


@pytest.mark.slow
def test_twenty_thousand_seeds_are_judged_in_seconds():
    differences = np.random.default_rng(2).normal(0.01, 1, 20_000)
    began = time.process_time()
    p = sign_flip_p(differences)
    assert time.process_time() - began < 30
    assert p == pytest.approx(
        2 * stats.norm.sf(abs(differences.sum()) / np.linalg.norm(differences)), rel=0.1
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--sd", "0.02", "--correlation", "0.5"], "--correlation goes with --sd-scores"),
        (["--sd-scores", "0.02", "--correlation", "1"], "--correlation must be"),
        (["--sd-scores", "-0.02"], "--sd-scores must be"),
        (["--sd", "nan"], "--sd must be"),
    ],
)
def test_a_spread_that_says_nothing_is_refused(given, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lossbench", "seeds", "--margin", "0.01", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@each("cell", ["NA", "nan", "NaN", "N/A", "None", "null", "-inf", "inf"])
def test_what_programs_write_for_no_number_is_a_score_that_is_missing(cell, tmp_path):
    table = PLAIN.replace("0.8\n", f"{cell}\n")
    assert "loss 'dice' on seed 3 is " in refusal(tmp_path, table)
    found = judged(tmp_path, table, floor=0.1)
    assert (found[0].diverged, found.scores[""]["dice"]["3"]) == (1, 0.1)


@pytest.mark.parametrize("label", ["metric", "experiment", "group"])
def test_rows_without_a_label_that_others_have_are_refused(label, tmp_path):
    """Merged cells of a spreadsheet leave the name in the first row alone."""
    lines = [f"{line},{'a' if number == 1 else ''}" for number, line in enumerate(PLAIN.splitlines())]
    lines[0] = f"seed,ce,dice,{label}"
    assert f"line 3: no {label}, where line 2 has 'a'" in refusal(tmp_path, "\n".join(lines))


def test_an_experiment_is_asked_for_where_there_is_no_such_column(tmp_path, monkeypatch, capsys):
    file = tmp_path / "scores.csv"
    file.write_text(PLAIN)
    asked = ["--baseline", "ce", "--metric", "dice", "--margin", "0.01", "--experiment", "x"]
    monkeypatch.setattr("sys.argv", ["lossbench", "verdict", str(file), *asked])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "no experiment 'x', for there is no column 'experiment'" in capsys.readouterr().err


NAME = "[1,5] di|ce_{50%}&<b> *x* `y` _z_ #1 ~^\\ über"


@pytest.fixture
def ugly():
    table = {"seed": range(7), "ce": [ce for ce, _ in ROWS], NAME: [dice for _, dice in ROWS]}
    return lossbench.verdict(table, "ce", 0.01, "dice")


def test_a_name_breaks_out_of_no_markdown(ugly):
    """Rendered, the cell reads as the name and holds no mark-up."""
    from markdown_it import MarkdownIt

    html = MarkdownIt("gfm-like", {"linkify": False}).render(ugly.markdown())
    cells = [cell.split("<")[0] for cell in html.split("<td>")[1:]]
    assert unescape(cells[0]) == NAME
    assert len(cells) == 8
    assert not any(mark in html for mark in ("<em>", "<code>", "<a ", "<b>", "<h1>"))


def test_a_name_breaks_no_latex(ugly):
    """A row that begins with a bracket would be the argument of the line break before it."""
    row = next(line for line in ugly.latex().splitlines() if line.startswith("{[}1"))
    assert r"di\textbar{}ce\_\{50\%\}\&\textless{}b\textgreater{}" in row
    assert row.count("&") - row.count(r"\&") == 7


def test_a_name_of_several_lines_is_one(tmp_path):
    found = judged(
        tmp_path, PLAIN.replace("dice", '"soft\n  dice"'), metric=" di ce\n", higher_is_better=True
    )
    assert found[0].arm == "soft dice"
    assert len(found.text().splitlines()) == 2
