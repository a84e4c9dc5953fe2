"""What the chain writes, empties and deletes, and how to tell that it was the chain that wrote it."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lossbench.documents import read_document
from lossbench.errors import UserError

CHAIN = "dvc.yaml"
TEMPLATES = Path(__file__).parent / "templates" / "project"
"""The chain as shipped, and what else a new project begins with."""
VARIABLE = re.compile(r"\$\{([^}]*)\}")
FALLBACK = ("data", "models", "reports")
"""What counts as written in a study whose dvc.yaml cannot be read."""
LITTER = (".DS_Store", ".gitignore", "Thumbs.db", "desktop.ini")
"""What others leave in any folder; it is nobody's original."""
DEPTH = 3
"""Folders below the checkout in which a study may lie: ``studies/<name>``, and one more."""


@dataclass(frozen=True)
class Out:
    """A file or folder that a stage of dvc.yaml writes, and that DVC deletes before the stage runs.

    Attributes:
        path: relative to the study.
        cached: DVC keeps a copy; what it does not keep is in git.
        whole: False where a name could not be filled in: ``path`` is the folder that all of them lie in.

    """

    path: str
    cached: bool = True
    whole: bool = True


def home(study: Path) -> Path:
    """Find the study's private folder: ``LOSSBENCH_HOME``, or ``.lossbench`` in the study."""
    chosen = os.environ.get("LOSSBENCH_HOME") or ".lossbench"
    try:
        return study / Path(chosen).expanduser()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"LOSSBENCH_HOME is '{chosen}': {error}") from None


def half(out: Path) -> Path:
    """Name the folder in which a dataset is written before it takes its place."""
    return out.with_name(f".{out.name}.part")


def cache(study: Path) -> Path | None:
    """Find DVC's cache; None outside a DVC repository."""
    repository = _repository(study)
    return None if repository is None else repository / (_configured(repository).get("dir") or "cache")


def relinked(study: Path) -> bool:
    """Whether DVC puts links in the place of outs that it records: each file is away for a moment.

    What it prefers decides: of ``hardlink,copy`` a copy is made where no link can be.
    """
    repository = _repository(study)
    kinds = () if repository is None else _configured(repository).get("type") or ()
    return bool({"hardlink", "symlink"} & set(kinds[:1]))


def _repository(study: Path) -> Path | None:
    around = (study.resolve(), *study.resolve().parents)
    return next((one / ".dvc" for one in around if (one / ".dvc").is_dir()), None)


def _configured(repository: Path) -> Mapping[str, Any]:
    """Read what DVC is told of its cache."""
    from dvc.config import Config

    return dict(Config(os.fspath(repository))["cache"])


