"""What is trained on the stand-in GPU: every loss on every task, and every model, with either engine."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.synthetic import losses_for

BATCH, STEPS = 4, 4
FEW = 2
"""Samples a batch where steps are recorded as graphs, so that as many samples make more steps."""
SHAPES: dict[str, tuple[int, ...]] = {"tokens": (12,)}
"""Of a sample; (3, 16, 16) where it is an image."""
NETWORKS: dict[str, dict[str, Any]] = {
    "label": {"name": "simple_cnn", "width": 4, "layers": 1, "hidden": 8},
    "multilabel": {"name": "simple_cnn", "width": 4, "layers": 1, "hidden": 8},
    "mask": {"name": "unet", "width": 4, "depth": 1, "convolutions": 1},
    "boxes": {"name": "grid_detector", "width": 4, "levels": 1},
    "anomaly": {"name": "autoencoder", "width": 4},
    "tokens": {"name": "lstm", "embedding": 4, "hidden": 8, "layers": 1},
}
"""The small network that a task's losses are tried with."""
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "lenet": ("label", {"name": "lenet"}),
    "mnist_cnn": ("label", {"name": "mnist_cnn"}),
    "simple_cnn": ("label", {"name": "simple_cnn", "width": 4, "layers": 2, "hidden": 8}),
    "resnet9": ("label", {"name": "resnet", "depth": 9, "width": 4}),
    "resnet18": ("label", {"name": "resnet", "depth": 18, "width": 4}),
    "airbench": ("label", {"name": "airbench", "width": 4}),
    "torchvision": ("label", {"name": "torchvision", "architecture": "resnet18"}),
    "unet": ("mask", {"name": "unet", "width": 4, "depth": 2, "dropout": 0.5}),
    "unet nearest": ("mask", {"name": "unet", "width": 4, "depth": 1, "up": "nearest"}),
    "grid_detector": ("boxes", {"name": "grid_detector", "width": 4, "blocks": 1}),
    "autoencoder": ("anomaly", {"name": "autoencoder", "width": 4}),
    "lstm": ("tokens", {"name": "lstm", "embedding": 4, "hidden": 8, "dropout": 0.5, "truncate": 5}),
}
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": {"name": "adamw", "weight_decay": 0.1}},
    "sgd": {"optimizer": {"name": "sgd"}},
    "momentum": {"optimizer": {"name": "momentum"}},
    "nesterov": {"optimizer": {"name": "nesterov"}},
    "alternating flip": {"augmentation": {"flip": "alternating"}},
    "rmsprop": {"optimizer": {"name": "rmsprop"}},
    "l1": {"l1": 0.01},
    "gradient_clip": {"gradient_clip": 1.0},
    "augmentation": {
        "augmentation": {"shift": 2, "flip": True, "vertical_flip": True, "cutout": 4, "noise": 0.1}
    },
    "rare classes": {"augmentation": {"shift": 2, "rare_classes_only": True}},
    "balanced": {"sampling": "balanced"},
    "a division for each seed": {"validation": "per_seed"},
    "best": {"checkpoint": "best"},
    "mixup": {"mixing": {"mixup": 0.4}},
    "cutmix": {"mixing": {"cutmix": 1.0}},
    "label smoothing": {"label_smoothing": 0.1},
    "mixup or cutmix, smoothed": {"mixing": {"mixup": 0.4, "cutmix": 1.0}, "label_smoothing": 0.1},
    "a smaller last batch": {"drop_last": False, "batch_size": 6},
    "cosine": {"schedule": {"name": "cosine", "warmup": 0.5}},
}
SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "a sum": ("mask", {"sum": {"cross_entropy": 1.0, "dice": 0.5}}),
    "a sum that learns its weights": ("mask", {"sum": {"cross_entropy": "learned", "dice": "learned"}}),
    "weights of classes": ("label", {"name": "focal", "class_weights": [1.0] * 9 + [2.0]}),
}
"""Losses of more than their name."""
LEARNED = ("a sum that learns its weights",)
LOOP_ONLY = ("tokens",)


@dataclass(frozen=True)
class Case:
    """One training of a few steps.

    Attributes:
        ahead: whether samples are encoded once, before training, as small splits are.
        beside: what the data have beside their targets: "weights" or "soft" labels.

    """

    name: str
    kind: str
    network: dict[str, Any]
    loss: dict[str, Any]
    engine: str = "loop"
    precision: str = "fp32"
    ahead: bool = True
    graphs: bool = False
    beside: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        if self.network.get("architecture") or self.network["name"] in ("lenet", "mnist_cnn"):
            return (3, 32, 32) if self.network.get("architecture") else (1, 28, 28)
        return SHAPES.get(self.kind, (3, 16, 16))


