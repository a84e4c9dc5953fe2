"""Logits and target of one call, cleaned once; what several losses need of them is computed once.

A compound hands one ``Batch`` to all its parts, so that they share one log-softmax, one gather and one mask.
Everything here runs unchanged under ``torch.compile`` and ``torch.func.vmap``: no value of a tensor is looked
at, unless ``look`` asks for it.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses import functional, fused
from lossbench.losses.functional import Overlap
from lossbench.losses.inputs import in_range, inside_transform


class Batch:
    """One call's logits ``(N, C, *spatial)`` and target, flattened to ``(N, C, L)`` and ``(N, L)``.

    Half-precision logits become float32. Positions that are ignored or weigh 0 hold logit 0 and class 0 (or
    target 0), whatever stood there, so that NaN in them reaches neither value nor gradient.

    A target is of one of three kinds: class indices (``index``); labels, one sigmoid a class (``multilabel``,
    ``labels``); or a distribution over the classes, one softmax (``mixed``, ``labels``).

    Attributes:
        logits: ``(N, C, L)``, at least float32.
        multilabel: whether each class has a sigmoid of its own.
        mixed: whether the target is a distribution over the classes.
        index: ``(N, L)`` int64, the class of each position (class indices only).
        labels: ``(N, C, L)``: labels as given, or bool for whole-number ones; or the distribution.
        valid: bool, ``(N, L)`` or, with several labels, ``(N, C, L)``; None where nothing can be ignored.
        weights: ``(N, L)``, how much each position counts; None for all alike.
        sample_weights: ``(N,)``, the same where weights were given per sample; else None.
        in_range: whether all targets were in range; looked at only with ``look``.
        plain: whether hand-written backward passes are ruled out; see ``inside_transform``.
    """

    def __init__(
        self,
        logits: Tensor,
        target: Tensor,
        ignore_index: int | None = None,
        auxiliary: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        exclusive: bool = False,
        reads_summary: bool = False,
        look: bool = False,
    ) -> None:
        self.mixed = exclusive and target.ndim == logits.ndim
        self.multilabel = target.ndim == logits.ndim and not self.mixed
        self.spatial = tuple(logits.shape[2:])
        self.samples, self.classes = logits.shape[0], logits.shape[1]
        self.auxiliary = None if auxiliary is None else _flat(auxiliary).to(logits.device)
        self.plain = inside_transform(logits, target)
        self.in_range = True
        self._summarised = reads_summary and target.ndim < logits.ndim and weights is None and not self.plain
        self._summary: fused.Summary | None = None
        self._shared = False
        self._log_probs: Tensor | None = None
        self._probs: Tensor | None = None
        self._true_log_probs: Tensor | None = None
        flat = _flat(logits)
        flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
        if self.multilabel:
            self._clean_labels(flat, _flat(target), ignore_index, look)
        elif self.mixed:
            self._clean_distribution(flat, _flat(target), ignore_index, look)
        else:
            self._clean_index(flat, target.reshape(self.samples, -1), ignore_index, look)
        self.weights: Tensor | None = None
        self.sample_weights: Tensor | None = None
        if weights is not None:
            self._weigh(weights.detach().to(self.logits))

    def _clean_index(self, logits: Tensor, target: Tensor, ignore_index: int | None, look: bool) -> None:
        target = target.long()  # before the comparison: uint8 would wrap an ignore_index of -100
        self.logits, self.index, self.valid = logits, target, None
        if ignore_index is not None:
            ignored = target == ignore_index
            self.valid = ~ignored
            self.index = target.masked_fill(ignored, 0)
            self.logits = logits.masked_fill(ignored.unsqueeze(1), 0.0)
        if look:
            self.in_range = in_range(self.index, self.classes - 1)

    def _clean_labels(self, logits: Tensor, target: Tensor, ignore_index: int | None, look: bool) -> None:
        soft = target.is_floating_point()
        self.logits, self.valid = logits, None
        if ignore_index is not None and target.dtype != torch.bool:
            target = target if soft else target.long()
            ignored = target == ignore_index
            self.valid = ~ignored
            target = target.masked_fill(ignored, 0)
            self.logits = logits.masked_fill(ignored, 0.0)
        if look:
            self.in_range = in_range(target, 1)
        self.labels = target.to(logits.dtype) if soft else target.bool()

    def _clean_distribution(
        self, logits: Tensor, target: Tensor, ignore_index: int | None, look: bool
    ) -> None:
        self.logits, self.valid = logits, None
        if ignore_index is not None:
            target = target if target.is_floating_point() else target.long()
            ignored = (target == ignore_index).all(1)
            self.valid = ~ignored
            target = target.masked_fill(ignored.unsqueeze(1), 0)
            self.logits = logits.masked_fill(ignored.unsqueeze(1), 0.0)
        if look:
            self.in_range = in_range(target, 1)
        self.labels = target.to(logits.dtype)

    def _weigh(self, weights: Tensor) -> None:
        """Keep the weights, and let a position that weighs 0 be as one that is ignored."""
        by_sample = weights.ndim == 1
        self.sample_weights = weights if by_sample else None
        self.weights = weights.reshape(self.samples, -1).expand(-1, self.logits.shape[2])
        counted = self.weights != 0
        absent = ~counted
        self.logits = self.logits.masked_fill(absent.unsqueeze(1), 0.0)
        if self.multilabel:
            counted = counted.unsqueeze(1).expand(self.logits.shape)
        if self.multilabel or self.mixed:
            self.labels = self.labels.masked_fill(absent.unsqueeze(1), 0)
        else:
            self.index = self.index.masked_fill(absent, 0)
        self.valid = counted if self.valid is None else self.valid & counted

    def share(self) -> None:
        """Say that several losses follow: probabilities are then taken from the log-probabilities."""
        self._shared = True

    def of_class(self, k: int) -> "Batch":
        """Return this batch as if every position were of class ``k``; a softmax already taken is kept."""
        other = copy.copy(self)
        other.mixed = False
        other.index = torch.full_like(self.logits[:, 0], k, dtype=torch.int64)
        other._true_log_probs = None
        return other

    @property
    def shared(self) -> bool:
        """Whether several losses read this batch."""
        return self._shared

    @property
    def soft(self) -> bool:
        """Whether the labels are numbers in [0, 1] rather than yes and no."""
        return (self.multilabel or self.mixed) and self.labels.is_floating_point()

    @property
    def hard_labels(self) -> Tensor:
        """The labels ``(N, C, L)`` as bool; soft ones count as set above 0.5."""
        return self.labels > 0.5 if self.soft else self.labels

    @property
    def dense(self) -> Tensor:
        """The target ``(N, C, L)`` in the logits' dtype, one-hot where it is class indices."""
        truth = self.labels if self.multilabel or self.mixed else self.is_true()
        return truth.to(self.logits.dtype)

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
    def element_weights(self) -> Tensor | None:
        """``weights`` in a shape that broadcasts against ``(N, C, L)``."""
        return None if self.weights is None else self.weights.unsqueeze(1)

    def weighed(self, weights: Tensor | None, ndim: int) -> Tensor | None:
        """Return a loss's own weights (of classes, say) times those of the positions.

        Args:
            weights: broadcasts against ``(N, L)`` or ``(N, C, L)``; None for equal ones.
            ndim: 2 or 3, which of the two.
        """
        own = self.weights if ndim == 2 else self.element_weights
        if own is None or weights is None:
            return weights if own is None else own
        return weights * own

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
        """Log p of the true class ``(N, L)`` (class indices only)."""
        if self._summarised:
            true = self._summarise(counts=self._shared, logs=True).true_log_probs
            return _asked(true)
        if self._true_log_probs is None:
            self._true_log_probs = self.pick(self.log_probs)
        return self._true_log_probs

    def count_weights(self, by_image: bool) -> Tensor | None:
        """Return the weights (N, L) of positions where they are counted.

        Where images are averaged afterwards, weights of samples belong to that average, not to the counts.
        """
        return None if by_image and self.sample_weights is not None else self.weights

    def overlap(self, power: int = 1, by_image: bool = False) -> Overlap:
        """Return the soft counts of each image and class, (N, C).

        Args:
            power: exponent of p and g in P and G.
            by_image: see ``count_weights``.
        """
        weights = self.count_weights(by_image)
        if self.multilabel or self.mixed:
            return functional.overlap_of_labels(self.probs, self.labels, self.elements, power, weights)
        if not self._summarised or power != 1:
            return functional.overlap_of_index(self.probs, self.index, self.valid, power, weights)
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
        return functional.pick(values, self.index)

    def of_truth(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return what the target picks of ``values`` (N, C, L), one a class: (N, L) (not for several labels).

        Where the target is a distribution over the classes, the mean under it, in which ``weights`` (C,)
        weigh the classes: times ``weights_of_truth(weights)`` it is Σ t w v.
        """
        if not self.mixed:
            return self.pick(values)
        if weights is None:
            return (self.labels * values).sum(1)
        return functional.masked_average(values, self.labels * weights.view(1, -1, 1), dim=1)

    def weights_of_truth(self, weights: Tensor) -> Tensor:
        """Return of ``weights`` (C,) that of each position's class, or their mean under its distribution."""
        return (self.labels * weights.view(1, -1, 1)).sum(1) if self.mixed else weights[self.index]

    def is_true(self) -> Tensor:
        """The labels ``(N, C, L)`` as bool, for the losses that cannot do without: a byte an entry."""
        if self.multilabel or self.mixed:
            return self.hard_labels
        return functional.is_class(self.index, self.classes)

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
