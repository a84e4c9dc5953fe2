"""Originals are sacred: what the user names must not lie where the chain writes or deletes.

DVC deletes a stage's outs before the stage runs, and the chain replaces what it wrote. So before either does
anything, the places that params.yaml and the environment name are held against all that is written, in every
study of the checkout: neither may be, contain or lie in the other, through whatever links, mounts or case.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from lossbench import written
from lossbench.backing import folder_behind
from lossbench.errors import UserError, brief
from lossbench.params import Params
from lossbench.places import Atlas, Place
from lossbench.tracking.store import local_store

LONGEST = 4096
"""Characters that a path has at most."""
FILES_OF_THE_CACHE = ("files", "md5")
"""Below DVC's cache: what DVC itself links to, and deletes only when told to."""


@dataclass(frozen=True)
class Named:
    """A path that the user gave: the key it stands under, as written, and where it leads from the study."""

    key: str
    text: str
    path: Path


@dataclass(frozen=True)
class Taken:
    """A place that the chain writes or deletes: an "out", a "store" of ours, or DVC's "cache"."""

    kind: Literal["out", "store", "cache"]
    what: str
    place: Place


def protect(params: Params, study: Path, file: str = "params.yaml") -> None:
    """Refuse to go on where the chain would write over, or delete, what is not its own.

    Args:
        params: of the study.
        study: its folder.
        file: named in the message.

    Raises:
        UserError: one sentence on the first such place.

    """
    keep_apart(params, study, file)
    for _, path, found in present(study):
        if found:
            raise UserError(
                f"{path}: {found}; DVC deletes what stands there before the chain writes: move it elsewhere"
            )


def keep_apart(params: Params, study: Path, file: str = "params.yaml") -> None:
    """Refuse a path of the user's, or a store, that meets what the chain writes; see :func:`protect`."""
    atlas = Atlas()
    taken = list(_taken(params, study, atlas))
    for one in named(params, study):
        for path in chain([one.path], _linked_from(one.path)):  # a folder that holds all is refused unread
            _refuse_meeting(one, path, taken, atlas, file)
    _refuse_nested(taken)


def named(params: Params, study: Path) -> Iterator[Named]:
    """List the paths that params.yaml and the environment name."""
    for name, dataset in params.datasets.items():
        key = f"datasets.{name}"
        texts = {
            f"'{key}.path'": dataset.path,
            f"'{key}.mirror'": dataset.options.get("mirror"),
            f"'{key}.expectations.extra'": dataset.expectations.extra,
        }
        yield from _present(texts, study)
        yield from _present(_leading(dataset.options, f"datasets.{name}", study), study)
    for name, experiment in params.experiments.items():
        for part, options in (("model", experiment.model.options), ("task", experiment.task.options)):
            yield from _present(_leading(options, f"experiments.{name}.{part}", study), study)
        weights = f"'experiments.{name}.model.weights'"
        yield from _present({weights: experiment.model.options.get("weights")}, study)
    for name, block in params.losses.items():
        yield from _present(_leading(block, f"losses.{name}", study), study)
    yield from _present({"'code'": params.code}, study)
    commands = {f"'retraining.notify[{at}]'": word for at, word in enumerate(params.retraining.notify)}
    yield from _present({key: word for key, word in commands.items() if os.sep in word}, study)
    yield from _present({"LOSSBENCH_MIRROR": os.environ.get("LOSSBENCH_MIRROR")}, study)


def _leading(block: object, key: str, study: Path) -> dict[str, object]:
    """Find the texts of a block of params.yaml that lead to something that is there: files of the user's."""
    if isinstance(block, Mapping):
        inner = [_leading(value, f"{key}.{name}", study) for name, value in block.items()]
        return {name: value for one in inner for name, value in one.items()}
    if isinstance(block, list | tuple):
        inner = [_leading(value, f"{key}[{at}]", study) for at, value in enumerate(block)]
        return {name: value for one in inner for name, value in one.items()}
    if not isinstance(block, str) or not block.strip() or "\0" in block or len(block) > LONGEST:
        return {}
    with suppress(RuntimeError, OSError):  # no path of anybody's
        if os.sep in block and (study / Path(block).expanduser()).exists():
            return {f"'{key}'": block}
    return {}


def _present(texts: dict[str, object], study: Path) -> Iterator[Named]:
    for key, text in texts.items():
        if isinstance(text, str) and text.strip() and "\0" not in text:
            try:
                yield Named(key, text, study / Path(text).expanduser())
            except RuntimeError as error:  # ~nobody
                raise UserError(f"{key} is {brief(text)}: {error}") from None


