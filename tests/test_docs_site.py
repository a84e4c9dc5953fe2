"""The website of the docs, as far as it goes without Sphinx: links, anchors, notebooks, what a page asks of others."""

import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from docs_cases import PAGES
from law_cases import each

SPEC = importlib.util.spec_from_file_location("make_site", ROOT / "docs/make_site.py")
assert SPEC is not None
assert SPEC.loader is not None
site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site)

MORE = [ROOT / "CHANGELOG.md", ROOT / "CODE_OF_CONDUCT.md", ROOT / "reports/report.md"]
LINKS = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)#([^)\s]+)\)")


def prose(page: Path) -> str:
    return str(site.FENCED.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts and the site make them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@each("page", [*PAGES, *MORE])
def test_anchors_that_pages_link_to_are_there(page: Path) -> None:
    missing = []
    for file, anchor in LINKS.findall(prose(page)):
        target = page.parent / file if file else page
        if target.suffix == ".md" and anchor not in anchors(target):
            missing.append(f"{file}#{anchor}")
    assert missing == []


@each("page", site.pages())
def test_a_page_is_laid_out_with_all_that_it_links_to(page: Path, tmp_path: Path) -> None:
    text = site.staged(page, tmp_path)
    for found in site.LINK.finditer(site.FENCED.sub("", text)):
        target = Path(found["path"])
        there = (ROOT / page.parent / target).resolve().relative_to(ROOT)
        assert there in site.pages() or (tmp_path / there).is_file() or target.suffix == ".md"


def test_a_link_that_leads_nowhere_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text("[a](nowhere.md)\n")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"page\.md: nowhere\.md leads nowhere"):
        site.staged(Path("page.md"), tmp_path / "out")


def test_every_page_stands_in_the_sites_index() -> None:
    index = (site.SETTINGS / "index.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^[\w/-]+$", index, re.MULTILINE))
    assert [one for one in named if not (ROOT / f"{one}.md").is_file()] == []
    outside = {str(one.with_suffix("")) for one in site.pages() if one.parent != Path("docs")}
    assert outside <= named  # those of docs/ that it does not name come last


def test_a_notebook_that_was_run_becomes_a_page(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {
            "cell_type": "code",
            "source": ["1 + 1"],
            "outputs": [
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
                {
                    "output_type": "display_data",
                    "data": {"image/png": "aGFsbG8=", "text/plain": ["<Figure>"]},
                },
                {
                    "output_type": "display_data",
                    "data": {"text/html": ["<script src='https://x'></script>"], "text/plain": ["chart"]},
                },
                {"output_type": "stream", "text": ["said\n"]},
            ],
        },
    ]
    text = site.notebook({"cells": cells}, "tutorial", tmp_path)
    assert text.startswith("# Title\nwords\n\n```python\n1 + 1\n```\n\n```text\n2\n```")
    assert "![what the cell above draws](tutorial-1-1.png)" in text
    assert (tmp_path / "tutorial-1-1.png").read_bytes() == b"hallo"
    assert "https" not in text
    assert text.endswith("```text\nchart\n```\n\n```text\nsaid\n```\n")


@each(
    ("text", "asks"),
    [
        ('<script src="https://cdn.example/x.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', True),
        ("@import url(https://fonts.example/x.css)", True),
        ('<a href="https://example.org">a link that a reader may follow</a>', False),
        ('<link rel="license" href="https://example.org">', False),
        ('<script src="_static/x.js"></script>', False),
    ],
)
def test_what_has_a_browser_ask_another_server_is_told(text: str, asks: bool, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(text)
    assert site.askers(tmp_path) == (["page.html"] if asks else [])
