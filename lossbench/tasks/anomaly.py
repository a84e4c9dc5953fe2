"""Anomaly detection: an autoencoder learns normal images; what it reconstructs badly is an anomaly."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lossbench.data.dataset import Dataset, full_scale
from lossbench.errors import UserError
from lossbench.tasks.base import Array, Metric, Scores, Shown, Task, register
from lossbench.tasks.ranking import auroc, average_precision

MOST_NEIGHBOURS = 10_000
"""Training images that the nearest-neighbour floor compares with: evenly spaced ones beyond."""
COMPONENTS = 16
"""Of the principal-component floor."""
CHUNK = 512
NUMBERS = 2**26
"""Floats of training images that are held for the floors, at most: fewer images where they are large."""


@register
class Anomaly(Task):
    """Images with a target of 0 (normal) or 1 (anomaly); outputs (N, C, H, W), logits of intensities.

    The compared loss sees outputs and the image's intensities in [0, 1] as soft labels. The score of an
    image is the mean squared error of its reconstruction sigmoid(outputs), whatever the loss.

    A digest is (N, 1 + C·H·W): the score, then the reconstruction.
    """

    name = "anomaly"
    kinds = ("anomaly",)
    metrics = (Metric("auroc"), Metric("aupr"), Metric("reconstruction_mse", higher_is_better=False))
    monitor = "similarity"
    multilabel = True

    @property
    def outputs(self) -> int:
        """Channels of the image."""
        return self.info.input_shape[0]

    @property
    def positions(self) -> int:
        """Pixels of the training split, per channel."""
        return self.info.sizes["train"] * int(np.prod(self.info.input_shape[1:]))

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Summed intensity per channel."""
        return tuple(round(mean * self.positions) for mean in self.info.mean)

    def intensities(self, inputs: Tensor) -> Tensor:
        """Undo the normalisation: (N, C, H, W) in [0, 1]."""
        mean, std = self._normalisation(inputs.device)
        return (inputs * std + mean).clamp(0, 1)

    def loss_target(self, targets: Tensor) -> Tensor:
        """Refuse losses that prepare maps of the targets: here these are the inputs themselves."""
        raise UserError(
            "'loss' needs maps computed once from the targets, but task 'anomaly' reconstructs its augmented "
            "inputs; allowed: losses that need no such maps"
        )

    def check_targets(self, targets: Tensor) -> None:
        """Refuse targets other than normal: nothing else is trained on."""
        if bool((targets != 0).any()):
            raise ValueError("training and validation hold anomalies; expected normal samples alone")

    def objective(
        self, loss: nn.Module, outputs: Tensor, targets: Tensor, inputs: Tensor, **auxiliary: Tensor
    ) -> Tensor:
        """Show reconstruction and image to the loss."""
        del targets
        value: Tensor = loss(outputs, self.intensities(inputs), **auxiliary)
        return value

    def digest(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        """Mean squared error per image, then the reconstruction."""
        error = self.score_digest(outputs, targets, inputs)
        return torch.cat([error, outputs.sigmoid().flatten(1)], dim=1)

    def score_digest(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        """Mean squared error per image, (N, 1): a split's reconstructions would be as large as its floats."""
        del targets
        difference = outputs.sigmoid() - self.intensities(inputs)
        return difference.square().flatten(1).mean(1, keepdim=True)

    def validate(self, digests: Tensor, targets: Tensor) -> dict[str, float]:
        """1 − mean squared error of normal images: anomalies must not choose anything."""
        normal = digests[targets == 0, 0].double().mean().item()
        return {"similarity": 1 - normal, "reconstruction_mse": normal}

    def score(self, digests: Array, targets: Array) -> Scores:
        """AUROC, average precision, and the error of normal images."""
        scores, abnormal = digests[:, 0].astype(np.float64), targets == 1
        return Scores(
            metrics={
                "auroc": _or_chance(auroc(scores, abnormal), 0.5),
                "aupr": _or_chance(average_precision(scores, abnormal), 0.0),
                "reconstruction_mse": float(scores[~abnormal].mean()),
            }
        )

    def decide(self, digests: Array) -> Array:
        """Reconstructions, (N, C, H, W)."""
        rebuilt: Array = digests[:, 1:].reshape(len(digests), *self.info.input_shape)
        return rebuilt

    def majority_digests(self, targets: Array) -> Array:
        """Equal scores, and the mean image's grey."""
        mean = np.repeat(np.asarray(self.info.mean), int(np.prod(self.info.input_shape[1:])))
        one = np.concatenate([[1.0], mean])
        return np.broadcast_to(one, (len(targets), len(one)))

    def disagreement(self, decisions: Sequence[Array]) -> Array:
        """Largest mean distance between two reconstructions."""
        stacked = np.stack(decisions)
        spread: Array = (
            (stacked.max(axis=0) - stacked.min(axis=0)).reshape(len(decisions[0]), -1).mean(axis=1)
        )
        return spread

    def show_target(self, target: Array, inputs: Array) -> Shown:
        """Whether it is normal."""
        del inputs
        return Shown(None, self.info.classes[int(target)])

    def show_decision(self, decision: Array, target: Array, inputs: Array) -> Shown:
        """Reconstruction, and beside it where it errs."""
        del target
        image = inputs / full_scale(inputs.dtype)
        error = np.abs(decision - image).mean(axis=0, keepdims=True).repeat(len(decision), axis=0)
        both = np.concatenate([decision, error], axis=-1)
        pixels = np.rint(both.clip(0, 1) * 255).astype(np.uint8)
        shown = pixels[0] if len(pixels) < 3 else np.moveaxis(pixels[:3], 0, -1)
        return Shown(shown, f"reconstruction and error, MSE {np.square(decision - image).mean():.4f}")

    def floors(self, data: Dataset) -> dict[str, dict[str, float]]:
        """A constant, distance to the nearest normal image, and reconstruction from principal components."""
        train, test = data.split("train"), data.split("test")
        each = max(1, int(np.prod(self.info.input_shape)))
        most = min(MOST_NEIGHBOURS, len(train), max(COMPONENTS, NUMBERS // each))
        rows = np.linspace(0, len(train) - 1, most).astype(np.int64)
        known, abnormal = _flat(np.asarray(train.inputs[rows])), np.asarray(test.targets) == 1
        mean, axes = _principal_axes(known)
        nearest, left = [], []
        step = max(1, min(CHUNK, NUMBERS // (4 * each)))
        for start in range(0, len(test), step):
            asked = _flat(np.asarray(test.inputs[start : start + step]))
            nearest.append(torch.cdist(asked, known).min(dim=1).values)
            away = asked - mean
            left.append((away - away @ axes @ axes.T).square().mean(dim=1))
        scored = {
            "nearest neighbour": torch.cat(nearest).double().numpy(),
            f"{COMPONENTS} principal components": torch.cat(left).double().numpy(),
        }
        found = super().floors(data)
        for name, scores in scored.items():
            found[name] = {"auroc": auroc(scores, abnormal), "aupr": average_precision(scores, abnormal)}
        return found


def _or_chance(value: float, chance: float) -> float:
    """A split without anomalies, or without normal images, ranks nothing."""
    return chance if np.isnan(value) else value


def _flat(images: Array) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / full_scale(images.dtype))


def _principal_axes(known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and principal components (D, K) of images (N, D).

    From the smaller of two matrices: D × D, or N × N where there are fewer images than pixels.
    """
    mean = known.mean(dim=0)
    centred = known - mean
    if len(known) >= known.shape[1]:
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        return mean, vectors[:, -min(COMPONENTS, len(vectors)) :]
    squares, weights = torch.linalg.eigh(centred @ centred.T)
    # What images equal to others add is rounding, not a direction.
    rounding = torch.finfo(squares.dtype).eps
    real = squares > len(known) * rounding * torch.maximum(squares.max(), rounding * known.square().sum())
    chosen = torch.nonzero(real).flatten()[-COMPONENTS:]
    return mean, centred.T @ weights[:, chosen] / squares[chosen].sqrt()