def _taken(params: Params, study: Path, atlas: Atlas) -> Iterator[Taken]:
    """List what is written: by every study of the checkout, by MLflow, by DVC."""
    checkout = study / params.root
    found = written.studies(checkout) if (checkout / written.CHAIN).is_file() else []
    for one in {os.path.realpath(place): place for place in (*found, study)}.values():
        whose = "" if os.path.realpath(one) == os.path.realpath(study) else f" of the study {one.name}"
        for out in written.outs(one):
            what = f"{out.path}, an out{whose}" if out.whole else f"{out.path}, a folder of outs{whose}"
            yield Taken("out", what, atlas.place(one / out.path))
            if written.layout_of(out.path) is written.DATA:
                half = atlas.place(written.half(one / out.path))
                yield Taken("out", f"the unfinished {out.path}{whose}", half)
        private = written.home(one)
        yield Taken("store", f"the private folder {private.name}{whose}", atlas.place(private))
        for path in local_store(one):
            yield Taken("store", f"MLflow's {path.name}{whose}", atlas.place(path))
    kept = os.environ.get("LOSSBENCH_STORE", "")
    if kept and (folder := folder_behind(kept)) is not None:
        yield Taken("store", "the store (LOSSBENCH_STORE)", atlas.place(study / folder))
    cache = written.cache(study)
    if cache is not None:
        yield Taken("cache", "DVC's cache", atlas.place(cache))


def _refuse_meeting(one: Named, path: Path, taken: Sequence[Taken], atlas: Atlas, file: str) -> None:
    place = atlas.place(path)
    for other in taken:
        how = place.meets(other.place)
        if how is None or (other.kind == "cache" and how == "lies in" and _put_there(path, place)):
            continue
        where = f"{file}: {one.key}" if one.key.startswith("'") else one.key
        leads = "" if path == one.path else f" holds the link {path}, which"
        shown = f"({place.path}) " if place.path != Path.cwd() / path else ""
        raise UserError(
            f"{where} is {brief(one.text)}, which{leads} {shown}{how} {other.what}; the chain deletes and "
            "rewrites that: keep the originals elsewhere, and name that place"
        )


def _put_there(path: Path, place: Place) -> bool:
    """Say whether it is one of the links to files that DVC leaves (``cache.type symlink``)."""
    in_files = place.path.parts[-4:-2] == FILES_OF_THE_CACHE
    return in_files and path.is_symlink() and place.path.is_file()


def _linked_from(folder: Path) -> Iterator[Path]:
    """List the links in a user's folder, whatever lies below; they are read like the files beside them."""
    waiting, seen = [folder] if folder.is_dir() else [], set()
    while waiting:
        here = waiting.pop()
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        for one in _listed(here):
            if one.is_symlink():
                yield Path(one.path)  # and only then what lies behind it: it may lead to all there is
            if _is_folder(one):
                waiting.append(Path(one.path))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _listed(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:  # the source says so when it reads it
        return []


def _refuse_nested(taken: Sequence[Taken]) -> None:
    """Refuse a store of ours, or DVC's cache, in an out, where DVC would delete it."""
    outs = [one for one in taken if one.kind == "out"]
    for store in (one for one in taken if one.kind != "out"):
        for out in outs:
            if store.place.lies_in(out.place):
                raise UserError(
                    f"{store.place.path}, {store.what}, {store.place.meets(out.place)} {out.what}; DVC "
                    "deletes that before it is written: name another place (LOSSBENCH_HOME, "
                    "LOSSBENCH_STORE, MLFLOW_TRACKING_URI; for the cache `dvc config cache.dir`)"
                )


def present(study: Path, atlas: Atlas | None = None) -> Iterator[tuple[written.Out, Path, str | None]]:
    """List the outs that are there, each with a clause on what about it is not the chain's, or None."""
    atlas = atlas or Atlas()
    here, known = atlas.place(study), None
    for out in written.outs(study):
        path = study / out.path
        if not out.whole or not os.path.lexists(path):
            continue
        found = _strange(path, out, False, here, atlas)
        if found and known is None:
            known = written.locked(study)
        yield out, path, _strange(path, out, True, here, atlas) if known and out.path in known else found


def _strange(path: Path, out: written.Out, known: bool, here: Place, atlas: Atlas) -> str | None:
    """Say what at the place of an out is not the chain's; None: nothing."""
    layout = written.layout_of(out.path)
    if layout is not None:
        return written.foreign(path, layout, known)
    if path.is_dir():
        return "is a folder, where the chain writes a file"
    place = atlas.place(path)
    if path.is_symlink():
        return None if _put_there(path, place) else f"is a link to {path.readlink()}"
    if known or atlas.place(path).lies_in(here):
        return None
    return f"is {place.path}, which was there before the chain wrote any"
