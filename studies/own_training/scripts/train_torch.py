"""A training script as people have them: plain PyTorch, its own network, its own loop.

Its arguments and the last function are all that Lossbench asks of it.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loss", required=True)
    parser.add_argument("--smoothing", type=float, default=0.0)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """Images (N, values) in 0..1 and labels (N,) of one split."""
    images = np.load(folder / "inputs.npy").astype(np.float32) / 255
    return torch.from_numpy(images).flatten(1), torch.from_numpy(np.load(folder / "targets.npy")).long()


def objective(chosen: argparse.Namespace, logits: Tensor, labels: Tensor) -> Tensor:
    if chosen.loss == "squared":
        return functional.mse_loss(logits.softmax(1), functional.one_hot(labels, logits.shape[1]).float())
    return functional.cross_entropy(logits, labels, label_smoothing=chosen.smoothing)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    logits = model(images)
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    return {"accuracy": accuracy, "nll": functional.cross_entropy(logits, labels).item()}


def main() -> None:
    chosen = arguments()
    torch.manual_seed(chosen.seed)
    torch.set_num_threads(chosen.threads)
    splits = {name: read(chosen.data / name) for name in ("train", "validation", "test")}
    images, labels = splits["train"]
    classes = int(labels.max()) + 1
    model = nn.Sequential(nn.Linear(images.shape[1], 32), nn.ReLU(), nn.Linear(32, classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=chosen.lr)
    history = []
    for epoch in range(1, chosen.epochs + 1):
        total = 0.0
        for batch in torch.randperm(len(images)).split(64):
            loss = objective(chosen, model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        history.append((epoch, "train", "loss", total / len(images)))
        accuracy = evaluate(model, *splits["validation"])["accuracy"]
        history.append((epoch, "validation", "accuracy", accuracy))
    write(chosen.out, model, splits, history)


def write(out: Path, model: nn.Module, splits: dict[str, tuple[Tensor, Tensor]], history: list) -> None:
    """What Lossbench reads: metrics.json, and history.csv for the learning curves."""
    images, labels = splits["test"]
    with torch.no_grad():
        correct = (model(images).argmax(1) == labels).double()
    commonest = splits["train"][1].mode().values
    metrics = {
        "test": evaluate(model, images, labels),
        "validation": evaluate(model, *splits["validation"]),
        "floors": {"constant prediction": {"accuracy": (labels == commonest).double().mean().item()}},
        "per_example": {"accuracy": correct.tolist()},
    }
    (out / "metrics.json").write_text(json.dumps(metrics))
    with (out / "history.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("epoch", "split", "metric", "value"), *history])


if __name__ == "__main__":
    main()
