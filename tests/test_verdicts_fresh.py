"""What a reader with scores of their own was told that was not so: found by one who had never seen this."""

import math
import sys

import numpy as np
import pytest
from law_cases import each

import lossbench
from lossbench.errors import UserError
from lossbench.statistics.sentences import sentence
from lossbench.statistics.verdict import Rules, compare
from lossbench.tracking.summary import _versus

RNG = np.random.default_rng(25)
CE = 0.70 + 0.01 * RNG.normal(size=8)
DICE = CE + 0.05 + 0.005 * RNG.normal(size=8)


def judged(columns, margin=0.01, metric="accuracy", **asked):
    seeds = len(next(iter(columns.values())))
    table = {"seed": range(seeds), **columns}
    return lossbench.verdict(table, "ce", margin, metric, **asked)


def test_a_diverged_replicate_without_its_pair_is_not_said_to_be_counted():
    rows = [{"loss": "ce", "seed": seed, "score": value} for seed, value in enumerate(CE)]
    rows += [{"loss": "dice", "seed": seed, "score": value} for seed, value in enumerate(DICE)]
    rows.append({"loss": "ce", "seed": 99, "score": math.nan})
    found = lossbench.verdict(rows, "ce", 0.01, "accuracy", floor=0.1)
    assert (found[0].n, found[0].diverged) == (8, 0)
    assert "counted" not in found.found[0].sentence
    unpaired = lossbench.verdict(rows, "ce", 0.01, "accuracy", floor=0.1, unpaired=True)
    assert unpaired[0].diverged == 1


def test_no_interval_of_per_cent_is_wider_than_per_cent_can_be():
    found = judged({"ce": [10.0, 90.0], "dice": [80.0, 3.0]}, margin=1.0)
    assert (found[0].ci_low, found[0].ci_high) == (-100.0, 100.0)
    with pytest.raises(UserError, match="everything would tie"):
        judged({"ce": 100 * CE, "dice": 100 * DICE}, margin=100.0)


@pytest.mark.parametrize("form", ["markdown", "latex", "html"])
def test_beside_a_tie_every_table_has_the_interval_and_the_p_that_show_it(form):
    scores = {"ce": CE, "focal": CE + 0.0014 + 0.002 * RNG.normal(size=8), "dice": DICE, "other": CE - 0.02}
    found = judged(scores)
    tie = found[0]
    assert tie.verdict == "tie"
    assert tie.shown.inside(-tie.margin, tie.margin)
    assert (tie.shown.low, tie.shown.high) != (tie.ci_low, tie.ci_high)
    said = found.found[0].sentence.split(" % ")[1].split(")")[0]
    table = getattr(found, form)()
    assert said in table.replace("$-$", "−")
    assert "p of a tie" in table


@each("odd", ["\x1b[31m", "\x07", "\u202e", "\u2066"])
@each("place", ["header", "loss", "seed", "metric", "experiment"])
def test_a_name_that_would_steer_a_terminal_or_break_an_svg_is_refused(place, odd):
    name = f"fo{odd}cal"
    if place == "header":
        table = {"seed": range(8), "ce": CE, name: DICE}
    else:
        table = {"loss": ["ce"] * 8 + ["dice"] * 8, "seed": [*range(8)] * 2, "score": [*CE, *DICE]}
        table[place] = [*table.get(place, ["x"] * 16)[:-1], name]
    with pytest.raises(UserError, match=rf"control character \(U\+{ord(odd[0]):04X}\)") as refused:
        lossbench.verdict(table, "ce", 0.01, "accuracy")
    assert odd not in str(refused.value)


def test_a_complex_score_is_no_score():
    with pytest.raises(UserError, match="row 0, 'dice'"):
        judged({"ce": CE, "dice": DICE + 1j})


def test_what_new_groups_would_show_stands_in_the_sentence():
    """Better on the groups that are there, by what two of them say: the JSON alone knew."""
    gain = {"a": 0.06, "b": 0.05, "c": -0.03, "d": 0.0}
    rows = [
        {"loss": loss, "seed": seed, "group": group, "score": value + (loss == "dice") * of_group}
        for loss, noise in (("ce", 0.0), ("dice", 0.002))
        for seed, value in enumerate(CE + noise * RNG.normal(size=8))
        for group, of_group in gain.items()
    ]
    found = lossbench.verdict(rows, "ce", 0.001, "accuracy")
    assert found[0].verdict == "better"
    assert found.records[0]["groups_low"] < 0 < found.records[0]["groups_high"]
    assert "For new groups too: dice − ce from −0.0" in found.text()
    assert "For new groups too" in found.html()


