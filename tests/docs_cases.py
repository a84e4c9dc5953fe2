"""Following a page of docs/ word for word, in a checkout."""

import re
from pathlib import Path
from typing import Any

from conftest import ROOT
from ruamel.yaml import YAML

LINE = re.compile(r"# (?P<file>\S+\.py), a line of MODULES")


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a page."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def follow(page: str, checkout: Path) -> None:
    """Write the files that a page shows, and add the lines that it adds to others."""
    for block in blocks(ROOT / page, "python"):
        first, rest = block.split("\n", 1)
        if found := LINE.fullmatch(first):
            file = checkout / found["file"]
            head, tail = file.read_text().split("MODULES = {\n", 1)
            file.write_text(f"{head}MODULES = {{\n{rest}{tail}")
        else:
            (checkout / first.removeprefix("# ")).write_text(block)


def shown_params(page: str) -> dict[str, Any]:
    """What a page adds to params.yaml first."""
    content: dict[str, Any] = YAML(typ="safe").load(blocks(ROOT / page, "yaml")[0])
    return content
