"""The report: what its tables say, that it repeats to the byte, and that nothing breaks out of it."""

import json
import os
import re
import shlex
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, tiny_params, write_params
from law_cases import each
from PIL import Image

from lossbench import written
from lossbench.cli import main
from lossbench.params import load_params
from lossbench.reporting import charts, drawn, in_a_line
from lossbench.reporting.gallery import image_address, mask_address
from lossbench.reporting.inputs import read_study
from lossbench.reporting.page import _memory, _script_json, _seeds_said, draw
from lossbench.reporting.tables import curves, findings, leaderboard
from lossbench.reporting.write import write_report
from lossbench.statistics.paired import Interval
from lossbench.statistics.record import Verdict
from lossbench.store import Store
from lossbench.tracking.summary import Reports

FILES = (
    "leaderboard.csv",
    "curves.csv",
    "verdicts.csv",
    "metrics.json",
    "verdicts.json",
    "report.md",
    "index.html",
)


@pytest.fixture
def study(trained_study: Path, tmp_path: Path) -> Path:
    """A copy of the tiny trained study, with the seconds that its trainings took."""
    shutil.copytree(trained_study, tmp_path / "study")
    timings = tmp_path / "study/.lossbench/timings"
    timings.mkdir(parents=True, exist_ok=True)
    for arm in tiny_params()["arms"]:
        (timings / f"{arm}.json").write_text(json.dumps({"0": 1.5, "1": 2.5}))
    return tmp_path / "study"


@pytest.fixture
def odd(study: Path) -> Path:
    """That study with a class that is named like markup, and a claim across experiments with its limits."""
    for name in ("digits", "scenes"):
        for file in (
            study / "data" / name / "dataset.json",
            *(study / "reports/evaluation" / name).glob("*.csv"),
        ):
            file.write_text(file.read_text().replace('"3"', f'"{EVIL}"').replace(",3,", f",{EVIL},"))
        gallery = study / "reports/evaluation" / name / "gallery.json"
        gallery.write_text(gallery.read_text().replace('"3"', f'"{EVIL}"'))
    content = tiny_params()
    content["hypotheses"]["focal_wins"]["limits"] = "Eight by eight <pixels>."
    content["hypotheses"]["gap"] = {
        "claim": "Focal wins.", "experiment": "digits", "better": "focal", "than": "cross_entropy",
        "than_experiment": "scenes", "on": "generalisation_gap",
    }  # fmt: skip
    write_params(study, content)
    return study


EVIL = "<script>alert(1)</script>"


REPORTS = ("reports", ".lossbench/report")
WRITTEN: dict[str, Path] = {}
"""What a study says → its reports, in a folder that no test writes to: a report takes seconds."""


def report(study: Path) -> Path:
    """Write the reports of a study, or copy those of one that says the same."""
    files = sorted(one for one in study.rglob("*") if one.suffix in (".yaml", ".csv", ".json"))
    said = "".join(f"{one.relative_to(study)}\n{one.read_text()}" for one in files)
    if said not in WRITTEN:
        write_report(load_params(study / "params.yaml"), study, study / ".lossbench")
        WRITTEN[said] = study.parent / f"kept-{len(WRITTEN)}"
        for part in REPORTS:
            shutil.copytree(study / part, WRITTEN[said] / part)
    for part in REPORTS:
        shutil.copytree(WRITTEN[said] / part, study / part, dirs_exist_ok=True)
    return study / "reports"


