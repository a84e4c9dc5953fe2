"""Validation results in the store.

Great Expectations, whose import takes seconds, is imported once for all datasets, and not at all where
everything is known.
"""

import json
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lossbench.closure import closure, versions_of
from lossbench.errors import GateError, UserError
from lossbench.execution.identity import described_hash
from lossbench.folds import fold_folder
from lossbench.lifetime import without_main
from lossbench.outs import Outs
from lossbench.params import Params
from lossbench.store import Entry, Store, hashed

KIND = "validations"
MODULE = "lossbench.data.expectations.run"


def key(params: Params, dataset: str, outs: Outs) -> str:
    """Key of what the expectations say of a dataset: data, knobs, the user's own, code and packages."""
    knobs, code = params.datasets[dataset].expectations, closure([MODULE])
    extra = hashed(_extra(knobs.extra, outs.study)) if knobs.extra else None
    data = [described_hash(folder.resolve()) for folder in _folders(params, dataset, outs).values()]
    what = [dataset, data[0] if len(data) == 1 else data, knobs.model_dump(mode="json"), extra]
    return hashed([*what, code.digest, versions_of(code.foreign)])


def _extra(text: str, study: Path) -> str:
    """Read the user's own expectations, once they are known to be some."""
    from lossbench.data.expectations.extra import extra_file, read_extra

    file = extra_file(text, study)
    read_extra(file)
    return file.read_bytes().hex()


def validated(params: Params, dataset: str, outs: Outs, store: Store) -> Entry:
    """Hold a dataset against its expectations, or look up what came out.

    Args:
        params: of the study.
        dataset: its name.
        outs: of the study.
        store: that keeps the result.

    """
    where = key(params, dataset, outs)
    known = store.get(KIND, where)
    if known is not None:
        return known
    from lossbench.data.expectations import validate

    knobs, failed, reports = params.datasets[dataset].expectations, [], []
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        for name, data in _folders(params, dataset, outs).items():
            try:
                validate(data, knobs, name, report=report, docs=outs.home / "gx" / name)
            except GateError as error:
                failed.append(str(error))
            reports.append(report.read_bytes())
    written = reports[0] if len(reports) == 1 else _worst(dataset, reports)
    said = {"failed": "\n".join(failed) if failed else None}
    return store.put(KIND, where, said, {"report.json": written})


def _folders(params: Params, dataset: str, outs: Outs) -> dict[str, Path]:
    """Name what is validated: the dataset, or each of its folds."""
    folds = params.datasets[dataset].folds
    if folds is None:
        return {dataset: outs.data(dataset)}
    return {f"{dataset}-fold-{fold}": fold_folder(outs.data(dataset), fold) for fold in range(folds)}


def _worst(dataset: str, reports: Sequence[bytes]) -> bytes:
    """Make one report of those on folds: of each expectation the first that failed, else the first."""
    contents = [json.loads(one) for one in reports]
    expectations = [
        next((one for one in of_folds if not one["success"]), of_folds[0])
        for of_folds in zip(*(content["expectations"] for content in contents), strict=True)
    ]
    merged = {
        "dataset": dataset,
        "success": all(content["success"] for content in contents),
        "evaluated": sum(one["evaluated"] for one in expectations),
        "expectations": expectations,
    }
    return (json.dumps(merged, indent=1, ensure_ascii=False) + "\n").encode()


def collect_validation(params: Params, dataset: str, outs: Outs, store: Store) -> None:
    """Write ``reports/validation/<dataset>.json`` and, where all is well, ``.passed``.

    Raises:
        GateError: a sentence per failed critical expectation.

    """
    report = outs.validation(dataset)
    passed = outs.passed(dataset)
    for file in (report, passed):  # which may be linked to DVC's cache
        file.unlink(missing_ok=True)
    entry = validated(params, dataset, outs, store)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_bytes(entry.read("report.json"))
    content = json.loads(entry.read("report.json"))
    met = sum(one["success"] for one in content["expectations"])
    print(f"{dataset}: {met} of {len(content['expectations'])} expectations met")
    if entry.content["failed"] is not None:
        raise GateError(entry.content["failed"])
    passed.write_text("passed\n", encoding="utf-8")


PATIENCE = 5.0
"""Seconds for the process to end by itself; it may still be at its imports."""


class Validator:
    """A process that imports Great Expectations while the data are fetched, then validates them all."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        with without_main():
            self._process.start()
        theirs.close()

    def validate(self, params: Params, outs: Outs, store: Store, meanwhile: Callable[[], object]) -> None:
        """Validate all datasets; what fails is left to the stage to tell.

        Args:
            params: of the study.
            outs: of the study.
            store: takes what the expectations say.
            meanwhile: is done while they are looked at.

        Raises:
            UserError: if an expectation is malformed.

        """
        with suppress(BrokenPipeError):  # killed: told below
            self._pipe.send((params, outs, store.address))
        meanwhile()
        try:
            error = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):  # killed: the stages do it themselves
            return
        if error is not None:
            raise error

    def close(self) -> None:
        """Let it end in order: ended at once it leaves a semaphore of its progress bars, which is told."""
        self._pipe.close()
        self._process.join(timeout=PATIENCE)
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who started us decides
    from lossbench.data.expectations.run import great_expectations
    from lossbench.lifetime import die_with_parent

    die_with_parent()
    great_expectations()
    try:
        params, outs, address = pipe.recv()
    except EOFError:
        return
    answer: Any = None
    try:
        for dataset in params.datasets:
            validated(params, dataset, outs, Store(address))
    except (UserError, GateError) as error:
        answer = error
    sys.stdout.flush()
    with suppress(BrokenPipeError):  # whoever asked ends, or was ended
        pipe.send(answer)


def unknown(params: Params, outs: Outs, store: Store) -> bool:
    """Whether any dataset's validation is not in the store (or its data are not there yet)."""
    fetched = all((outs.data(name) / "manifest.parquet").is_file() for name in params.datasets)
    return not fetched or any(store.get(KIND, key(params, name, outs)) is None for name in params.datasets)