def outs(study: Path) -> list[Out]:
    """List the outs that a study's dvc.yaml and params.yaml name.

    A study that cannot be read has its folders as a whole: who looks for what must not be touched is not to
    be stopped by another study's fault.
    """
    try:
        files = [(study / name).resolve() for name in (CHAIN, "params.yaml")]
        return list(_outs(*((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)))
    except (UserError, OSError, TypeError, KeyError, AttributeError):
        return [Out(name, whole=False) for name in FALLBACK]


Stamp = tuple[Path, int, int]
"""A file, when it was changed, and its size: what is read from it holds as long as these do."""


@lru_cache(maxsize=256)
def _outs(chain: Stamp, params: Stamp) -> tuple[Out, ...]:
    content = read_document(params[0], "")
    return tuple(out for stage in _chain(chain)["stages"].values() for out in _of_stage(stage, content))


@lru_cache(maxsize=8)
def _chain(stamp: Stamp) -> Any:
    """Read dvc.yaml, once for all studies that link to it."""
    return read_document(stamp[0], "")


def _of_stage(stage: Mapping[str, Any], params: Any) -> Iterator[Out]:
    block = stage.get("do") or stage
    for key, item in _items(stage, params):
        for kind in ("outs", "metrics", "plots"):
            for one in block.get(kind) or ():
                name, options = next(iter(one.items())) if isinstance(one, Mapping) else (one, {})
                path = _filled(str(Path(block.get("wdir", "")) / name), key, item, params)
                around, unknown, _ = path.partition("${")
                if unknown:
                    yield Out(around.rpartition("/")[0] or ".", whole=False)
                else:
                    yield Out(path, cached=(options or {}).get("cache", True))


def _items(stage: Mapping[str, Any], params: Any) -> list[tuple[Any, Any]]:
    """List (key, item) of a stage that stands for several."""
    each = stage.get("foreach") or stage.get("matrix")
    if isinstance(each, str):
        each = _at(VARIABLE.sub(r"\1", each), params)
    if isinstance(each, Mapping) and "foreach" in stage:
        return list(each.items())
    if isinstance(each, list):
        return [(one, one) for one in each]
    return [(None, None)]


def _filled(text: str, key: Any, item: Any, params: Any) -> str:
    """Fill in ``${key}``, ``${item.x}`` and params; what is unknown stays."""

    def value(found: "re.Match[str]") -> str:
        name = found[1].strip()
        scope = {"key": key, "item": item, **(params if isinstance(params, Mapping) else {})}
        known = _at(name, scope)
        return found[0] if known is None or isinstance(known, (Mapping, list)) else str(known)

    return VARIABLE.sub(value, text)


def _at(path: str, content: Any) -> Any:
    for name in path.strip().split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def studies(checkout: Path) -> list[Path]:
    """List the studies of a checkout, the root among them: folders with dvc.yaml and params.yaml."""
    found = (file.parent for depth in range(DEPTH + 1) for file in checkout.glob("*/" * depth + CHAIN))
    return [one for one in found if (one / "params.yaml").exists()]


def locked(study: Path) -> frozenset[str]:
    """List the paths that dvc.lock names: what DVC has seen a stage write."""
    try:
        stages = read_document(study / "dvc.lock", "")["stages"]
        return frozenset(out["path"] for stage in stages.values() for out in stage.get("outs", ()))
    except (UserError, TypeError, KeyError, AttributeError):
        return frozenset()


@dataclass(frozen=True)
class Layout:
    """How a folder that a stage writes looks.

    Attributes:
        marker: the files that say it is one; each holds JSON with these keys.
        inside: paths that stand in it.

    """

    marker: Mapping[str, frozenset[str]]
    inside: "re.Pattern[str]"


SAMPLES = "samples_sha256"
"""Key of a dataset's provenance.json: the hash of the samples that training and scoring read."""
DATA = Layout(
    {
        "dataset.json": frozenset({"kind", "classes", "sizes"}),
        "provenance.json": frozenset({"content_sha256"}),
    },
    re.compile(
        r"(fold-\d+/)?(dataset\.json|provenance\.json|manifest\.parquet"
        r"|(train|validation|test|reference)(/(inputs|targets|weights|soft)\.npy)?)|fold-\d+"
    ),
)
UNFINISHED = Layout(
    DATA.marker,
    re.compile(rf"{DATA.inside.pattern}|decoded(/[^/]+(/(inputs|targets|weights)(/\w+\.npy)?)?)?"),
)
"""Of a dataset that is being written: what is decoded lies beside it until it has its place."""
ARM = Layout(
    {"arm.json": frozenset({"arm", "experiment", "seeds"})},
    re.compile(
        r"arm\.json|history\.csv|seed-\d+\.(safetensors|json)"
        r"|budget-[\d.e-]+/seed-\d+\.safetensors|budget-[\d.e-]+"
    ),
)
EVALUATION = Layout(
    {"gallery.json": frozenset()},
    re.compile(
        r"(scores|per_class|confusion|reliability|calibration|floors|budgets)\.csv|statistics\.json|gallery\.(json|npz)"
        r"|statistics(/[A-Za-z0-9_-]+\.npy)?"
    ),
)
DOWNLOADED = ("cifar10", "fashion_mnist", "mnist")
"""Sources that keep what they downloaded."""
PRIVATE = Layout(
    {},
    re.compile(
        r"(store|fresh-\w+)(/checkpoints(/[0-9a-f]{64}\.([\w.-]+\.)?(pt|part))?"
        r"|/[a-z]+(/[0-9a-f]{2}(/[0-9a-f]{64}(/(\.?[0-9a-f]{64}|\.?entry\.json)(\.[\w.-]+\.part)?)?)?)?"
        r"|/\.?store\.json(\.[\w.-]+\.part)?)?"
        r"|\.?(closures|checked)\.json(\.[\w.-]+\.part)?"
        r"|checkpoints(/[0-9a-f]{64}\.([\w.-]+\.)?(pt|part))?|slurm(/[\w-]+(/[\w.-]+)?)?"
        r"|scripts(/.*)?|comparisons(/.*)?"
        r"|journal(/[\w-]+(/[\w-]+(/[\w.-]+\.jsonl)?)?)?|timings(/[\w.-]+)?"
        rf"|downloads(/({'|'.join(DOWNLOADED)})(/.*)?)?"
        r"|gx(/[\w-]+(/gx(/.*)?)?)?|report(/((index|claims)\.html|\.?charts\.json(\.[\w.-]+\.part)?))?|doctor(/dvc\.lock\.\w+)?"
        r"|(mlflow-init|repro|retraining|shipper|track)\.lock|(shipper|ui)\.log",
        re.DOTALL,
    ),
)
"""Of a study's private folder."""
DOCS = Layout({}, re.compile(r"gx(/.*)?", re.DOTALL))
"""Of one dataset's Data Docs, as Great Expectations lays them out."""
CHECKED = Layout(
    {"report.json": frozenset({"code"})},
    re.compile(r"(report|validation)\.json|(arms|datasets|experiments)(/[A-Za-z0-9_-]+\.json)?"),
)
LAYOUTS = {"data": DATA, "models": ARM, "reports/evaluation": EVALUATION, "reports/checked": CHECKED}
"""Of the outs that are folders, by where they lie."""


def layout_of(out: str) -> Layout | None:
    """Find how an out looks, if it is a folder."""
    return next((one for where, one in LAYOUTS.items() if f"{out}/".startswith(f"{where}/")), None)


def foreign(folder: Path, layout: Layout, known: bool = False) -> str | None:
    """Say what is not the chain's about a folder that is to be removed or emptied; None: it is the chain's.

    Args:
        folder: there or not.
        layout: how the chain writes it.
        known: DVC's lock file says that a stage wrote it, so that a damaged marker is no stranger's.

    Returns:
        A clause on what was found: a link, a file the chain does not write, no sign that it wrote any.

    """
    if folder.is_symlink():
        return f"is a link to {folder.readlink()}"
    if not folder.is_dir():
        return "is a file" if os.path.lexists(folder) else None
    below = list(_below(folder))
    for path in below:
        if found := _stranger(path, folder, layout):
            return f"holds {found}"
    empty = all(path.is_dir() for path in below)
    if empty or known or any(_marked(folder / name, keys) for name, keys in layout.marker.items()):
        return None
    return f"holds no {' or '.join(layout.marker)} of the chain's"


def private(study: Path) -> Iterator[tuple[Path, str | None]]:
    """List what stands in a study's private folder, each with a clause on what of it is not the chain's."""
    folder = home(study)
    if os.environ.get("LOSSBENCH_HOME") and folder.is_dir():
        yield folder, "is LOSSBENCH_HOME, a folder of your choosing: what is in it is yours to remove"
        return
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        inside = () if path.is_symlink() else _below(path)
        found = (_stranger(one, folder, PRIVATE) for one in (path, *inside))
        yield path, next((f"holds {one}" for one in found if one), None)


def _stranger(path: Path, folder: Path, layout: Layout) -> str | None:
    """Say what is not the chain's about something in a folder that it writes."""
    name = path.relative_to(folder).as_posix()
    if path.is_symlink() and path.is_dir():
        return f"{name}, a link to {path.readlink()}"
    return None if layout.inside.fullmatch(name) else f"{name}, which the chain did not write"


def _below(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        yield from (Path(where, name) for name in (*folders, *files) if name not in LITTER)


def _marked(file: Path, keys: frozenset[str]) -> bool:
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(file.read_bytes())
        return isinstance(content, dict) and keys <= content.keys()
    return False


def expect_ours(folder: Path, layout: Layout, known: bool = False) -> None:
    """Refuse a folder that the chain did not write, where it is about to.

    Raises:
        UserError: naming what was found in it.

    """
    if found := foreign(folder, layout, known):
        raise UserError(f"{folder}: {found}; it is left as it is: move it elsewhere and run again")


def make_room(folder: Path, layout: Layout, known: bool = False) -> None:
    """Remove a folder that the chain wrote, so that it can be written anew.

    Args:
        folder: there or not.
        layout: how the chain writes it.
        known: nobody else would write it (see :func:`foreign`).

    Raises:
        UserError: if it is not the chain's; nothing was removed.

    """
    expect_ours(folder, layout, known)
    if folder.exists():
        shutil.rmtree(folder)