@pytest.mark.slow
def test_charts_are_what_vega_lite_allows_and_the_same_when_that_is_not_looked_at(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_study(load_params(study / "params.yaml"), study)
    given = read, leaderboard(read), findings(read), curves(read)

    def specs() -> dict[str, list[object]]:
        return {name: [chart.spec for chart in drawn] for name, drawn in draw(*given).items()}

    quick = specs()
    monkeypatch.setattr(charts, "unchecked", nullcontext)
    assert specs() == quick
    assert all(quick.values())


def test_the_leaderboard_holds_every_arm_with_mean_sd_interval_and_rank(study: Path) -> None:
    board = pd.read_csv(report(study) / "leaderboard.csv")
    assert list(board.columns) == [
        "experiment",
        "arm",
        "loss",
        "metric",
        "mean",
        "sd",
        "ci_low",
        "ci_high",
        "n",
        "rank",
    ]
    scores = pd.read_csv(study / "reports/evaluation/digits/scores.csv")
    for _, row in board[board["experiment"] == "digits"].iterrows():
        mine = scores[(scores["arm"] == row["arm"]) & (scores["metric"] == row["metric"])]["value"]
        assert row["mean"] == pytest.approx(mine.mean())
        assert row["sd"] == pytest.approx(mine.std(ddof=1))
        assert row["n"] == 3
    accuracy = board[(board["experiment"] == "digits") & (board["metric"] == "accuracy")]
    assert accuracy.sort_values("rank")["mean"].is_monotonic_decreasing
    nll = board[(board["experiment"] == "digits") & (board["metric"] == "nll")]
    assert nll.sort_values("rank")["mean"].is_monotonic_increasing


def test_three_seeds_can_decide_no_contrast_and_the_report_says_how_many_would(study: Path) -> None:
    verdicts = pd.read_csv(report(study) / "verdicts.csv")
    assert len(verdicts) == 2
    assert set(verdicts["verdict"]) <= {"undecided", "tie", "not trained"}
    assert {"p_holm", "p_tie", "seeds_needed", "correlation", "diverged"} <= set(verdicts.columns)


@pytest.mark.slow
def test_every_report_file_repeats_to_the_byte(study: Path) -> None:
    written = []
    for _ in range(2):
        write_report(load_params(study / "params.yaml"), study, study / ".lossbench")
        written.append({name: (study / "reports" / name).read_bytes() for name in FILES})
    assert written[0] == written[1]


def test_the_page_asks_the_network_for_nothing(study: Path) -> None:
    html = (report(study) / "index.html").read_text()
    own = html.split("<script>")[0] + html.rsplit("<script>", 1)[1]
    assert "http://" not in own.replace("http://www.w3.org", "")
    assert 'src="http' not in html


def test_the_page_promises_no_tie_to_a_difference_that_is_merely_small(study: Path) -> None:
    """One of 0.004, shown to be no 0, is "worse" at a margin of 0.005: ties are shown, not assumed."""
    html = (report(study) / "index.html").read_text()
    assert "a difference shown to lie within ± 0.01 is a tie" in html
    assert "count as a tie" not in html


def test_a_class_named_like_markup_is_shown_and_not_run(odd: Path) -> None:
    html = (report(odd) / "index.html").read_text()
    assert EVIL not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_json_cannot_end_its_script_element() -> None:
    text = str(_script_json({"name": "</script><img src=x onerror=alert(1)>"}))
    assert "<" not in text
    assert json.loads(text)["name"].startswith("</script>")


@pytest.mark.slow
def test_an_experiment_without_the_baseline_gets_a_leaderboard_and_no_verdict(study: Path) -> None:
    content = tiny_params()
    content["losses"]["other"] = {"name": "hinge"}
    content["comparison"]["baseline"] = "other"
    write_params(study, content)
    assert len(pd.read_csv(report(study) / "verdicts.csv")) == 0
    assert "No verdict" in (study / "reports/index.html").read_text()


def test_the_tracked_page_holds_no_seconds_and_the_twin_does(study: Path) -> None:
    assert "seconds a replicate" not in (report(study) / "index.html").read_text()
    assert "seconds a replicate" in (study / ".lossbench/report/index.html").read_text()


def test_each_chart_has_words_and_a_table_for_those_who_do_not_see_it(study: Path) -> None:
    html = (report(study) / "index.html").read_text()
    charts = html.count('<div class="chart"')
    assert charts >= 10
    assert html.count('role="img" aria-label="') == charts
    assert html.count("<details><summary>The numbers behind") == charts


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_pictures_are_pngs(shape: tuple[int, ...]) -> None:
    image = np.zeros(shape, dtype=np.uint8)
    assert image_address(image).startswith("data:image/png;base64,")
    assert mask_address(np.full((8, 8), 30)).startswith("data:image/png;base64,")


BROWSER = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots are kept: LOSSBENCH_SCREENSHOTS where it is set."""
    folder = Path(os.environ.get("LOSSBENCH_SCREENSHOTS", tmp_path / "shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_in_a_browser_the_page_draws_all_charts_and_cuts_nothing_without_errors_or_requests(
    width: int, scheme: str, study: Path, shots: Path
) -> None:
    from playwright.sync_api import sync_playwright

    page_file = report(study) / "index.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        charts = page.locator(".chart").count()
        page.wait_for_function(f"document.querySelectorAll('.chart svg').length >= {charts}")
        page.screenshot(path=shots / f"report-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(f"[...document.querySelectorAll('.fits')].filter({TOO_WIDE}).length") == 0
        assert page.evaluate(f"[...document.querySelectorAll('.chart')].filter({TOO_WIDE}).length") == 0
        if width > 390:
            assert page.locator(".stacked").count() == 0
            page.pdf(path=shots / f"report-{scheme}.pdf")
            page.emulate_media(media="print")
            page.screenshot(path=shots / f"report-print-{scheme}.png", full_page=True)
            assert set(page.evaluate(INKS)) <= {"rgb(51, 55, 61)", "none", "rgb(227, 230, 234)"}
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
            page.add_style_tag(
                content=f"body {{ width: {PAPER}px; }}"
            )  # printing resizes nothing, and redraws nothing
            assert page.evaluate(BEYOND_PAPER) == []
            assert set(page.evaluate(BREAKABLE)) == {"avoid"}
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


DRAWN = ", ".join(f'.chart [stroke="{ink}"]' for ink in ("#d6dae1", "#33373d", "#363b44", "#e3e6ea"))
INKS = f"[...document.querySelectorAll('{DRAWN}')].map(one => getComputedStyle(one).stroke)"
"""What axes, grids and intervals are drawn with on paper."""
PAPER = 703
"""A4 between margins of 12 mm, in CSS's pixels."""
BEYOND_PAPER = (
    "[...document.querySelectorAll('header *, main *, footer *')].filter(one => one.getClientRects().length && "
    f"one.getBoundingClientRect().right > {PAPER} + 1).map(one => one.outerHTML.slice(0, 120))"
)
BREAKABLE = (
    "[...document.querySelectorAll('tr, .chart, .verdicts li')].map(one => getComputedStyle(one).breakInside)"
)
TOO_WIDE = "one => one.scrollWidth > one.clientWidth"


def test_the_claims_page_tells_each_claim_with_evidence_and_limits(odd: Path) -> None:
    html = (report(odd) / "claims.html").read_text()
    assert html.count("<h2>Focal wins.</h2>") == 1
    assert html.count("<article") == 2
    assert "focal better than cross_entropy on accuracy (higher is better), digits" in html
    assert (
        "focal in digits better than cross_entropy in scenes on generalisation gap (lower is better)" in html
    )
    assert "Eight by eight &lt;pixels&gt;." in html
    answers = json.loads((odd / "reports/verdicts.json").read_text())["hypotheses"]
    scores = {
        (name, row["loss"], row["seed"]): row["value"]
        for name in ("digits", "scenes")
        for row in pd.read_csv(odd / f"reports/evaluation/{name}/scores.csv").to_dict("records")
        if row["metric"] == "generalisation_gap"
    }
    gains = [scores["scenes", "cross_entropy", s] - scores["digits", "focal", s] for s in (0, 1, 2)]
    assert answers[1]["difference"] == pytest.approx(np.mean(gains))


@pytest.mark.slow
def test_a_claim_on_scores_that_a_diverged_replicate_lacks_is_undecided(study: Path) -> None:
    content = tiny_params()
    content["hypotheses"]["focal_wins"]["on"] = "generalisation_gap"
    write_params(study, content)
    file = study / "reports/evaluation/digits/scores.csv"
    table = pd.read_csv(file)
    lost = (table["loss"] == "focal") & (table["seed"] == 1) & (table["metric"] == "generalisation_gap")
    table[~lost].to_csv(file, index=False)
    out = report(study)
    answer = json.loads((out / "verdicts.json").read_text())["hypotheses"][0]
    assert (answer["answer"], answer["difference"]) == ("undecided", None)
    assert "undecided" in (out / "claims.html").read_text()


def test_each_experiment_is_answered_in_a_line_that_agrees_with_its_verdicts(study: Path) -> None:
    out = report(study)
    content = json.loads((out / "verdicts.json").read_bytes())
    assert set(content["answers"]) == {one["experiment"] for one in content["verdicts"]}
    for one in content["verdicts"]:
        said = content["answers"][one["experiment"]]["answer"]
        assert ("train with" in said) == (one["verdict"] == "better"), said
        do, _, why = said.partition("; ") if "train with" not in said else said.partition(": ")
        first = f"**{one['experiment']}: {do}**{said.removeprefix(do)}. Next: "
        assert first in (out / "report.md").read_text()
        assert why
    page = (out / "index.html").read_text()
    assert page.index('class="lines"') < page.index('id="verdicts"')


def decided(study: Path, lead: float = 0.2) -> dict[str, dict[str, str]]:
    """Answers where one loss is clearly better on eight seeds."""
    content = tiny_params()
    content["seeds"] = list(range(8))
    write_params(study, content)
    shutil.copy(ROOT / "dvc.yaml", study)  # a study with a chain has commands
    for name in ("digits", "scenes"):
        file = study / f"reports/evaluation/{name}/scores.csv"
        table = pd.read_csv(file)
        table = pd.concat(
            [table[table["seed"] == 0].assign(seed=seed) for seed in content["seeds"]], ignore_index=True
        )
        wobble = table["seed"].map(lambda seed: 0.6 + 0.003 * ((7 * seed) % 8))
        table["value"] = wobble + lead * (table["loss"] == "focal") * (1 + 0.1 * (table["seed"] % 3))
        table.to_csv(file, index=False)
        for statistics in (study / f"reports/evaluation/{name}/statistics").glob("*.npy"):
            statistics.unlink()
    (study / "reports/evaluation").mkdir(exist_ok=True)
    answers: dict[str, dict[str, str]] = json.loads((report(study) / "verdicts.json").read_bytes())["answers"]
    return answers


@pytest.mark.slow
def test_a_decided_answer_says_how_often_what_it_costs_and_how_to_use_it(study: Path) -> None:
    timings = study / ".lossbench/timings"
    timings.mkdir(parents=True, exist_ok=True)
    for arm, seconds in (("digits-cross_entropy", 2.0), ("digits-focal", 3.0)):
        (timings / f"{arm}.json").write_text(json.dumps({"0": seconds, "1": seconds}))
    line = decided(study)["digits"]
    assert "train with focal" in line["answer"]
    assert "higher on 8 of 8 seeds" in line["answer"]
    assert line["next"].startswith("`lossbench predict --arm digits-focal FILES`; `lossbench export")
    assert "the time" not in line["answer"]  # it differs between runs
    twin = (study / ".lossbench/report/index.html").read_text()
    assert re.search(r"× 1\.5 the time and × 1\.\d the memory of cross_entropy", twin)
    assert "MB a step: what a training step keeps in memory" in twin
    recorded = Reports(study).answer("digits", study / ".lossbench").partition(".\n\nNext: ")[0]
    assert recorded.removeprefix("Train with focal") in twin  # MLflow's description says the same
    assert "the time" not in (study / "reports/index.html").read_text()


@pytest.mark.parametrize(
    ("kept", "said"), [(47_500, "0.0475"), (1_534_000_000, "1530"), (25_600_000_000, "25600"), (None, "–")]
)
def test_megabytes_are_written_without_a_power_of_ten(kept: int | None, said: str) -> None:
    one = SimpleNamespace(arms={"a": {"kept_bytes": kept}})
    assert _memory("a", "a", one)[0] == said  # type: ignore[arg-type]  # all that is read


@pytest.mark.parametrize(
    ("counts", "said"), [((1,), "1 seed"), ((6, 6), "6 seeds"), ((4, 8), "4 to 8 seeds")]
)
def test_one_seed_is_no_seeds(counts: tuple[int, ...], said: str) -> None:
    one = SimpleNamespace(arms=range(len(counts)), seeds_of=lambda arm: range(counts[arm]))
    assert _seeds_said(one) == said  # type: ignore[arg-type]  # all that is read


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("digits", 8), ("scenes", 32)])
def test_the_commands_that_the_page_prints_do_what_it_says(
    name: str, side: int, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = re.findall(r"`([^`]+)`", decided(study)["digits"]["next"].replace("digits-", f"{name}-"))
    assert len(said) == 2
    Image.fromarray(np.zeros((side, side), dtype=np.uint8)).save(study / "one.png")
    monkeypatch.chdir(study)
    for command in said:
        words = ["one.png" if word == "FILES" else word for word in shlex.split(command)]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        assert (words[1:], ended.value.code) == (words[1:], 0), capsys.readouterr().err
    assert "one.png" in capsys.readouterr().out
    assert (study / f"{name}-focal.onnx").stat().st_size > 0


def test_report_md_shows_floors_below_the_losses(study: Path) -> None:
    rows = [line for line in (report(study) / "report.md").read_text().splitlines() if "| digits |" in line]
    assert "*constant prediction*" in rows[-1]
    assert rows[-1].endswith("| – |")


@each("answered", [False, True])
@each(
    ("looks", "seeds", "said"),
    [
        ((4, 8), 4, "`lossbench look --study studies/a`: the next declared look is at 8 seeds"),
        ((4, 8), 8, "all declared looks are taken: it stays undecided at 8 seeds"),
        (
            (),
            8,
            "declare `comparison.looks` and seeds that nobody has looked at, then `lossbench run --study",
        ),
    ],
)
def test_what_is_undecided_is_told_what_may_decide_it(
    looks: tuple[int, ...], seeds: int, said: str, answered: bool, tmp_path: Path
) -> None:
    (tmp_path / "dvc.yaml").touch()
    one = SimpleNamespace(
        gallery=tmp_path / "studies/a/reports/evaluation/digits",
        loss_of=lambda arm: f"loss of {arm}",
        experiment=SimpleNamespace(),
        drawn=SimpleNamespace(info=SimpleNamespace(input_shape=())),
    )
    (tmp_path / "studies/a/dvc.yaml").parent.mkdir(parents=True)
    (tmp_path / "studies/a/dvc.yaml").touch()
    params = SimpleNamespace(comparison=SimpleNamespace(looks=looks))
    open_ones = [SimpleNamespace(contrast=SimpleNamespace(n=seeds, arm=arm)) for arm in ("b", "c")]
    groups = {"undecided": open_ones, **({"better": [None]} if answered else {})}
    with patch.object(in_a_line, "_study", lambda *_: "studies/a"):
        told = list(in_a_line._next(one, params, groups, "a"))  # type: ignore[arg-type]  # what it asks
    assert len(told) == 1 + answered
    assert told[-1].startswith(f"for loss of b and loss of c: {said}" if answered else said)


def test_the_deciding_metric_is_the_first_and_marked_and_floors_stand_in_table_and_plots(study: Path) -> None:
    html = (report(study) / "index.html").read_text()
    metrics = html.split('aria-label="All metrics of digits"')[1].split("</table>")[0]
    assert metrics.index("decides") < metrics.index("balanced accuracy")
    leaders = html.split('aria-label="Leaderboard of digits"')[1].split("</table>")[0]
    assert leaders.count('class="floor"') == 1
    assert "constant prediction" in leaders
    specs = json.loads(html.split('id="specs">')[1].split("</script>")[0])
    for chart in ("digits-forest", "digits-scores"):
        assert "constant prediction:" in json.dumps(specs[chart])
    assert '"type": "text"' in json.dumps(specs["digits-confusion"])


def test_curves_of_nobody_who_wrote_a_history_have_their_columns() -> None:
    params = SimpleNamespace(comparison=SimpleNamespace(level=0.05))
    found = curves(SimpleNamespace(params=params, evaluated={}))  # type: ignore[arg-type]  # what it asks
    assert found.empty
    assert {"experiment", "split", "metric", "epoch", "mean"} <= set(found.columns)


def test_no_brackets_stand_within_brackets(study: Path) -> None:
    """An interval that says its level in brackets of its own stood in a cell's brackets."""
    html = (report(study) / "index.html").read_text()
    small = re.findall(r"<small>(.*?)</small>", html)
    assert any(re.fullmatch(r"[−\d.]+ to [−\d.]+, [\d.]+\u00a0%", one) for one in small)
    assert not [one for one in small if "(" in one], "a narrow screen sets them in brackets"


@pytest.mark.slow
def test_an_untrained_baseline_is_named_and_not_the_losses_it_leaves_without_a_verdict(study: Path) -> None:
    file = study / "reports/evaluation/digits/scores.csv"
    table = pd.read_csv(file)
    table["value"] = 0.001 * table["seed"] + 0.9 * (table["loss"] == "focal")
    table.to_csv(file, index=False)
    for statistics in (study / "reports/evaluation/digits/statistics").glob("*.npy"):
        statistics.unlink()
    content = json.loads((report(study) / "verdicts.json").read_bytes())
    assert [one["verdict"] for one in content["verdicts"] if one["experiment"] == "digits"] == ["not trained"]
    assert "not trained: cross_entropy; so no verdict on focal" in content["answers"]["digits"]["answer"]


def test_the_charts_draw_a_ties_own_interval_and_cut_no_name() -> None:
    tie = SimpleNamespace(
        arm="focal", baseline="ce", difference=0.001, differences=(0.0, 0.002), verdict=Verdict.TIE,
        ci_low=-0.001, ci_high=0.003, shown=Interval(-0.002, 0.004),
    )  # fmt: skip
    one = SimpleNamespace(
        name="x", metric="mean_iou", experiment=SimpleNamespace(margin=0.01), loss_of=str, tables={},
        by_arm=lambda _: {"ce": np.array([0.7, 0.7])}, arms={"ce": {}, "focal": {}},
    )  # fmt: skip
    spec = charts.forest(one, [SimpleNamespace(contrast=tie, seeds=(0, 1))])
    drawn = [row for rows in spec["datasets"].values() for row in rows if "low" in row]
    assert [(row["low"], row["high"]) for row in drawn] == [(-0.002, 0.004)]
    table = pd.DataFrame(
        {"contrast": "a − b", "share of the epochs": [0.5, 1.0], "difference": 0.0, "low": 0.0, "high": 0.0}
    ).assign(verdict="tie")
    lines = json.dumps(charts.budgets(one, table))
    assert '"labelLimit": 0' in lines
    assert '"domain": [0.5, 1.0]' in lines
    assert "mean IoU" in lines
    rates = pd.DataFrame(
        {
            "loss": ["ce"],
            "learning rate": [0.1],
            "validation": [0.5],
            "metric": ["mean_iou"],
            "chosen": [True],
        }
    )
    assert "validation mean IoU" in json.dumps(charts.rates(one, rates), ensure_ascii=False)


@pytest.mark.parametrize("contrasts", ["all_pairs", "baseline"])
def test_with_all_pairs_each_loss_is_held_against_the_baseline_and_one_that_another_beats_is_not_recommended(
    study: Path,
    contrasts: str,
) -> None:
    content = tiny_params()
    content["losses"] = {
        "focal": content["losses"]["focal"],
        "cross_entropy": content["losses"]["cross_entropy"],
    }
    content["losses"]["hinge"] = {"name": "hinge"}
    content["arms"] = {
        f"digits-{loss}": {"experiment": "digits", "dataset": "digits", "loss": loss}
        for loss in content["losses"]
    }
    del content["experiments"]["scenes"]
    content["comparison"]["contrasts"] = contrasts
    content["seeds"] = list(range(12))
    write_params(study, content)
    for kind in ("models/digits", "reports/tuning"):
        for file in sorted((study / kind).glob("digits-focal*")):
            made = file.with_name(file.name.replace("focal", "hinge"))
            shutil.copytree(file, made) if file.is_dir() else shutil.copy(file, made)
    described = study / "models/digits/digits-hinge/arm.json"
    described.write_text(json.dumps({**json.loads(described.read_bytes()), "loss": "hinge"}))
    shutil.rmtree(study / "reports/evaluation/digits/statistics")
    lead = {"cross_entropy": 0.6, "focal": 0.8, "hinge": 0.7}
    rows = [
        {"arm": f"digits-{loss}", "loss": loss, "seed": seed, "metric": "accuracy", "diverged": False,
         "value": start + 0.003 * ((7 * seed) % 12) * (1 + list(lead).index(loss))}
        for loss, start in lead.items() for seed in content["seeds"]
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(study / "reports/evaluation/digits/scores.csv", index=False)
    for file in study.glob("reports/evaluation/digits/*.csv"):
        if file.stem in ("per_class", "confusion", "reliability", "calibration"):
            file.unlink()
    out = report(study)
    answer = json.loads((out / "verdicts.json").read_bytes())["answers"]["digits"]["answer"]
    if contrasts == "baseline":
        gains = [lead[loss] - lead["cross_entropy"] for loss in ("focal", "hinge")]
        found = re.match(
            r"train with focal or hinge: better than cross_entropy by (\S+) and (\S+) accuracy", answer
        )
        assert found, answer
        assert [float(one) for one in found.groups()] == pytest.approx(gains, abs=0.04)
        assert "they were not compared with one another" in answer
        return
    assert answer.startswith("train with focal: better than cross_entropy by"), answer
    assert "better too, but worse than one of these: hinge" in answer
    assert "not compared" not in answer
    verdicts = pd.read_csv(out / "verdicts.csv")
    assert list(verdicts["baseline"])[:2] == ["digits-cross_entropy"] * 2


def test_names_of_many_classes_never_lie_over_each_other(study: Path) -> None:
    read = read_study(load_params(study / "params.yaml"), study)
    drawn = draw(read, leaderboard(read), findings(read), curves(read))
    axes = [
        json.dumps(one)
        for one in re.findall(
            r'\{"axis": (\{[^}]*\}), "field": "(?:class|true|predicted)"',
            json.dumps([chart.spec for charts_ in drawn.values() for chart in charts_], sort_keys=True),
        )
    ]
    assert len(axes) > 4
    assert all("greedy" in one for one in axes)


LONG = "a_really_long_name_for_a_loss_that_somebody_tuned_by_hand"


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 390])
def test_a_long_name_widens_nothing_and_no_chart_cuts_it(width: int, study: Path) -> None:
    from playwright.sync_api import sync_playwright

    content = tiny_params()
    content["losses"][LONG] = content["losses"].pop("focal")
    content["hypotheses"]["focal_wins"]["better"] = LONG
    for arm in content["arms"].values():
        arm["loss"] = arm["loss"].replace("focal", LONG)
    write_params(study, content)
    for file in study.glob("models/*/*-focal/arm.json"):
        file.write_text(json.dumps({**json.loads(file.read_bytes()), "loss": LONG}))
    for file in study.glob("reports/evaluation/*/scores.csv"):
        pd.read_csv(file).replace({"loss": {"focal": LONG}}).to_csv(file, index=False)
    page_file = report(study) / "index.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(page_file.as_uri())
        charts = page.locator(".chart").count()
        page.wait_for_function(f"document.querySelectorAll('.chart svg').length >= {charts}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for kind in (".fits", ".chart"):
            assert page.evaluate(f"[...document.querySelectorAll('{kind}')].filter({TOO_WIDE}).length") == 0
        drawn = page.locator(".chart svg text").all_text_contents()
        assert any("somebody_tuned_by_hand" in one for one in drawn)
        assert [one for one in drawn if "…" in one] == []
        assert (page.locator(".stacked").count() == 0) == (width > 390)
        browser.close()


def test_mlflows_charts_are_drawn_with_the_report_and_hold_as_long_as_it_does(study: Path) -> None:
    params, home = load_params(study / "params.yaml"), study / ".lossbench"
    write_report(params, study, home, Store(str(home / "store")))
    for name in params.experiments:
        found = drawn.kept(name, study, home)
        assert found is not None
        assert {"charts": found["charts"], "colours": found["colours"]} == drawn.anew(params, study)(name)
        assert "<svg" in found["charts"]["scores.svg"]
    assert (home / "report", None) in list(written.private(study))  # `lossbench clean` removes it
    board = study / "reports/leaderboard.csv"
    board.write_text(board.read_text().replace("0.", "0.1", 1))
    assert [drawn.kept(name, study, home) for name in params.experiments].count(None) >= 1
    for harm in ("{", "[]", '{"a": 1}', ""):
        (home / drawn.FILE).write_text(harm)
        assert drawn.kept(next(iter(params.experiments)), study, home) is None
