"""Write docs/losses.md and its plots from the registry: `python docs/make_losses.py`.

Every word on the page comes from a loss's docstring; a test keeps the page current.
"""

import inspect
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from lossbench.losses import REGISTRY, Loss, Sum, build, check, check_targets, signed_distances

HERE = Path(__file__).parent
WIDTH, HEIGHT, EDGE = 240, 120, 22
MARGINS = torch.linspace(-6.0, 6.0, 121, dtype=torch.float64)
INTRO = """# Losses

This page is generated from the docstrings by `docs/make_losses.py`; change those.

Each plot shows value (solid) and gradient (dashed) against the margin: the logit of the true class less that
of the other one, for two classes (for losses of several labels: the logit of a label that is set, beside one
that is not at the opposite logit). Losses with a spatial extent are given a 4 × 4 map, half of each class.

## From Python

A loss is a `torch.nn.Module` of `lossbench.losses`. Its parameters are keywords. Each section below has the
signature, the source, shapes, what every parameter allows, and an example.

```python
import torch

from lossbench.losses import Dice, Focal, Sum

logits, target = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randint(3, (2, 8, 8))
loss = Sum({"focal": Focal(gamma=2.0), "dice": Dice(smooth=1.0)}, {"dice": 0.5})
loss(logits, target).backward()
```
"""


def example(loss: type[Loss], made: Loss, margin: torch.Tensor) -> torch.Tensor:
    """Return the loss at one margin."""
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    target[..., 2:] = 1
    labels = torch.stack([target == 0, target == 1], 1)
    logits = torch.where(labels, margin / 2, -margin / 2)
    chosen = target if loss.single else labels
    maps = loss.prepare(chosen, 2) if loss.auxiliary else None
    value: torch.Tensor = made(logits, chosen, maps)
    return value


def curves(loss: type[Loss]) -> tuple[list[float], list[float]]:
    """Return value and gradient at each margin."""
    made = loss(class_counts=[3, 1]) if "class_counts" in loss.declared else loss()
    made.check = "never"  # what looks like probabilities here is a margin
    values, slopes = [], []
    for point in MARGINS:
        margin = point.clone().requires_grad_()
        value = example(loss, made, margin)
        (slope,) = torch.autograd.grad(value, margin)
        values.append(float(value.detach()))
        slopes.append(float(slope))
    return values, slopes


def plot(name: str, values: list[float], slopes: list[float]) -> str:
    """Return an SVG of value and gradient, both on one scale."""
    low, high = min(0.0, *values, *slopes), max(0.0, *values, *slopes)
    span = (high - low) or 1.0

    def place(index: int, value: float) -> str:
        x = EDGE + (WIDTH - 2 * EDGE) * index / (len(values) - 1)
        return f"{x:.1f},{HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (value - low) / span:.1f}"

    def line(points: list[float], style: str) -> str:
        joined = " ".join(place(i, v) for i, v in enumerate(points))
        return f'<polyline points="{joined}" fill="none" stroke-width="1.5" {style}/>'

    left, right = place(0, 0.0).split(","), place(len(values) - 1, 0.0).split(",")
    text = 'font-family="sans-serif" font-size="9" fill="#555"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" role="img" aria-label="{name}: value and gradient against the margin">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            f'<path d="M{left[0]} {left[1]}H{right[0]}" stroke="#bbb"/>',
            line(values, 'stroke="#1f77b4"'),
            line(slopes, 'stroke="#d62728" stroke-dasharray="4 3"'),
            f'<text x="{EDGE}" y="{HEIGHT - 6}" {text}>margin −6</text>',
            f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 6}" text-anchor="end" {text}>6</text>',
            f'<text x="{EDGE}" y="12" {text}>{high:.3g}</text>',
            f'<text x="{EDGE}" y="{HEIGHT - 15}" {text}>{low:.3g}</text>',
            "</svg>\n",
        ]
    )


def first_line(loss: type[Loss]) -> str:
    """Return the docstring's first line."""
    return inspect.getdoc(loss).split("\n")[0]  # type: ignore[union-attr]  # registered losses have one


def told(thing: Callable[..., object]) -> str:
    """Return where something of ``lossbench.losses`` is called and written."""
    given = inspect.signature(thing).replace(return_annotation=inspect.Signature.empty)
    plain = [one.replace(annotation=one.empty) for one in given.parameters.values()]
    file = f"{thing.__module__.replace('.', '/')}.py"
    called = f"lossbench.losses.{thing.__name__}{given.replace(parameters=plain)}"
    return f"`{called}` ([source](../{file}))"


def functions() -> str:
    """Return what there is beside the losses: how one is called, summed, and built from params.yaml."""
    calls = ("__call__", Loss.forward), ("prepare", Loss.prepare)
    parts = [f"### Loss\n\n```text\n{inspect.getdoc(Loss)}\n```\n"]
    parts += [f"### Loss.{name}\n\n```text\n{inspect.getdoc(one)}\n```\n" for name, one in calls]
    for thing in (Sum, build, check, check_targets, signed_distances):
        parts.append(f"### {thing.__name__}\n\n{told(thing)}\n\n```text\n{inspect.getdoc(thing)}\n```\n")
    return "\n".join(["## What all losses share\n", *parts])


def page() -> str:
    """Return docs/losses.md."""
    families = dict.fromkeys(loss.family for loss in REGISTRY.values())
    ordered = [(n, c) for family in families for n, c in REGISTRY.items() if c.family == family]
    table = ["| name | class | family | targets | what it is |", "|---|---|---|---|---|"]
    parts = []
    for name, loss in ordered:
        kinds = [kind for kind, takes in (("class", loss.single), ("labels", loss.multi)) if takes]
        facts = [
            f"[`{name}`](#{name})",
            f"`{loss.__name__}`",
            loss.family,
            ", ".join(kinds),
            first_line(loss),
        ]
        table.append(f"| {' | '.join(facts)} |")
        head = f"## {name}\n\n{told(loss)}; averages: {loss.reduces}.\n\n"
        picture = f"![{name}: value and gradient against the margin](losses/{name}.svg)\n\n"
        parts.append(f"{head}{picture}```text\n{inspect.getdoc(loss)}\n```\n")
    return "\n".join([INTRO, *table, "", functions(), *parts])


def pages(drawn: Iterable[str] = tuple(REGISTRY)) -> dict[str, str]:
    """Return the content of every generated file by its path under docs/, of the losses that are drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = {f"losses/{name}.svg": plot(name, *curves(REGISTRY[name])) for name in drawn}
    return {"losses.md": page(), **plots}


def main() -> None:
    """Write all files."""
    for path, text in pages().items():
        out = HERE / path
        out.parent.mkdir(exist_ok=True)
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
