"""Writes docs/models.md from the code: `python docs/make_models.py`.

Sizes are counted on the built networks.
"""

import inspect
from pathlib import Path

import torch

from lossbench.models.base import MODELS, build
from lossbench.recipe import Network

DOCS = Path(__file__).resolve().parent
INTRODUCTION = """# Models

All arms of an experiment train the same network: its `model` block names it, and no loss has one of its
own. Made from the code by `python docs/make_models.py`; every key with its default stands in
[params](params.md#models).

```yaml
model: {name: unet, width: 16, depth: 3}
```

- **Small ones are the default**, because a comparison trains each loss with many seeds. A loss that helps a
  small network need not help a large one: where you will train `resnet50`, compare on `resnet50`, or say
  that you did not.
- **Your own network**: `name: my_net:Net`, a class or function of yours, or of a package that is installed
  (`segmentation_models_pytorch:Unet`, `timm:create_model`, `monai.networks.nets:UNet`,
  `torchvision.models.segmentation:fcn_resnet50`) with its keyword arguments beside the name:
  [plugins](plugins.md). In the package itself: [a new model](new-model.md).
- **Pretrained weights** come from a local file whose `sha256` is stated; nothing is downloaded in training.
- **Before anything trains**, `check` builds the network on the data's own shapes, runs loss and backward
  pass once, and refuses in a sentence what does not fit: a classifier for masks, a side that cannot be
  halved so often, an operation without a deterministic form.
- A replicate's network starts from its seed: the same for all losses, so that differences are the losses'.

| name | task | its input | weights at the defaults | what it is |
|---|---|---|---:|---|
"""
SHOWN = {
    "airbench": ("classification", (3, 32, 32), 10),
    "autoencoder": ("anomaly", (1, 32, 32), 1),
    "grid_detector": ("detection", (3, 64, 64), 8),
    "lenet": ("classification", (1, 28, 28), 10),
    "lstm": ("language_model", (35,), 1000),
    "mnist_cnn": ("classification", (1, 28, 28), 10),
    "resnet": ("classification, multilabel", (3, 32, 32), 10),
    "simple_cnn": ("classification, multilabel", (3, 32, 32), 10),
    "torchvision": ("classification, multilabel", (3, 224, 224), 10),
    "unet": ("segmentation", (3, 64, 64), 10),
}
"""Name → tasks that it is for, and an input and the outputs by which its weights are counted."""


USUAL = ("classification", (3, 32, 32), 10)
"""Of a model that is not in this table."""


def page() -> str:
    """Write the page."""
    return INTRODUCTION + "".join(f"{_row(name)}\n" for name in sorted(MODELS))


def _row(name: str) -> str:
    tasks, shape, outputs = SHOWN.get(name, USUAL)
    with torch.random.fork_rng(devices=[]):
        network = build(Network(name=name), shape, outputs)
    count = sum(one.numel() for one in network.parameters())
    told = (inspect.getdoc(MODELS[name]) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
    place = f"[`{name}`](params.md#{name})"
    shown = f"{'×'.join(map(str, shape))}, {outputs} output{'s' * (outputs != 1)}"
    return f"| {place} | {tasks} | {shown} | {count:,} | {told} |"


def pages() -> dict[str, str]:
    """Return the text of every page that is made here, by its name."""
    return {"models.md": page()}


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
