"""Text as tokens: characters or words."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lossbench.data.samples import Array

Level = Literal["char", "word"]
UNKNOWN = "<unk>"
"""Class 0: whatever the vocabulary does not hold."""
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_|\n")
"""A word with its apostrophes, a punctuation mark, or the end of a line, which is a token of its own."""


@dataclass(frozen=True)
class Tokens:
    """A text cut into tokens.

    Attributes:
        text: the whole.
        tokens: in order.
        starts: (T,) place in the text where each begins.

    """

    text: str
    tokens: Sequence[str]
    starts: Array


def tokenize(text: str, level: Level) -> Tokens:
    """Cut a text into its characters, or into words, punctuation marks and line ends (spaces are dropped)."""
    if level == "char":
        return Tokens(text, text, np.arange(len(text)))
    found = list(WORD.finditer(text))
    return Tokens(text, [one.group() for one in found], np.array([one.start() for one in found], np.int64))


def vocabulary(tokens: Sequence[str], most: int | None) -> tuple[str, ...]:
    """``<unk>``, then the commonest tokens, ``most`` in all (None: every one); ties go by the alphabet."""
    counts = Counter(tokens)
    ranked = sorted(counts, key=lambda one: (-counts[one], one))
    return (UNKNOWN, *(ranked if most is None else ranked[: most - 1]))


def numbers(tokens: Sequence[str], classes: Sequence[str]) -> Array:
    """Number of each token in the vocabulary, (T,), in the smallest signed or byte type that holds them."""
    place = {name: index for index, name in enumerate(classes)}
    kind = np.uint8 if len(classes) <= 256 else np.int16 if len(classes) <= 2**15 else np.int32
    return np.fromiter((place.get(one, 0) for one in tokens), kind, len(tokens))
