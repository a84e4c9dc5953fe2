"""English prose that needs no download: what scikit-learn's documentation strings say in whole sentences."""

import ast
import hashlib
import re
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution, version
from pathlib import Path

from lossbench.data.samples import Fetched
from lossbench.data.sources.base import Source, register
from lossbench.data.sources.text_file import TextOptions, cut
from lossbench.params import Dataset

PROVENANCE = {
    "name": "Prose of scikit-learn's documentation strings",
    "origin": "The scikit-learn developers; shipped by scikit-learn",
    "licence": "BSD-3-Clause",
    "version": f"scikit-learn {version('scikit-learn')}",
}
HEADING = re.compile(r"^.*\n[-=~^]{3,}\n", re.MULTILINE)
SENTENCES = re.compile(r"[A-Z][^|=<>{}\\_`*\[\]#@~^]*[.!?]")
"""A paragraph of plain sentences: no formula, table, code or mark-up."""
SHORTEST = 80
SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])")
OPENING = 32
"""Characters by which sentences are told apart: documentation says much in the same words again."""


@register
class EmbeddedText(Source[TextOptions]):
    """The prose, in windows; ``path`` is the lock that pins the package."""

    name = "embedded_text"
    options = TextOptions

    def load(self, dataset: Dataset, options: TextOptions, key: str) -> Fetched:
        """Collect the paragraphs and cut them."""
        return cut(load_prose(), options, dataset.splits, PROVENANCE, PROVENANCE["name"], key)


@cache
def load_prose() -> str:
    """Return the paragraphs of prose, one a line, in the order of their hashes.

    In the package's own order the last part, which is tested on, would be about other things than the first.
    A paragraph with a sentence that opens like one before is left out: much would stand in two parts.
    """
    root = Path(str(distribution("scikit-learn").locate_file("sklearn")))
    files = [file for file in sorted(root.rglob("*.py")) if "tests" not in file.parts]
    found = {paragraph for file in files for paragraph in paragraphs(file.read_text(encoding="utf-8"))}
    seen: set[str] = set()
    kept = []
    for paragraph in sorted(found, key=lambda one: hashlib.sha256(one.encode()).hexdigest()):
        openings = {sentence[:OPENING] for sentence in SENTENCE_END.split(paragraph)}
        if not openings & seen:
            kept.append(paragraph)
        seen |= openings
    return "\n".join(kept) + "\n"


def paragraphs(code: str) -> Iterator[str]:
    """Yield a module's paragraphs of prose: unindented ones, so no descriptions of single parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(code)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        described = HEADING.sub("", ast.get_docstring(node) or "")
        for block in re.split(r"\n\s*\n", described):
            text = " ".join(block.split())
            if not block.startswith(" ") and len(text) >= SHORTEST and SENTENCES.fullmatch(text):
                yield text