def test_a_group_that_lacks_a_score_is_named_with_its_table():
    rows = [
        {"loss": loss, "seed": seed, "group": group, "score": value}
        for loss, values in (("ce", CE), ("dice", DICE))
        for seed, value in enumerate(values)
        for group in "ab"
    ]
    with pytest.raises(UserError, match=r"^the frame: loss 'dice' .* group 'b'"):
        lossbench.verdict(rows[:-1], "ce", 0.01, "accuracy")


def test_a_frame_without_pandas_says_what_to_install(monkeypatch):
    found = judged({"ce": CE, "dice": DICE})
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"pip install pandas; \.records"):
        found.frame  # noqa: B018  # asking for it is what raises
    assert found.records[0]["verdict"] == "better"


def test_a_step_without_end_is_refused():
    with pytest.raises(UserError, match="step must be"):
        judged({"ce": CE, "dice": DICE}, step=math.inf)


SKEWED = np.array([0.046, 0.047, 0.045, -0.004, 0.046, 0.044, 0.048, 0.047])


@pytest.mark.parametrize(
    ("differences", "others", "said"),
    [
        (SKEWED, 0, "the interval leaves 0 out"),
        (np.full(8, 0.01) + 0.011 * RNG.normal(size=8), 9, "the interval leaves 0 out"),
        (0.02 * RNG.normal(size=8), 0, None),
    ],
    ids=["skewed", "one of ten contrasts", "neither"],
)
def test_an_undecided_contrast_says_why_its_interval_does_not_decide(differences, others, said):
    scores = {"ce": CE, "arm": CE + differences}
    scores |= {f"other {number}": CE + 0.02 * RNG.normal(size=8) for number in range(others)}
    one = compare(scores, "ce", "accuracy", Rules(margin=1e-6))[0]
    assert one.verdict == "undecided"
    assert (one.ci_low > 0) == (said is not None)
    words = sentence(one, "", "arm", "ce", 0.05)
    assert (said or "") in words
    assert ("leaves 0 out" in words) == (said is not None)


def test_a_difference_that_more_seeds_would_show_is_not_called_unshowable():
    differences = 0.0064 * 0.02 + 0.02 * np.tile([1.0, -1.0], 100)
    scores = {"ce": np.full(200, 0.7), "arm": 0.7 + differences}
    one = compare(scores, "ce", "accuracy", Rules(margin=1e-6))[0]
    assert one.seeds_needed is None
    assert "more than 100 000" in sentence(one, "", "arm", "ce", 0.05)


def test_mlflow_shows_beside_a_tie_what_shows_it():
    row = {
        "verdict": "tie",
        "difference": "0.0014",
        "ci_low": "-0.0007",
        "ci_high": "0.0035",
        "p_holm": "0.406",
    }
    row |= {"tie_low": "-0.0012", "tie_high": "0.0037", "p_tie_holm": "0.0002"}
    assert _versus(row) == "0.0014 (−0.0012 to 0.0037), p < 0.001 of a tie"
    assert _versus(row | {"verdict": "undecided"}) == "0.0014 (−0.0007 to 0.0035), p = 0.406"


PAPER = 703
"""A4 between margins of 12 mm, in CSS's pixels."""
CUT = "[...document.querySelectorAll('.scroll, svg text')].filter(one => {at}).length"
SCROLLS = CUT.replace("{at}", "one.scrollWidth > one.clientWidth + 1 && one.matches('.scroll')")
OUTSIDE = CUT.replace(
    "{at}",
    "one.matches('text') && one.getClientRects().length && (one.getBoundingClientRect().right > "
    "innerWidth || one.getBoundingClientRect().left < 0)",
)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_cuts_nothing_on_a_phone_or_a_desk(width, tmp_path):
    from playwright.sync_api import sync_playwright

    scores = {"ce": CE, "focal": CE + 0.002 * RNG.normal(size=8), "dice": DICE, "weighted_ce " * 4: CE - 0.02}
    (tmp_path / "page.html").write_text(judged(scores).html(), encoding="utf-8")
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=quiet)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(SCROLLS) == 0
        assert page.evaluate(OUTSIDE) == 0
        assert page.locator("svg:visible").count() == 1
        page.emulate_media(media="print")
        page.set_viewport_size({"width": PAPER, "height": 900})
        assert page.evaluate(SCROLLS) == 0
        assert page.locator("svg:visible").count() == 1
        browser.close()
