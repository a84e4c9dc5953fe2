"""A user's own text, cut into windows that a language model learns from.

The text stays in order: its first part trains, then come validation, test and, at the end, reference.
No window, and no token that a window predicts, reaches over the border of two parts, and the vocabulary
is the training part's.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from lossbench.data.samples import Array, Fetched, Samples
from lossbench.data.sources.base import Options, Source, register
from lossbench.data.sources.listing import user_path
from lossbench.data.text import Level, Tokens, numbers, tokenize, vocabulary
from lossbench.errors import UserError
from lossbench.params import Dataset, Splits

PROVENANCE = {"name": "the user's own text", "licence": "the user's own"}
WORDS = 10_000
"""Vocabulary of words where params do not say."""
LENGTHS: Mapping[Level, int] = {"char": 128, "word": 35}
LOOKED_AT_FIRST = 2**16
"""Bytes that betray a binary file, before all of it is read."""


class TextOptions(Options):
    """How a text becomes windows of tokens.

    ``vocabulary`` counts ``<unk>``, which stands for every token beyond it; without it all characters, or
    the 10 000 commonest words, of the training part are kept. ``length`` is the window's, in tokens.
    """

    level: Level = "char"
    vocabulary: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    length: Annotated[int, Field(ge=2, le=65_536)] | None = None
    lower: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Lengths and vocabularies follow from the level where they are not given."""
        if not isinstance(given, dict) or given.get("level", "char") not in LENGTHS:
            return given
        level: Level = given.get("level", "char")
        defaults = {"length": LENGTHS[level]} | ({"vocabulary": WORDS} if level == "word" else {})
        return defaults | {key: value for key, value in given.items() if value is not None}

    @property
    def window(self) -> int:
        """Tokens per window."""
        return self.length or LENGTHS[self.level]


@register
class TextFile(Source[TextOptions]):
    """``path``: a file of UTF-8 text."""

    name = "text_file"
    options = TextOptions

    def check(self, dataset: Dataset, key: str) -> TextOptions:
        """Check the options, and that the file is there."""
        options = super().check(dataset, key)
        existing_file(dataset.path, key)
        return options

    def load(self, dataset: Dataset, options: TextOptions, key: str) -> Fetched:
        """Read the text and cut it."""
        file = existing_file(dataset.path, key)
        content = read_bytes(file)
        provenance = {**PROVENANCE, "file_sha256": hashlib.sha256(content).hexdigest()}
        return cut(decode(content, str(file)), options, dataset.splits, provenance, str(file), key)


def existing_file(path: str, key: str) -> Path:
    """Return the user's file.

    Raises:
        UserError: naming the key, if it is missing or a folder.

    """
    file = user_path(path, key)
    if not file.exists():
        raise UserError(f"'{key}.path' is '{path}': no such file; name a file of UTF-8 text")
    if not file.is_file():
        raise UserError(f"'{key}.path' is '{path}', which is no file; name a file of UTF-8 text")
    return file


def read_bytes(file: Path) -> bytes:
    """Read a file, unless its beginning shows that it is none of text.

    Raises:
        UserError: if it cannot be read, is empty or binary.

    """
    try:
        with file.open("rb") as stream:
            content = stream.read(LOOKED_AT_FIRST)
            if b"\0" not in content:
                content += stream.read()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    if not content.strip():
        raise UserError(f"{file}: empty; expected UTF-8 text")
    where = content.find(b"\0")
    if where >= 0:
        raise UserError(
            f"{file}, row {_row(content, where)}: a NUL byte at offset {where}, as binary files (a video, an "
            "image) and UTF-16 have; expected UTF-8 text"
        )
    return content


def decode(content: bytes, name: str) -> str:
    """Decode UTF-8 (a byte-order mark is dropped); every line ends in a line feed.

    Raises:
        UserError: naming the row and the offset of the first byte that is no UTF-8.

    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}, row {_row(content, error.start)}: byte 0x{content[error.start]:02x} at offset "
            f"{error.start} is not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _row(content: bytes, offset: int) -> int:
    return content.count(b"\n", 0, offset) + 1


def cut(
    text: str, options: TextOptions, splits: Splits, provenance: Mapping[str, Any], name: str, key: str
) -> Fetched:
    """Cut a text into parts, the parts into windows.

    Args:
        text: the whole.
        options: level, vocabulary, length of windows.
        splits: shares of the parts; what they leave over trains.
        provenance: of the text.
        name: of the text, for messages.
        key: the dataset's path in params.yaml.

    Raises:
        UserError: if a part that training needs is shorter than one window and the token after it.

    """
    tokens = tokenize(text.lower() if options.lower else text, options.level)
    borders = _borders(len(tokens.tokens), splits)
    trained_on = tokens.tokens[slice(*borders["train"])]
    classes = vocabulary(trained_on, options.vocabulary)
    every = numbers(tokens.tokens, classes)
    for split, (start, stop) in borders.items():
        if stop - start < options.window + 1 and split != "reference":
            raise UserError(
                f"{name}: {len(every)} {options.level}s, of which the {split} split gets {stop - start}; "
                f"windows of {options.window} need {options.window + 1} or more: add text, lower "
                f"'{key}.length' or change '{key}.splits'"
            )
    per_token = _characters(tokens, borders["train"]) / len(trained_on)
    return Fetched(
        "tokens",
        classes,
        {split: _windows(every, border, options.window, tokens) for split, border in borders.items()},
        provenance,
        extra={
            "level": options.level,
            "vocabulary": len(classes),
            "length": options.window,
            "lower": options.lower,
            "characters_per_token": round(per_token, 9),
        },
    )


def _borders(count: int, splits: Splits) -> dict[str, tuple[int, int]]:
    """Split → (first token, first of the next): in the order of the text."""
    held_out = {"validation": splits.validation, "test": splits.test, "reference": splits.reference}
    edges = np.cumsum([1 - sum(held_out.values()), *held_out.values()])
    places = [0, *(round(float(edge) * count) for edge in edges)]
    return {split: (places[i], places[i + 1]) for i, split in enumerate(("train", *held_out))}


def _characters(tokens: Tokens, border: tuple[int, int]) -> int:
    """Count the characters that a part's tokens span, spaces included."""
    start, stop = border
    ends = [*tokens.starts[stop : stop + 1], len(tokens.text)]
    return int(ends[0]) - int(tokens.starts[start])


def _windows(every: Array, border: tuple[int, int], length: int, tokens: Tokens) -> Samples:
    """All whole windows of a part, side by side; each predicts the token after each of its tokens."""
    start, stop = border
    count = max(0, (stop - start - 1) // length)
    inputs = every[start : start + count * length].reshape(count, length)
    targets = every[start + 1 : start + 1 + count * length].reshape(count, length)
    firsts = start + length * np.arange(count)
    ends = np.flatnonzero(np.frombuffer(tokens.text.encode("utf-32-le"), np.uint32) == ord("\n"))
    rows = 1 + np.searchsorted(ends, tokens.starts[firsts])
    names = [f"token-{first:09d}" for first in firsts]
    return Samples(inputs, targets, names, {"row": [int(row) for row in rows]})
