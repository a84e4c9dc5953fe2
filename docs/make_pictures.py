"""Draws README's pictures: `python docs/make_pictures.py [reports]` after `make repro` (needs chromium).

docs/img/page.png is the top of reports/index.html as a browser shows it, docs/img/pipeline.svg the chain of
dvc.yaml, and the badges say what reports/metrics.json and verdicts.json say.
"""

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "img"
CHROMIUM = "/usr/bin/chromium"
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
STAGES = (
    ("check", "params and code", "what each stage runs"),
    ("fetch", "per dataset", "arrays, checksums"),
    ("validate", "per dataset", "expectations met?"),
    ("train", "per arm", "search, then every seed"),
    ("evaluate", "per experiment", "the same metrics for all"),
    ("report", "once", "verdicts, the page"),
)
"""Name, how often, and what comes of it."""
BOX, GAP, HEIGHT = 132, 28, 190
MOST_BYTES = 200_000
CHARACTER = 6.6
"""Pixels of a character at 11 px, on average."""


def pipeline() -> str:
    """Draw the stages from left to right, the store and MLflow below them."""
    width = len(STAGES) * BOX + (len(STAGES) - 1) * GAP + 20
    parts = []
    for at, (name, often, made) in enumerate(STAGES):
        left = 10 + at * (BOX + GAP)
        parts += [
            f'<rect x="{left}" y="14" width="{BOX}" height="72" rx="8" fill="#eef3f8" stroke="#0a5c99"/>',
            _text(left + BOX / 2, 38, name, "font-weight='700' font-size='14'"),
            _text(left + BOX / 2, 57, often),
            _text(left + BOX / 2, 74, made),
        ]
        if at:
            parts.append(
                f'<path d="M{left - GAP + 2} 50H{left - 5}" stroke="#5c6370" marker-end="url(#to)"/>'
            )
    for start, stop, name, said in (
        (3, 4, "store", "each replicate once, by the hash of all that made it"),
        (5, 5, "MLflow", "every run, the answer"),
    ):
        left, right = 10 + start * (BOX + GAP), 10 + stop * (BOX + GAP) + BOX
        parts += [
            f'<rect x="{left}" y="124" width="{right - left}" height="52" rx="8" fill="#f1f8f4" '
            'stroke="#00704f"/>',
            _text((left + right) / 2, 146, name, "font-weight='700' font-size='13'"),
            _text((left + right) / 2, 164, said),
        ]
        parts += [
            f'<path d="M{10 + at * (BOX + GAP) + BOX / 2:g} 88V119" stroke="#5c6370" marker-end="url(#to)"/>'
            for at in range(start, stop + 1)
        ]
    parts.append(_text(10 + 1.5 * (BOX + GAP), 146, "DVC hashes every arrow: dvc repro reruns"))
    parts.append(_text(10 + 1.5 * (BOX + GAP), 162, "what a change reaches, and nothing else"))
    arrow = (
        '<defs><marker id="to" markerWidth="7" markerHeight="7" refX="4" refY="3.5" orient="auto">'
        '<path d="M0 0L7 3.5L0 7z" fill="#5c6370"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#1b1d21" role="img" '
        'aria-label="check, fetch, validate, train, evaluate, report; a store of replicates; MLflow">'
        f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>{arrow}{"".join(parts)}</svg>\n'
    )


def _text(x: float, y: float, said: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" {style}>{escape(said)}</text>'


def badges(metrics: dict[str, Any], answers: dict[str, Any]) -> dict[str, str]:
    """Draw a badge per experiment: the loss to train with, and its score."""
    made = {}
    for name, of_loss in metrics.items():
        best = _best(of_loss, answers.get(name, {}), name)
        metric, value = next(item for item in of_loss[best].items() if not item[0].startswith("ci_"))
        made[name] = _badge(f"{name} {metric.replace('_', ' ')}", f"{best.replace('_', ' ')} {value:.3f}")
    return made


def _best(of_loss: dict[str, Any], line: dict[str, Any], experiment: str) -> str:
    """Find the loss that the answer recommends, by the end of its arm's name; else the first."""
    arms = line.get("arms", [])
    found = [loss for loss in of_loss if arms and arms[0].endswith(f"-{loss}")]
    return max(found, key=len) if found else next(iter(of_loss))


def _badge(label: str, said: str) -> str:
    left, right = (round(CHARACTER * len(text)) + 14 for text in (label, said))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{escape(f"{label}: {said}")}" font-family="Verdana, sans-serif" font-size="11" '
        'fill="#fff">'
        f'<rect width="{left + right}" height="20" rx="3" fill="#00704f"/>'
        f'<path d="M3 0H{left}V20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#444"/>'
        f"{_text(left / 2, 14, label)}{_text(left + right / 2, 14, said)}</svg>\n"
    )


def photograph(page: Path, to: Path) -> None:
    """Take the top of the page, answers and the first experiment's table, at 1200 px."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        tab = browser.new_page(viewport={"width": 1200, "height": 1000}, color_scheme="light")
        tab.set_default_timeout(300_000)
        tab.goto(page.resolve().as_uri())
        for between in ("verdicts", "claims"):
            tab.evaluate("name => document.getElementById(name)?.remove()", between)
        tab.wait_for_selector(".chart svg")
        tab.screenshot(path=to, clip={"x": 60, "y": 0, "width": 1080, "height": 1000})
        browser.close()
    if to.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{to}: {to.stat().st_size} bytes, more than {MOST_BYTES}")


def main() -> None:
    """Draw them all."""
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "pipeline.svg").write_text(pipeline(), encoding="utf-8")
    reports = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "reports"
    metrics, verdicts = (
        json.loads((reports / f"{name}.json").read_bytes()) for name in ("metrics", "verdicts")
    )
    for name, svg in badges(metrics, verdicts["answers"]).items():
        (IMAGES / f"badge-{name}.svg").write_text(svg, encoding="utf-8")
    photograph(reports / "index.html", IMAGES / "page.png")


if __name__ == "__main__":
    main()
