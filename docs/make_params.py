"""Writes docs/params.md and docs/environment.md from the code: `python docs/make_params.py`.

What reruns follows from dvc.yaml: the first stage that has the key among its params.
"""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from lossbench.data.sources.base import SOURCES
from lossbench.models.base import MODELS, OPTIONS
from lossbench.reference import USER_NAME, Knob, knobs
from lossbench.tasks.base import TASKS
from lossbench.variables import VARIABLES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
INTRODUCTION = """# Every key of params.yaml

Made from the code by `python docs/make_params.py`; `lossbench params` prints the same, `lossbench
params recipe` only the keys with that part, and `lossbench params --schema params.schema.json` writes a JSON
schema by which an editor completes and checks the file. `<name>` is a name of yours.

An unknown key is refused with its path, before anything runs. "Reruns" names the first stage that a change
reruns, beside `check` and `report`, which read the whole file. A stage that reruns trains nothing that the
store has: a replicate is trained again where its own recipe, loss, data or code changed, and nowhere else.

"""
ENVIRONMENT = """# Environment variables

Made from the code by `python docs/make_params.py`. Nothing here is part of a result: what decides the bits of
one stands in params.yaml ([every key](params.md)). A value that cannot be is refused in one sentence.

"""


def stages() -> list[tuple[str, list[str]]]:
    """Read dvc.yaml: each stage, and the keys among its params, with the user's names left open."""
    chain = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    found = []
    for name, stage in chain.items():
        body = stage.get("do", stage)
        keys = [one for one in body.get("params", ()) if isinstance(one, str)]
        found.append((name, [_open(one) for one in keys]))
    return found


def _open(key: str) -> str:
    """``experiments.${item.experiment}`` → ``experiments.<name>``."""
    head, found, _ = key.partition(".${")
    return f"{head}.{USER_NAME}" if found else head


def rerun_by(key: str) -> str:
    """Name the first stage, beside ``check`` and ``report``, that depends on a key."""
    for stage, keys in stages():
        if any(key == one or key.startswith(f"{one}.") for one in keys):
            return f"`{stage}`"
    return "" if key.partition(".")[0] not in ("arms", "losses") else "`train`"


def table(rows: Iterable[Knob], reruns: bool = False) -> list[str]:
    """Write keys as a table."""
    head = ["key", "allowed", "default", "what it does", *(["reruns"] if reruns else [])]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in rows:
        default = "*required*" if one.default is None else f"`{one.default}`"
        cells = [f"`{one.key}`", one.allowed, default, one.told, *([rerun_by(one.key)] if reruns else [])]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def block(name: str, thing: Any, rows: list[Knob]) -> list[str]:
    """Write what one source, task or model takes beside its name."""
    text = (
        inspect.cleandoc(inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
    )
    made = {line for one in rows for line in [one.told] if line}
    keys = table(rows) if rows and made else [_short(one) for one in rows]
    return [f"### {name}", "", text, "", *(keys or ["It takes no key."]), ""]


def _short(one: Knob) -> str:
    default = "required" if one.default is None else f"default `{one.default}`"
    return f"- `{one.key}`: {one.allowed}; {default}."


def page() -> str:
    """Write the whole page."""
    lines = [INTRODUCTION, *table(knobs(), reruns=True), ""]
    lines += [
        "## Losses",
        "",
        "A loss's block is `name` and its parameters: [losses](losses.md) has them all.",
        "",
    ]
    lines += ["## Sources", "", "Keys that a dataset's block takes beside those above, by its `source`.", ""]
    for name in sorted(SOURCES):
        source = SOURCES[name]
        lines += block(name, type(source), list(knobs(source.options)))
        lines += _told(source.options)
    lines += ["## Tasks", "", "Keys of `task`, beside its name.", ""]
    for name in sorted(TASKS):
        lines += block(name, TASKS[name], list(knobs(TASKS[name].option_model)))
        lines += _told(TASKS[name].option_model)
    lines += ["## Models", "", "Keys of `model`, beside its name.", ""]
    for name in sorted(MODELS):
        builder = MODELS[name]
        lines += block(name, builder, list(knobs(OPTIONS[builder.__name__])))
    return "\n".join(lines).rstrip() + "\n"


def _told(model: type[Any]) -> list[str]:
    """Return the paragraphs of an option model that tell of its keys."""
    text = [] if not model.model_fields else inspect.cleandoc(model.__doc__ or "").split("\n\n")[1:]
    return [line for one in text for line in (one.replace("\n", " ").replace("``", "`"), "")]


def environment() -> str:
    """Write the page of environment variables."""
    lines = [ENVIRONMENT, "| variable | what it may hold | what it does |", "|---|---|---|"]
    lines += [f"| `{one.name}` | {one.value} | {one.told} |" for one in VARIABLES if not one.internal]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return the text of every page that is made here, by its name."""
    return {"params.md": page(), "environment.md": environment()}


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
