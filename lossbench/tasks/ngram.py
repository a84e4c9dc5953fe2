"""N-gram models by maximum likelihood, smoothed: the floor that a neural language model must beat.

Counts and look-ups are sorted arrays, so that a million tokens take seconds; nltk's models, which are
dictionaries of Python objects, serve as the oracle in the tests.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Smoothing = Literal["kneser_ney", "add_k"]
CHUNK = 2**21
"""Probabilities (positions × tokens) that are held at once."""


@dataclass(frozen=True)
class Grams:
    """All n-grams of one order that occur, sorted.

    Attributes:
        keys: (G,) number of the first n − 1 tokens among the (n − 1)-grams, times V, plus the last token.
        counts: (G,) how often each counts: occurrences, or for Kneser–Ney's lower orders the different
            tokens that precede it.
        starts: (contexts + 1,) where each context's n-grams begin among the keys.
        total: (contexts,) sum of each context's counts.
        followers: (contexts,) how many of its n-grams count at all.
        discount: taken off every count.

    """

    keys: Array
    counts: Array
    starts: Array
    total: Array
    followers: Array
    discount: float


class NGram:
    """Interpolated Kneser–Ney or add-k estimates of the next token.

    Kneser–Ney (Kneser & Ney 1995, interpolated as in Chen & Goodman 1999), for a context h without its
    first token h′::

        p(w | h) = max(c(hw) − D, 0) / c(h) + D · N(h) / c(h) · p(w | h′)

    c counts occurrences at the highest order, below it the different tokens that precede; N(h) is the
    number of different tokens that follow; D = n₁ / (n₁ + 2 n₂) per order, n₁ and n₂ the n-grams that count
    once and twice. The recursion ends in the uniform distribution; a context never seen passes on to h′.

    Add-k (Lidstone)::

        p(w | h) = (c(hw) + k) / (c(h) + k V)

    Args:
        texts: token numbers, one array per stretch of text.
        tokens: V, of the vocabulary.
        order: n; contexts are of n − 1 tokens, shorter at a text's beginning.
        smoothing: kneser_ney or add_k.
        k: of add-k.
        discounts: D for orders 1 to n, instead of the estimates.

    Raises:
        ValueError: if there is no text, or order, k or a discount is out of range.

    """

    def __init__(
        self,
        texts: Sequence[Array],
        tokens: int,
        order: int,
        smoothing: Smoothing = "kneser_ney",
        k: float = 0.1,
        discounts: Sequence[float] | None = None,
    ) -> None:
        if order < 1 or not sum(map(len, texts)):
            raise ValueError(f"needs an order ≥ 1 and a text, found order {order} and {len(texts)} texts")
        if k <= 0 or any(not 0 <= one < 1 for one in discounts or ()):
            raise ValueError(f"k must be positive and discounts in [0, 1), found {k} and {discounts}")
        self.tokens, self.order, self.smoothing, self.k = tokens, order, smoothing, k
        self.grams = self._count(texts, discounts)

    def _count(self, texts: Sequence[Array], discounts: Sequence[float] | None) -> list[Grams]:
        stream = np.concatenate(texts).astype(np.int64)
        left = np.concatenate([np.arange(len(text)) for text in texts])
        # found[t]: number, among those of its order, of the n-gram ending at t; -1 where the text is shorter.
        found = np.zeros(len(stream), np.int64)
        counted = []
        for n in range(1, self.order + 1):
            context = np.zeros_like(stream) if n == 1 else np.concatenate([[-1], found[:-1]])
            fits = left >= n - 1
            key = np.where(fits, context * self.tokens + stream, -1)
            keys, number, occurrences = np.unique(key[fits], return_inverse=True, return_counts=True)
            shorter, found = found[fits], np.full(len(stream), -1)
            found[fits] = number
            # The (n − 1)-gram at the end of each n-gram: one more token that precedes it.
            suffix = np.empty(len(keys), np.int64)
            suffix[number] = shorter
            counted.append((keys, occurrences, suffix))
        return [self._order(n, counted, discounts) for n in range(1, self.order + 1)]

    def _order(
        self, n: int, counted: Sequence[tuple[Array, Array, Array]], discounts: Sequence[float] | None
    ) -> Grams:
        keys, counts, _ = counted[n - 1]
        if self.smoothing == "kneser_ney" and n < self.order:
            counts = np.bincount(counted[n][2], minlength=len(keys))
        contexts = 1 if n == 1 else len(counted[n - 2][0])
        context = keys // self.tokens
        total = np.bincount(context, counts, contexts)
        followers = np.bincount(context[counts > 0], minlength=contexts)
        starts = np.searchsorted(context, np.arange(contexts + 1))
        discount = _discount(counts) if discounts is None else discounts[n - 1]
        return Grams(keys, counts.astype(np.float64), starts, total, followers, discount)

    def probabilities(self, text: Array) -> Iterator[Array]:
        """Yield p(· | what precedes) of a text's tokens from the first on, (positions, V), chunk by chunk."""
        text = np.asarray(text).astype(np.int64)
        contexts = self._contexts(text)
        size = max(1, CHUNK // self.tokens)
        for start in range(0, len(text), size):
            chosen = [one[start : start + size] for one in contexts]
            yield self._add_k(chosen) if self.smoothing == "add_k" else self._kneser_ney(chosen)

    def _contexts(self, text: Array) -> list[Array]:
        """Per order n, the number of the n − 1 tokens before each position, -1 where never seen, (T,)."""
        numbers = np.zeros(len(text), np.int64)
        contexts = [numbers]
        for grams in self.grams[:-1]:
            key = np.where(numbers >= 0, numbers * self.tokens + text, -1)
            numbers = np.concatenate([[-1], _find(grams.keys, key)[:-1]])
            contexts.append(numbers)
        return contexts

    def _kneser_ney(self, contexts: Sequence[Array]) -> Array:
        p = np.full((len(contexts[0]), self.tokens), 1 / self.tokens)
        for grams, context in zip(self.grams, contexts, strict=True):
            rows = np.flatnonzero(context >= 0)
            rows = rows[grams.total[context[rows]] > 0]
            known = context[rows]
            p[rows] *= (grams.discount * grams.followers[known] / grams.total[known])[:, None]
            row, gram = _followers(grams, known)
            own = np.maximum(grams.counts[gram] - grams.discount, 0) / grams.total[known[row]]
            p[rows[row], grams.keys[gram] % self.tokens] += own
        return p

    def _add_k(self, contexts: Sequence[Array]) -> Array:
        # A context never seen, or cut short by the text's beginning, says nothing: uniform.
        p = np.full((len(contexts[0]), self.tokens), 1 / self.tokens)
        grams, context = self.grams[-1], contexts[-1]
        rows = np.flatnonzero(context >= 0)
        known = context[rows]
        counts = np.zeros((len(rows), self.tokens))
        row, gram = _followers(grams, known)
        counts[row, grams.keys[gram] % self.tokens] = grams.counts[gram]
        p[rows] = (counts + self.k) / (grams.total[known] + self.k * self.tokens)[:, None]
        return p

    def score(self, text: Array, first: int = 0) -> tuple[Array, Array]:
        """Score a text's tokens from number ``first`` on; those before it are context only.

        Returns:
            (T − first,) log2 p of each token, and whether it was the likeliest.

        """
        text = np.asarray(text).astype(np.int64)
        logs, hits, done = [], [], 0
        for p in self.probabilities(text):
            true = text[done : done + len(p)]
            logs.append(np.log2(p[np.arange(len(p)), true]))
            hits.append(p.argmax(axis=1) == true)
            done += len(p)
        return np.concatenate(logs)[first:], np.concatenate(hits)[first:]


def _find(keys: Array, wanted: Array) -> Array:
    """Place of each wanted key among sorted keys, -1 where it is none of them (no key is negative)."""
    place = np.searchsorted(keys, wanted)
    found: Array = np.where(np.append(keys, -2)[place] == wanted, place, -1)
    return found


def _discount(counts: Array) -> float:
    """n₁ / (n₁ + 2 n₂) (Ney, Essen & Kneser 1994); ½ where nothing counts once or twice."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    # All of a count taken off would leave a context with nothing of its own.
    return min(once / (once + 2 * twice), 0.95) if once + twice and once else 0.5


def _followers(grams: Grams, contexts: Array) -> tuple[Array, Array]:
    """(row, n-gram) of every n-gram of every given context: rows number the contexts."""
    starts, counts = grams.starts[contexts], np.diff(grams.starts)[contexts]
    row = np.repeat(np.arange(len(contexts)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, starts[row] + within


def stretches(inputs: Array, targets: Array) -> list[Array]:
    """Put windows (N, L) that follow one another together again; each stretch of text with its first token.

    A window that begins with the token at which the last one ended follows it.
    """
    broken = np.flatnonzero(inputs[1:, 0] != targets[:-1, -1]) + 1
    edges = [0, *broken.tolist(), len(inputs)]
    return [
        np.concatenate([inputs[start, :1], targets[start:stop].ravel()]) for start, stop in pairwise(edges)
    ]
