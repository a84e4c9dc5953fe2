"""scikit-learn's SGDClassifier with the loss that it is told: hinge, log or modified Huber."""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import SGDClassifier


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images = np.load(folder / "inputs.npy")
    return images.reshape(len(images), -1) / 255, np.load(folder / "targets.npy")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loss", choices=["hinge", "log_loss", "modified_huber"], required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    model = SGDClassifier(loss=chosen.loss, max_iter=chosen.epochs, tol=None, random_state=chosen.seed)
    model.fit(*read(chosen.data / "train"))
    scores = {
        split: {"accuracy": model.score(*read(chosen.data / split))} for split in ("validation", "test")
    }
    (chosen.out / "metrics.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
