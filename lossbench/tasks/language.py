"""Language modelling: the next token at every position of a window."""

import copy
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lossbench.data.dataset import Dataset
from lossbench.options import Options
from lossbench.tasks.base import Array, Metric, Scores, Shown, Task, register
from lossbench.tasks.ngram import NGram, stretches

TEMPERATURES = tuple(math.exp(step / 2) for step in range(-10, 11))
"""Among which validation data choose; an odd number, with 1 in the middle."""
AT_ONCE = 2**24
"""Scores that are held twice at a time."""
MOST_BITS = 1000.0
"""Bits per token beyond which a perplexity is no number any more."""
ORDERS = {"char": 5, "word": 3}
"""Of the n-gram floor where params do not say."""
NO_SPACE_BEFORE = re.compile(r" (?=[.,;:!?)\]\n]|$)")
NO_SPACE_AFTER = re.compile(r"(?<=[(\[\n]) ")


class LanguageOptions(Options):
    """The floor's order, and what is generated: ``generate`` tokens, ``creativity`` times as random."""

    ngram: Annotated[int, Field(ge=1, le=12)] | None = None
    generate: Annotated[int, Field(ge=0, le=10_000)] = 240
    creativity: Annotated[float, Field(gt=0, le=10)] = 0.8


@register
class LanguageModel(Task):
    """The next token; outputs (N, V, L), targets (N, L): the inputs moved on by one.

    Scores of hinge or squared error are no log-probabilities until a link is fitted. Every arm's are divided
    by one temperature, that of the likeliest validation data (:meth:`adapted`), before they are scored.

    A digest is (N, L, 1 + K): the likeliest token, and log p of the true one at K temperatures.
    """

    name = "language_model"
    kinds = ("tokens",)
    metrics = (
        Metric("perplexity", higher_is_better=False),
        Metric("bits_per_character", higher_is_better=False, unit="bits"),
        Metric("top1"),
    )
    monitor = "log2_likelihood"
    validated = ("top1",)
    adapts: ClassVar[bool] = True
    option_model: ClassVar[type[Options]] = LanguageOptions
    temperatures: tuple[float, ...] = TEMPERATURES

    @property
    def outputs(self) -> int:
        """One per token of the vocabulary."""
        return len(self.info.classes)

    @property
    def class_counts(self) -> tuple[int, ...]:
        """At least 1 each: ``<unk>`` may never occur in training, and losses divide by counts."""
        return tuple(max(1, count) for count in self.info.counts)

    def encode_inputs(self, inputs: Tensor) -> Tensor:
        """Token numbers, for an embedding."""
        return inputs.long()

    def digest(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        """Likeliest token and log p of the true one, (N, L, 1 + K): a fraction of the scores' memory."""
        del inputs
        size = max(1, AT_ONCE // outputs[0].numel())
        parts = zip(torch.split(outputs, size), torch.split(targets, size), strict=True)
        return torch.cat([self._digest(scores, true) for scores, true in parts])

    def _digest(self, scores: Tensor, true: Tensor) -> Tensor:
        top = scores.amax(1, keepdim=True)
        below = scores - top
        of_true = below.gather(1, true.unsqueeze(1)).squeeze(1)
        logs = [of_true / t - (below / t).exp().sum(1).log() for t in self.temperatures]
        return torch.stack([scores.argmax(1).float(), *logs], dim=-1)

    def adapted(self, digests: Array, targets: Array) -> "LanguageModel":
        """Fit the temperature on a replicate's validation digests: the task that scores this replicate.

        The same one-number link for every arm, as :mod:`lossbench.statistics.calibration` fits it.
        """
        del targets
        fitted = copy.copy(self)
        fitted.temperatures = (best_temperature(_mean_bits(torch.from_numpy(digests)), self.temperatures)[0],)
        return fitted

    @property
    def temperature(self) -> float:
        """The fitted one; 1 before the fit."""
        return self.temperatures[len(self.temperatures) // 2]

    def validate(self, digests: Tensor, targets: Tensor) -> dict[str, float]:
        """Perplexity, top-1 and mean log2-likelihood of a split, at the temperature that suits it best."""
        bits = best_temperature(_mean_bits(digests), self.temperatures)[1]
        hits = (digests[..., 0] == targets).double().mean().item()
        return {"log2_likelihood": -bits, "perplexity": float(2.0 ** min(bits, MOST_BITS)), "top1": hits}

    def score(self, digests: Array, targets: Array) -> Scores:
        """All metrics over the split's tokens; statistics are sums per window."""
        column = 1 + (digests.shape[-1] - 1) // 2
        bits = -digests[..., column].astype(np.float64) / math.log(2)
        hits = (digests[..., 0] == targets).astype(np.float64)
        sums = np.stack([bits.sum(1), hits.sum(1), np.full(len(bits), float(bits.shape[1]))], axis=1)
        names = [metric.name for metric in self.metrics]
        total = sums.sum(axis=0)
        return Scores(
            metrics={name: float(self.from_statistics(name, total)) for name in names},
            statistics=dict.fromkeys(names, sums),
        )

    def from_statistics(self, metric: str, total: Array) -> Array:
        """Each metric from (bits, hits, tokens)."""
        bits, hits, tokens = total[..., 0], total[..., 1], total[..., 2]
        if metric == "perplexity":
            return np.asarray(2.0 ** np.minimum(bits / tokens, MOST_BITS))
        if metric == "bits_per_character":
            return np.asarray(bits / tokens / self.info.extra["characters_per_token"])
        if metric == "top1":
            return np.asarray(hits / tokens)
        return super().from_statistics(metric, total)

    def decide(self, digests: Array) -> Array:
        """The likeliest token at every position, (N, L)."""
        return digests[..., 0].astype(np.int32)

    def majority_digests(self, targets: Array) -> Array:
        """The tokens' frequencies in training, whatever precedes."""
        counts = np.array(self.class_counts, np.float64)
        logs = np.log(counts / counts.sum())[targets.astype(np.int64)]
        likeliest = np.full(targets.shape, float(counts.argmax()))
        return np.stack([likeliest, *[logs] * len(self.temperatures)], axis=-1)

    def floors(self, data: Dataset) -> dict[str, dict[str, float]]:
        """N-gram models of the training split; they see all of the test split that precedes a token."""
        order = self.options.ngram or ORDERS[self.info.extra["level"]]
        train, test = data.split("train"), data.split("test")
        known = stretches(np.asarray(train.inputs), np.asarray(train.targets))
        wanted = stretches(np.asarray(test.inputs), np.asarray(test.targets))
        models = {
            "unigram (add-1)": NGram(known, self.outputs, 1, "add_k", k=1.0),
            "bigram (add-0.1)": NGram(known, self.outputs, 2, "add_k", k=0.1),
            f"{order}-gram (Kneser–Ney)": NGram(known, self.outputs, order),
        }
        return super().floors(data) | {name: self._floor(model, wanted) for name, model in models.items()}

    def _floor(self, model: NGram, texts: list[Array]) -> dict[str, float]:
        scored = [model.score(text, first=1) for text in texts]
        total = np.array(
            [
                -sum(logs.sum() for logs, _ in scored),
                sum(hits.sum() for _, hits in scored),
                sum(len(hits) for _, hits in scored),
            ]
        )
        return {metric.name: float(self.from_statistics(metric.name, total)) for metric in self.metrics}

    def generate(self, forward: Callable[[Tensor], Tensor], seed: int) -> list[str]:
        """Sample one text, token by token, at the fitted temperature times ``creativity``."""
        if not self.options.generate:
            return []
        random = torch.Generator().manual_seed(seed)
        said = [self._first_token()]
        for _ in range(self.options.generate):
            seen = torch.tensor([said[-self.info.extra["length"] :]])
            scores = forward(seen)[0, :, -1].double().cpu()
            p = (scores / (self.temperature * self.options.creativity)).softmax(0)
            said.append(int(torch.multinomial(p, 1, generator=random)))
        return [self.text(np.array(said[1:]))]

    def _first_token(self) -> int:
        """A line's end, after which a new one begins; else the commonest token."""
        known = self.info.classes
        return known.index("\n") if "\n" in known else int(np.argmax(self.info.counts))

    def text(self, tokens: Array) -> str:
        """Write token numbers as text."""
        return join([self.info.classes[int(one)] for one in tokens], self.info.extra["level"])

    def _shown(self, tokens: Array) -> str:
        return self.text(tokens).replace("\n", "⏎")

    def show_input(self, inputs: Array) -> Shown:
        """The window's text."""
        return Shown(None, self._shown(inputs))

    def show_target(self, target: Array, inputs: Array) -> Shown:
        """The text moved on by one token."""
        del inputs
        return Shown(None, self._shown(target))

    def show_decision(self, decision: Array, target: Array, inputs: Array) -> Shown:
        """The likeliest token at every position, given the true ones before it."""
        del inputs
        right = float((decision == target).mean())
        return Shown(None, f"{right:.0%} right: {self._shown(decision)}")


def best_temperature(bits: Tensor, temperatures: tuple[float, ...]) -> tuple[float, float]:
    """Find where bits are least, between the temperatures too.

    Args:
        bits: (K,) mean bits per token at each.
        temperatures: K, evenly spaced in their logarithms.

    Returns:
        the temperature, and the bits there, by the parabola through the least and its neighbours; 1 and NaN
        if the bits are not finite.

    """
    least = int(bits.argmin())
    if not torch.isfinite(bits).all():
        return 1.0, math.nan
    if not 0 < least < len(temperatures) - 1:
        return temperatures[least], float(bits[least])
    before, at, after = bits[least - 1 : least + 2].tolist()
    slope, bend = (after - before) / 2, before - 2 * at + after
    step = -slope / bend if bend > 0 else 0.0
    spacing = math.log(temperatures[1] / temperatures[0])
    return temperatures[least] * math.exp(step * spacing), at + slope * step + bend * step**2 / 2


def _mean_bits(digests: Tensor) -> Tensor:
    """(K,) mean bits per token at each temperature."""
    return -digests[..., 1:].double().flatten(0, -2).mean(0).cpu() / math.log(2)


def join(tokens: Sequence[str], level: str) -> str:
    """Write tokens as text again; between words the spaces are guessed."""
    if level == "char":
        return "".join(tokens)
    return NO_SPACE_AFTER.sub("", NO_SPACE_BEFORE.sub("", " ".join(tokens)))