def plain(kind: str) -> dict[str, Any]:
    """The loss that models and recipes are tried with."""
    return {"name": "binary_cross_entropy" if kind in ("multilabel", "anomaly") else "cross_entropy"}


def engines(kind: str) -> tuple[str, ...]:
    """Those that can train a task's usual network."""
    return ("loop",) if kind in LOOP_ONLY else ("loop", "population")


def of_losses(kind: str, engine: str) -> Iterator[Case]:
    """Every loss that fits a task."""
    for name, spec in losses_for(kind).items():  # type: ignore[arg-type]  # a kind
        yield Case(f"{kind} {name} {engine}", kind, NETWORKS[kind], spec, engine)


def of_models(engine: str) -> Iterator[Case]:
    """Every model, in each precision."""
    for name, (kind, network) in MODELS.items():
        if engine in engines(kind):
            for precision in ("fp32", "bf16"):
                yield Case(f"{name} {precision} {engine}", kind, network, plain(kind), engine, precision)


def of_recipes(engine: str) -> Iterator[Case]:
    """Every knob of a recipe; and every task with samples that are encoded batch by batch."""
    for name, recipe in RECIPES.items():
        yield Case(f"{name} {engine}", "label", MODELS["resnet9"][1], plain("label"), engine, recipe=recipe)
    for kind in ("mask", "multilabel"):
        for name in ("mixup", "cutmix"):
            given = (kind, NETWORKS[kind], plain(kind), engine)
            yield Case(f"{kind} {name} {engine}", *given, recipe=RECIPES[name])
    for kind, beside in (("label", "weights"), ("label", "soft"), ("mask", "weights")):
        given = (kind, NETWORKS[kind], plain(kind), engine)
        yield Case(f"{kind} {beside} {engine}", *given, beside=beside)
        mixing = RECIPES["mixup or cutmix, smoothed"]
        yield Case(f"{kind} {beside} mixed {engine}", *given, beside=beside, recipe=mixing)
    for kind, network in NETWORKS.items():
        if engine in engines(kind):
            yield Case(f"{kind} as stored {engine}", kind, network, plain(kind), engine, ahead=False)


def of_graphs(engine: str) -> Iterator[Case]:
    """Every task and knob with something of its own in a step, recorded as a CUDA graph."""
    chosen = {kind: (kind, network) for kind, network in NETWORKS.items() if engine in engines(kind)}
    chosen |= {
        name: MODELS[name]
        for name in ("lenet", "airbench", "unet", "lstm")
        if engine in engines(MODELS[name][0])
    }
    for name, (kind, network) in chosen.items():
        yield Case(f"{name} graphs {engine}", kind, network, plain(kind), engine, graphs=True)
    network = MODELS["resnet9"][1]
    for name in ("nesterov", "l1", "gradient_clip", "augmentation", "mixup", "cosine"):
        case = Case(f"{name} graphs {engine}", "label", network, plain("label"), engine, recipe=RECIPES[name])
        yield replace(case, graphs=True)
    for name, (kind, spec) in SPECS.items():
        if engine == "loop" or name not in LEARNED:
            yield Case(f"{name} graphs {engine}", kind, NETWORKS[kind], spec, engine, graphs=True)
    bf16 = Case(f"bf16 graphs {engine}", "label", network, plain("label"), engine, "bf16")
    yield replace(bf16, graphs=True)


def of_recorded_losses() -> Iterator[Case]:
    """Every loss, recorded: it must ask for what it asks for as it comes."""
    for kind in ("label", "multilabel", "mask"):
        for case in of_losses(kind, "loop"):
            yield replace(case, name=f"{case.name} graphs", graphs=True)


def groups() -> dict[str, list[Case]]:
    """Cases that one process runs."""
    found = {}
    for engine in ("loop", "population"):
        for kind in NETWORKS:
            if engine in engines(kind):
                found[f"{kind} losses {engine}"] = list(of_losses(kind, engine))
        found[f"models {engine}"] = list(of_models(engine))
        found[f"recipes {engine}"] = list(of_recipes(engine))
        found[f"graphs {engine}"] = list(of_graphs(engine))
    found["losses recorded"] = list(of_recorded_losses())
    return found
