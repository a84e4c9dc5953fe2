"""The addresses that `make ui` prints, in a real browser (Debian's chromium, headless)."""

import os
import shutil
from pathlib import Path

import pytest

from lossbench.tracking.server import connect
from lossbench.tracking.track import track
from lossbench.tracking.ui import addresses, mlflow_server
from tests.test_tracking_ship import role, runs_of
from tests.tracking_study import EPOCHS, train, write_report, write_study

CHROMIUM = "/usr/bin/chromium"
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOSSES = ("cross_entropy", "dice", "focal", "hinge")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, empty_store):
    root = tmp_path_factory.mktemp("study")
    params = write_study(root, losses=LOSSES, seeds=3)
    for arm in params.arms:
        train(root, params, arm)
    write_report(root, params)
    shutil.copy(empty_store, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        track(params, root)
        with mlflow_server(f"sqlite:///{root / 'mlflow.db'}", root / "server.log", port=0) as base:
            (pages,) = addresses(connect(root), params, root, base)
            yield root, base, pages


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, recorded):
    """A page that must ask nothing of anyone but the server."""
    _, base, _ = recorded
    tab = browser.new_page(viewport={"width": 1800, "height": 1000})
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    yield tab
    tab.close()
    assert [url for url in asked if not url.startswith((base, "data:", "blob:"))] == []


@pytest.fixture
def keep(tmp_path):
    """Keep a screenshot, in LOSSBENCH_SCREENSHOTS where it is set."""
    folder = Path(os.environ.get("LOSSBENCH_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def save(tab, name):
        tab.screenshot(path=folder / f"mlflow-{name}.png")
        assert (folder / f"mlflow-{name}.png").stat().st_size > 10_000

    return save


def test_the_table_shows_the_current_arms_sorted_by_the_test_metric(page, recorded, keep):
    _, _, pages = recorded
    page.goto(pages.table)
    page.get_by_text("4 matching runs").wait_for()
    page.get_by_role("link", name="toy-hinge").wait_for()
    tops = [page.get_by_role("link", name=f"toy-{loss}").bounding_box()["y"] for loss in LOSSES]
    assert tops == sorted(tops)  # the scores fall in the order of LOSSES
    keep(page, "table")


def test_score_verdict_and_rank_stand_whole_beside_the_assistants_open_panel(page, recorded, keep):
    _, _, pages = recorded
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.goto(pages.table)
    page.get_by_text("4 matching runs").wait_for()
    panel = page.get_by_text("MLflow Assistant").first.bounding_box()["x"]
    ends = []
    for column in ("score", "verdict", "rank"):
        box = page.get_by_role("columnheader", name=column, exact=True).first.bounding_box()
        ends.append(box["x"] + box["width"])
    assert ends == sorted(ends)
    assert ends[-1] <= panel
    for said in ("0.900 (0.880 to 0.920)", "baseline", "0.800 (0.780 to 0.820)"):
        cell = page.get_by_text(said, exact=True).first
        assert cell.evaluate("one => one.scrollWidth <= one.clientWidth || one.clientWidth === 0"), said
        cut = "one => { const cell = one.closest('.ag-cell'); return cell.scrollWidth > cell.clientWidth; }"
        assert not cell.evaluate(cut), said
    keep(page, "table-1400")


def test_the_chart_mode_draws_the_test_metric(page, recorded, keep):
    _, _, pages = recorded
    page.goto(pages.charts)
    page.get_by_text("test/accuracy", exact=True).first.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    keep(page, "charts")


def test_compare_shows_the_four_parents_side_by_side(page, recorded, keep):
    _, _, pages = recorded
    page.goto(pages.compare)
    page.get_by_text("Comparing 4 Runs from 1 Experiment").wait_for()
    page.get_by_text("Parallel Coordinates Plot").wait_for()
    page.locator(".js-plotly-plot .parcoords").first.wait_for(state="attached")
    assert page.locator(".js-plotly-plot").get_by_text("test/accuracy").first.is_visible()
    assert page.locator(".js-plotly-plot").get_by_text("loss_parameters").count() == 0
    for loss in LOSSES:
        assert page.get_by_text(f"toy-{loss}", exact=True).first.is_visible()
    keep(page, "compare")


def test_a_child_shows_its_curve(page, recorded, keep):
    root, base, _ = recorded
    child = role(runs_of(root), "replicate")[0]
    page.goto(f"{base}/#/experiments/{child.info.experiment_id}/runs/{child.info.run_id}/model-metrics")
    curve = page.locator(".js-plotly-plot").filter(has=page.locator(".scatterlayer .point")).first
    curve.scroll_into_view_if_needed()
    assert curve.locator(".scatterlayer .point").count() >= EPOCHS
    keep(page, "child")


def test_a_parent_reads_as_a_sentence(page, recorded, keep):
    root, base, _ = recorded
    parent = next(run for run in role(runs_of(root), "arm") if run.data.tags["loss"] == "focal")
    page.goto(f"{base}/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}")
    page.get_by_text("toy-focal seed 2").first.wait_for()
    page.get_by_text("Test accuracy:").first.wait_for()
    keep(page, "parent")
    page.get_by_test_id("show-comment-toggle").click()
    with page.context.expect_page() as opened:  # in a tab of its own
        page.get_by_text("Learning curves of seed").get_by_role("link", name="0").click()
    opened.value.wait_for_url("**/model-metrics")
    opened.value.locator(".js-plotly-plot .scatterlayer .point").first.wait_for(state="attached")
