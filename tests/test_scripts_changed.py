"""A stranger's training script becomes a comparison with at most ten lines: shown on two of the usual shapes.

The scripts are our own, in the shape of pytorch/examples' mnist and of Lightning's image classifier: an argument for
most things, a loss that is written in, and a score that is printed.
"""

import json
from difflib import unified_diff
from pathlib import Path

import pytest
from conftest import train_study, write_params

from lossbench.params import load_params
from lossbench.reporting.write import write_report

TORCH = """
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, 1)
        self.fc = nn.Linear(72, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.fc(torch.flatten(x, 1))


def train(args, model, loader, optimizer, epoch):
    model.train()
    for data, target in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data), target)
        loss.backward()
        optimizer.step()
    print(f"Train Epoch: {epoch} Loss: {loss.item():.6f}")


def test(model, loader):
    model.eval()
    correct = 0
    with torch.no_grad():
        for data, target in loader:
            correct += (model(data).argmax(1) == target).sum().item()
    print(f"Test set: Accuracy: {correct}/{len(loader.dataset)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    digits = load_digits()
    images = torch.from_numpy(digits.images[:, None] / 16).float()
    labels = torch.from_numpy(digits.target)
    train_loader = DataLoader(TensorDataset(images[:400], labels[:400]), batch_size=args.batch_size, shuffle=True)
    test_loader = DataLoader(TensorDataset(images[400:800], labels[400:800]), batch_size=100)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.9)
    for epoch in range(1, args.epochs + 1):
        train(args, model, train_loader, optimizer, epoch)
        test(model, test_loader)
        scheduler.step()


if __name__ == "__main__":
    main()
"""
OF_TORCH = [
    ("import argparse\n", "import argparse\nimport json\n"),
    ("class Net(", 'LOSSES = {"cross_entropy": F.cross_entropy, "multi_margin": F.multi_margin_loss}\n\nclass Net('),
    ("F.cross_entropy(model(data), target)", "LOSSES[args.loss](model(data), target)"),
    ("{len(loader.dataset)}\")\n", "{len(loader.dataset)}\")\n    return correct / len(loader.dataset)\n"),
    ("    args = parser", '    parser.add_argument("--loss", choices=LOSSES)\n    parser.add_argument("--out")\n    args = parser'),
    ("        test(model,", "        accuracy = test(model,"),
    ("        scheduler.step()\n",
     '        scheduler.step()\n    with open(f"{args.out}/metrics.json", "w") as file:\n'
     '        json.dump({"test": {"accuracy": accuracy}}, file)\n'),
]  # fmt: skip
LIGHTNING = """
import sys
import lightning
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Classifier(lightning.LightningModule):
    def __init__(self, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.layers(x), y)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_loss", F.cross_entropy(self.layers(x), y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


def main(seed=1234, epochs=5):
    lightning.seed_everything(seed)
    digits = load_digits()
    data = TensorDataset(torch.from_numpy(digits.images[:, None] / 16).float(), torch.from_numpy(digits.target))
    train, test = (torch.utils.data.Subset(data, part) for part in (range(400), range(400, 800)))
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False)
    model = Classifier()
    trainer.fit(model, DataLoader(train, batch_size=32, shuffle=True))
    trainer.test(model, DataLoader(test, batch_size=100))


if __name__ == "__main__":
    main()
"""
OF_LIGHTNING = [
    ("import sys\n", "import json\nimport sys\n"),
    ("def __init__(self, lr=0.01)", "def __init__(self, loss, lr=0.01)"),
    ("return F.cross_entropy(self.layers(x), y)", "return getattr(F, self.hparams.loss)(self.layers(x), y)"),
    ('self.log("test_loss", F.cross_entropy(self.layers(x), y))\n',
     'self.log("test_loss", F.cross_entropy(self.layers(x), y))\n'
     '        self.log("accuracy", (self.layers(x).argmax(1) == y).float().mean())\n'),
    ("def main(seed=1234, epochs=5):", "def main(loss, seed, epochs, out):"),
    ("model = Classifier()", "model = Classifier(loss)"),
    ("    trainer.test(model,", "    [scores] = trainer.test(model,"),
    ("batch_size=100))\n\n\nif", 'batch_size=100))\n    with open(f"{out}/metrics.json", "w") as file:\n'
     '        json.dump({"test": {"accuracy": scores["accuracy"]}}, file)\n\n\nif'),
    ("    main()\n", "    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])\n"),
]  # fmt: skip
CALLS = {
    "torch": ["--loss", "{loss}", "--seed", "{seed}", "--epochs", "{epochs}", "--lr", "{learning_rate}", "--out", "{out}"],
    "lightning": ["{loss}", "{seed}", "{epochs}", "{out}"],
}  # fmt: skip
SCRIPTS = {"torch": (TORCH, OF_TORCH), "lightning": (LIGHTNING, OF_LIGHTNING)}
MOST = 10


def changed(name: str) -> str:
    """The script with its lines changed."""
    text, changes = SCRIPTS[name]
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def content(name: str, losses: list[str]) -> dict[str, object]:
    rate = 0.01
    return {
        "root": ".",
        "code": "scripts",
        "datasets": {"digits": {"source": "digits", "path": "requirements.lock"}},
        "experiments": {
            "mine": {
                "task": "command", "command": ["python", "scripts/train.py", *CALLS[name]], "metrics": {"accuracy": "higher"},
                "dataset": "digits", "recipe": {"epochs": 2, "optimizer": {"learning_rate": rate}},
                "metric": "accuracy", "margin": 0.01,
            }
        },
        "losses": {loss: {} for loss in losses},
        "arms": {f"mine-{loss}": {"experiment": "mine", "dataset": "digits", "loss": loss} for loss in losses},
        "seeds": [0, 1],
        "compute": {"device": "cpu"},
        "tuning": {"trials": 0},
        "comparison": {"baseline": losses[0]},
    }  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_ten_lines_are_enough(name: str) -> None:
    lines = unified_diff(SCRIPTS[name][0].splitlines(), changed(name).splitlines(), n=0, lineterm="")
    added = [
        line for line in lines if line.startswith("+") and not line.startswith("+++") and line[1:].strip()
    ]
    assert len(added) <= MOST


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "losses"),
    [("torch", ["cross_entropy", "multi_margin"]), ("lightning", ["cross_entropy", "multi_margin_loss"])],
)
def test_the_changed_script_is_compared(name: str, losses: list[str], tmp_path: Path) -> None:
    study = tmp_path / "s"
    (study / "scripts").mkdir(parents=True)
    (study / "scripts/train.py").write_text(changed(name))
    write_params(study, content(name, losses))
    train_study(study, content(name, losses))
    write_report(load_params(study / "params.yaml"), study, study / ".lossbench")
    [verdict] = json.loads((study / "reports/verdicts.json").read_bytes())["verdicts"]
    assert verdict["verdict"] in ("better", "worse", "tie", "undecided", "not trained")
