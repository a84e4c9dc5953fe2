"""A Lightning script that trains with the loss it is told, by torch's own name for it."""

import argparse
import json
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

LOSSES = {"cross_entropy": functional.cross_entropy, "multi_margin": functional.multi_margin_loss}


class Classifier(lightning.LightningModule):
    def __init__(self, loss: str, lr: float) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.loss, self.lr = LOSSES[loss], lr

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        return self.loss(self.model(images), labels)

    def test_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.model(images).argmax(1) == labels).double().mean())

    validation_step = test_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def read(folder: Path) -> TensorDataset:
    images = torch.from_numpy(np.load(folder / "inputs.npy")).float() / 255
    return TensorDataset(images, torch.from_numpy(np.load(folder / "targets.npy")).long())


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in (
        ("loss", str),
        ("lr", float),
        ("seed", int),
        ("epochs", int),
        ("data", Path),
        ("out", Path),
    ):
        parser.add_argument(f"--{name}", type=kind, required=True)
    chosen = parser.parse_args()
    lightning.seed_everything(chosen.seed)
    trainer = lightning.Trainer(
        max_epochs=chosen.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=chosen.out,
    )  # fmt: skip
    model = Classifier(chosen.loss, chosen.lr)
    trainer.fit(model, DataLoader(read(chosen.data / "train"), batch_size=64, shuffle=True))
    scores = {}
    for split in ("validation", "test"):
        [found] = trainer.test(model, DataLoader(read(chosen.data / split), batch_size=10_000), verbose=False)
        scores[split] = {"accuracy": found["accuracy"]}
    (chosen.out / "metrics.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
