"""The pages: their blocks, what is said of each, and following a page word for word in a checkout."""

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from conftest import ROOT
from ruamel.yaml import YAML

LINE = re.compile(r"# (?P<file>\S+\.py), a line of (?P<table>[A-Z_]+)")
FENCE = re.compile(
    r"^(?: *<!-- block: (?P<mark>[^\n]*) -->\n)?(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
"""A fenced block, and the comment right above it that says who runs it, or why nobody does."""
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "plugins/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    mark: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text[: one.start("indent")].count("\n") + 1,
            one["language"],
            one["mark"] or "",
            dedent(one["text"]),
        )
        for one in FENCE.finditer(text)
    ]


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a page in one language."""
    return [one.text for one in blocks_of(page) if one.language == language]


def follow(page: str, checkout: Path) -> None:
    """Write the files that a page shows, and add the lines that it adds to others."""
    for block in blocks(ROOT / page, "python"):
        first, rest = block.split("\n", 1)
        if found := LINE.fullmatch(first):
            file = checkout / found["file"]
            text = file.read_text()
            table, condition = f"{found['table']} = {{\n", f"if {found['table']}:\n"
            begins = table if table in text else condition
            head, tail = text.split(begins, 1)
            file.write_text(f"{head}{begins}{rest}{tail}")
        else:
            (checkout / first.removeprefix("# ")).write_text(block)


def shown_params(page: str) -> dict[str, Any]:
    """What a page adds to params.yaml first."""
    content: dict[str, Any] = YAML(typ="safe").load(blocks(ROOT / page, "yaml")[0])
    return content
