"""What we say and set where there is a GPU, on the stand-in: printed as JSON, one process for all of it.

Its arguments are a folder to work in, and "advice" for that alone.
"""

import io
import json
import os
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from cases import NETWORKS, plain

from benchmarks.synthetic import setting, synthetic
from lossbench import trial
from lossbench.data.dataset import Dataset
from lossbench.errors import GateError, UserError
from lossbench.execution.identity import machine
from lossbench.params import Experiment, parse_params
from lossbench.plugins import use_code
from lossbench.recipe import Compute
from lossbench.tasks import task_class
from lossbench.training.determinism import deterministic
from lossbench.training.faults import of_the_device
from lossbench.trial import loss, model


def without_numbers() -> None:
    """Leave out what the trial looks at numbers for: the stand-in computes none."""
    for module, name in ((model, "refuse_nan"), (model, "try_again"), (loss, "try_own")):
        setattr(module, name, lambda *_: None)


def switches() -> dict[str, str]:
    """What decides how float32 is computed."""
    return {
        "matmul": torch.backends.cuda.matmul.fp32_precision,
        "convolutions": torch.backends.cudnn.conv.fp32_precision,
        "recurrent": torch.backends.cudnn.rnn.fp32_precision,
        "benchmark": str(torch.backends.cudnn.benchmark),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
    }


def precisions() -> dict[str, Any]:
    """The switches in training, for each precision, and before and after."""
    torch.backends.cudnn.benchmark = True
    found: dict[str, Any] = {"before": switches()}
    for precision in ("fp32", "tf32", "bf16"):
        with deterministic(Compute(device="cuda", precision=precision)):  # type: ignore[arg-type]  # one of them
            found[precision] = switches()
    return {**found, "after": switches(), "workspace": os.environ["CUBLAS_WORKSPACE_CONFIG"]}


