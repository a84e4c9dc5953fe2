"""Logits and target of one call, cleaned once; what several losses need of them is computed once.

A compound hands one ``Batch`` to all its parts, so that they share one log-softmax, one gather and one mask.
Everything here runs unchanged under ``torch.compile`` and ``torch.func.vmap``: no value of a tensor is looked
at.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses import functional, fused
from lossbench.losses.functional import Overlap
from lossbench.losses.inputs import inside_transform


class Batch:
    """One call's logits ``(N, C, *spatial)`` and target, flattened to ``(N, C, L)`` and ``(N, L)``.

    Half-precision logits become float32. Ignored positions hold logit 0 and class 0 (or target 0), whatever
    stood there, so that NaN in them reaches neither value nor gradient.

    Attributes:
        logits: ``(N, C, L)``, at least float32.
        index: ``(N, L)`` int64, the class of each position (single-label only).
        labels: ``(N, C, L)`` as given, or bool for whole-number labels (multi-label only).
        valid: bool, ``(N, L)`` or, with several labels, ``(N, C, L)``; None where nothing can be ignored.
        plain: whether hand-written backward passes are ruled out: compiled, under torch.func, captured.
    """

    def __init__(
        self,
        logits: Tensor,
        target: Tensor,
        ignore_index: int | None = None,
        auxiliary: Tensor | None = None,
        summarised: bool = False,
    ) -> None:
        self.multilabel = target.ndim == logits.ndim
        self.spatial = tuple(logits.shape[2:])
        self.samples, self.classes = logits.shape[0], logits.shape[1]
        self.auxiliary = None if auxiliary is None else _flat(auxiliary).to(logits.device)
        self.plain = inside_transform(logits, target)
        self._summarised = summarised and not self.multilabel and not self.plain
        self._summary: fused.Summary | None = None
        self._shared = False
        self._log_probs: Tensor | None = None
        self._probs: Tensor | None = None
        self._true_log_probs: Tensor | None = None
        flat = _flat(logits)
        flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
        if self.multilabel:
            self._clean_labels(flat, _flat(target), ignore_index)
        else:
            self._clean_index(flat, target.reshape(self.samples, -1), ignore_index)

    def _clean_index(self, logits: Tensor, target: Tensor, ignore_index: int | None) -> None:
        target = target.long()  # before the comparison: uint8 would wrap an ignore_index of -100
        self.logits, self.index, self.valid = logits, target, None
        if ignore_index is not None:
            ignored = target == ignore_index
            self.valid = ~ignored
            self.index = target.masked_fill(ignored, 0)
            self.logits = logits.masked_fill(ignored.unsqueeze(1), 0.0)

    def _clean_labels(self, logits: Tensor, target: Tensor, ignore_index: int | None) -> None:
        soft = target.is_floating_point()
        self.logits, self.valid = logits, None
        if ignore_index is not None and target.dtype != torch.bool:
            target = target if soft else target.long()
            ignored = target == ignore_index
            self.valid = ~ignored
            target = target.masked_fill(ignored, 0)
            self.logits = logits.masked_fill(ignored, 0.0)
        self.labels = target.to(logits.dtype) if soft else target.bool()

    def share(self) -> None:
        """Say that several losses follow: probabilities are then taken from the log-probabilities."""
        self._shared = True

    @property
    def shared(self) -> bool:
        """Whether several losses read this batch."""
        return self._shared

    @property
    def soft(self) -> bool:
        """Whether the labels are numbers in [0, 1] rather than yes and no."""
        return self.multilabel and self.labels.is_floating_point()

    @property
    def hard_labels(self) -> Tensor:
        """The labels ``(N, C, L)`` as bool; soft ones count as set above 0.5."""
        return self.labels > 0.5 if self.soft else self.labels

    @property
    def positions(self) -> Tensor | None:
        """Which of the ``(N, L)`` positions count: those with at least one label that is not ignored."""
        return self.valid.any(1) if self.multilabel and self.valid is not None else self.valid

    @property
    def elements(self) -> Tensor | None:
        """``valid`` in a shape that broadcasts against ``(N, C, L)``."""
        return self.valid.unsqueeze(1) if self.valid is not None and not self.multilabel else self.valid

    @property
    def everywhere(self) -> Tensor | None:
        """``valid`` in the full shape ``(N, C, L)``."""
        return None if self.elements is None else self.elements.expand(self.logits.shape)

    @property
    def log_probs(self) -> Tensor:
        """Log-probabilities ``(N, C, L)``.

        Log-softmax over the classes, or log-sigmoid with several labels.
        """
        if self._log_probs is None:
            self._log_probs = F.logsigmoid(self.logits) if self.multilabel else self.logits.log_softmax(1)
        return self._log_probs

    @property
    def probs(self) -> Tensor:
        """Probabilities ``(N, C, L)``: softmax over the classes, or sigmoid with several labels."""
        if self._probs is None:
            if self.multilabel:
                self._probs = self.logits.sigmoid()
            elif self._shared or self._log_probs is not None:
                self._probs = self.log_probs.exp()
            else:
                self._probs = self.logits.softmax(1)
        return self._probs

    @property
    def true_log_probs(self) -> Tensor:
        """Log p of the true class ``(N, L)`` (single-label only)."""
        if self._summarised:
            true = self._summarise(counts=self._shared, logs=True).true_log_probs
            return _asked(true)
        if self._true_log_probs is None:
            self._true_log_probs = self.pick(self.log_probs)
        return self._true_log_probs

    def overlap(self, power: int = 1) -> Overlap:
        """Return the soft counts of each image and class, (N, C)."""
        if self.multilabel:
            return functional.overlap_of_labels(self.probs, self.labels, self.valid, power)
        if not self._summarised:
            return functional.overlap_of_index(self.probs, self.index, self.valid, power)
        found = self._summarise(counts=True, logs=self._shared)
        both, predicted = _asked(found.both), _asked(found.predicted)
        true, positions = functional.true_counts(self.index, self.valid, both)
        return Overlap(both, predicted, true, positions)

    def _summarise(self, counts: bool, logs: bool) -> fused.Summary:
        """Return the summary of the softmax, computed once for all parts of a sum."""
        found = self._summary
        if found is None or (counts and found.both is None) or (logs and found.true_log_probs is None):
            self._summary = found = fused.summary(self.logits, self.index, self.valid, counts, logs)
        return found

    def pick(self, values: Tensor) -> Tensor:
        """Take from ``values`` (N, C, L) the entry of each position's class: (N, L)."""
        return values.gather(1, self.index.unsqueeze(1)).squeeze(1)

    def is_true(self) -> Tensor:
        """The labels ``(N, C, L)`` as bool, for the losses that cannot do without: a byte an entry."""
        if self.multilabel:
            return self.hard_labels
        classes = torch.arange(self.classes, device=self.index.device)
        return self.index.unsqueeze(1) == classes.view(1, -1, 1)

    def unflatten(self, values: Tensor) -> Tensor:
        """Give ``(N, C, L)`` or ``(N, L)`` its spatial shape back."""
        return values.reshape(*values.shape[:-1], *self.spatial)


def _flat(values: Tensor) -> Tensor:
    """(N, C, *spatial) → (N, C, L); (N, C) → (N, C, 1)."""
    return values.unsqueeze(2) if values.ndim == 2 else values.flatten(2)


def _asked(value: Tensor | None) -> Tensor:
    if value is None:
        raise AssertionError("the summary holds what was asked for")
    return value