def try_network(data: Dataset, network: dict[str, Any]) -> str:
    """What the trial of check says of a network on the GPU; nothing where it fits."""
    task = task_class({"label": "classification", "tokens": "language_model"}[data.info.kind])(data.info)
    chosen = Experiment.model_validate(
        {
            "task": task.name, "dataset": "d", "model": network, "metric": "accuracy", "margin": 0.1,
            "recipe": {"epochs": 1, "batch_size": 4},
        }
    )  # fmt: skip
    samples = task.encode_inputs(torch.from_numpy(data.split("train").inputs[:2].copy()))
    try:
        trial.try_model(
            trial.Trial("params.yaml: experiment 'one'", chosen, task, samples, Compute(device="cuda"))
        )
    except (UserError, GateError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def trials(folder: Path) -> dict[str, str]:
    """A network that fits, one whose pooling has no deterministic backward, and a recurrent one."""
    images = synthetic(folder / "i", "label", (3, 64, 64), 4, validation=2)
    tokens = synthetic(folder / "t", "tokens", (12,), 4, validation=2)
    found = {
        "fits": try_network(images, NETWORKS["label"]),
        "alexnet": try_network(images, {"name": "torchvision", "architecture": "alexnet"}),
    }
    with torch.backends.cudnn.flags(enabled=False):  # the stand-in has none for these
        found["recurrent"] = try_network(tokens, NETWORKS["tokens"])
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
        found["recurrent with its workspace"] = try_network(tokens, NETWORKS["tokens"])
    return found


OWN = """
import torch
from torch import nn
from torch.nn import functional as F


class Waiting(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.linear = nn.Linear(input_shape[0], outputs)

    def forward(self, images):
        scale = images.abs().max().item()  # line 13
        return self.linear(images.mean((2, 3)) / (1 + scale))


class Plain(Waiting):
    def __init__(self, input_shape, outputs):
        super().__init__(input_shape, outputs)
        self.ones = torch.ones(input_shape[0])  # no buffer

    def forward(self, images):
        return self.linear(images.mean((2, 3)) * self.ones)


class Making(Waiting):
    def forward(self, images):
        return self.linear(images.mean((2, 3)) * torch.ones(3))


def item(logits, target):
    return F.cross_entropy(logits, target) * float(logits.sum() == 0)  # line 32


def boolean(logits, target):
    return logits[logits >= 0].sum()  # line 36


def one_argument(logits, target):
    return logits[torch.where(target >= 0)[0]].sum()  # line 40


def constant(logits, target):
    return (logits * torch.tensor([1.0] * logits.shape[1], device=logits.device)).sum()  # line 44


def fits(logits, target):
    return F.cross_entropy(logits, target)


def switching(logits, target):
    torch.backends.cudnn.benchmark = True
    return logits.sum()


class Switching(Waiting):
    def __init__(self, input_shape, outputs):
        super().__init__(input_shape, outputs)
        torch.use_deterministic_algorithms(False)


FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


class Large(Waiting):
    def _apply(self, *given):
        raise torch.OutOfMemoryError(FULL)


class Short(Waiting):
    def forward(self, images):
        if len(images) == 1 and self.training:
            raise torch.OutOfMemoryError(FULL)
        return self.linear(images.mean((2, 3)))


def draws(inputs, targets, generator):
    return inputs * torch.rand(1, generator=generator, device=inputs.device), targets


def draws_elsewhere(inputs, targets, generator):
    return inputs * torch.rand(1, generator=generator), targets


def on_the_host(inputs, targets, generator):
    return torch.from_numpy(inputs.numpy()), targets


def looks_up(inputs, targets, generator):
    return inputs * inputs.max().item(), targets  # line 90
"""


AUGMENTATIONS = ("draws", "draws_elsewhere", "on_the_host", "looks_up")


def advice(folder: Path) -> dict[str, str]:
    """What the trial says of own code that waits for the device, of our own, and of a population's members."""
    code = folder / "code"
    code.mkdir()
    (code / "mine.py").write_text(OWN)
    use_code(code)
    data = synthetic(folder / "w", "label", (3, 32, 32), 4, test=2, validation=2)
    losses = {one: {"name": f"mine:{one}"} for one in ("item", "boolean", "one_argument", "constant", "fits")}
    told = {}
    for name, network, engine, spec in (
        *((name, NETWORKS["label"], "loop", spec) for name, spec in losses.items()),
        *(
            (name, {"name": f"mine:{name}"}, "loop", losses["fits"])
            for name in ("Waiting", "Plain", "Making")
        ),
        *(
            (name, {"name": f"mine:{name}"}, "loop", losses["fits"])
            for name in ("Switching", "Large", "Short")
        ),
        ("switching", NETWORKS["label"], "loop", {"name": "mine:switching"}),
        *((name, NETWORKS["label"], "loop", losses["fits"]) for name in AUGMENTATIONS),
        ("small", NETWORKS["label"], "population", losses["fits"]),
        ("large", {"name": "resnet", "depth": 18, "width": 64}, "population", losses["fits"]),
    ):
        experiment = {
            "task": "classification", "dataset": "d", "model": network, "metric": "accuracy", "margin": 0.1,
            "recipe": {"epochs": 1, "batch_size": 3 if name == "Short" else 128, "drop_last": False},
        }  # fmt: skip
        if name in AUGMENTATIONS:
            experiment["recipe"]["augmentation"] = {"own": f"mine:{name}"}  # type: ignore[index]  # a dict
        params = parse_params(
            {
                "datasets": {"d": {"source": "cifar10", "path": "originals"}},
                "experiments": {"one": experiment},
                "losses": {"tried": spec},
                "arms": {"one-tried": {"experiment": "one", "dataset": "d", "loss": "tried"}},
                "compute": {"device": "cuda", "engine": engine, "graphs": name == "item"},
                "seeds": [0],
                "tuning": {"trials": 0},
                "comparison": {"baseline": "tried"},
                "hypotheses": {},
            }
        )
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                trial.try_experiment("one", params, data)
        except (GateError, UserError) as error:
            said.write(f"error: {error}")
        told[name] = said.getvalue()
    return told


def memory() -> str:
    """What is said when torch asks for more memory than there is."""
    try:
        torch.empty(2**46, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError as error:
        return str(of_the_device(error, "the training of 'one'"))
    return ""


def half(folder: Path) -> str:
    """The type in which a recurrent layer computes behind bf16."""
    data = synthetic(folder / "h", "tokens", (12,), 4, validation=2)
    made = setting(data, NETWORKS["tokens"], "cuda", plain("tokens"), precision="bf16")
    seen: list[torch.dtype] = []
    with torch.backends.cudnn.flags(enabled=False), torch.autocast("cuda", torch.bfloat16):
        model = made.model_of(0)
        inner = model.layers[0]  # type: ignore[index]  # a list of them
        inner.register_forward_hook(lambda _, __, out: seen.append(out[0].dtype))
        model(made.train.take(torch.arange(2)).inputs)
    return str(seen[0])


def main(folder: str, part: str = "") -> None:
    where = Path(folder)
    without_numbers()
    if part == "advice":  # by itself, for its memory is to be zeroed
        print(json.dumps(advice(where)))
        return
    found = {
        "precisions": precisions(),
        "trials": trials(where),
        "memory": memory(),
        "half": half(where),
        "machine": machine("cuda"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
