"""The whole comparison: check, `dvc repro` of the data, the store filled, `dvc repro` of the rest, a record.

`dvc repro` alone does the same work, one stage after another, to the same ``dvc.lock``; this adds all
trainings of all arms at once, the repair of what a killed run left, one sentence for bad params, and the
result at the end.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from lossbench import gpus, installed
from lossbench.chain import in_turn, without_git
from lossbench.checked import say_checked
from lossbench.closure import PACKAGE
from lossbench.collecting import (
    REPORT,
    collect_at_once,
    data_at_once,
    nothing_to_restore,
    noting,
    outs_at_once,
    report_as_shipped,
    validation_at_once,
)
from lossbench.commands.summary import summarise
from lossbench.commands.track import record
from lossbench.data.current import up_to_date
from lossbench.editing import write_out_homes, write_values
from lossbench.errors import GateError, UserError
from lossbench.execution.beside import EndedError, in_worker, in_workers, parts_of, workers
from lossbench.execution.checks import checked_once, found_fine
from lossbench.execution.collect import budgets_of, weights_of
from lossbench.execution.declared import (
    LOOKS,
    begin_looks,
    ensure_looks,
    forget_other_data,
    is_left,
    is_reported,
    looks_said,
    nothing_left,
    record_found,
    record_looks,
)
from lossbench.execution.fill import Arm, Experiment, Filling, arm_flow, budgets_in_store, weights_in_store
from lossbench.execution.identity import use_own_code
from lossbench.execution.jobs import Where
from lossbench.execution.lineage import differing, lineage, write_lineage
from lossbench.execution.local import warm_up, worker_count
from lossbench.execution.plan import of_params, sentences
from lossbench.execution.plan import plan as make_plan
from lossbench.execution.settled import settled
from lossbench.execution.sites import Site, site
from lossbench.execution.validation import Validator, unknown
from lossbench.lifetime import collect_rarely
from lossbench.lock import REPRO_LOCK, HeldError, only_one
from lossbench.outs import Outs
from lossbench.params import Params, load_params
from lossbench.processes import step
from lossbench.progress import Forecast
from lossbench.store import Store, opened
from lossbench.system import write_atomically
from lossbench.telling import printable
from lossbench.tracking.server import get_ready
from lossbench.written import relinked

Looks = Literal["", "next", "all"]


def run(study: Path, jobs: str | None = None, device: str | None = None, looks: Looks = "") -> None:
    """Run a study.

    Args:
        study: its folder, and the working directory.
        jobs: trainings side by side; None for what the machine has room for.
        device: written to ``compute.device`` of params.yaml, where given; ``cuda:1`` is one GPU of several.
        looks: ``next``: the next declared look, for what is undecided; ``all``: one after another until
            everything is decided or none is left; else those that are begun.

    """
    _end_on_signals()
    collect_rarely()
    # DVC finds a stage's `python` on PATH: ours, whether or not the environment is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if jobs is not None:
        os.environ["LOSSBENCH_WORKERS"] = jobs
    params, outs = write_out_homes(load_params(), study), Outs(study)
    refuse_other_code(params, study)
    installed.refresh(params, study)
    without_git(study)
    if device is not None:  # refused before params.yaml or looks.yaml is touched
        device = gpus.choose(device)
        params = params.model_copy(update={"compute": params.compute.model_copy(update={"device": device})})
    worker_count(params.compute)
    ensure_looks(study)
    if looks and not begin(params, study, looks):
        return
    with _alone(outs), opened(outs.home) as store:
        site(params, outs, store)  # what it lacks is said now
        if not found_fine(params, outs):
            warm_up()
        with validator(params, outs, store) as validate:
            tried = all(up_to_date(study, name, one) for name, one in params.datasets.items())
            checked_once(params, outs, lambda: check_in_worker(params))
            if device is not None:
                write_values(Path("params.yaml"), {("compute", "device"): device})
            mend()
            say_checked()
            new = not tried or unknown(params, outs, store)
            if new:  # else one `dvc repro` does both
                commit = fetch_all(params, outs)
                validate(lambda: note(params, outs, commit))
        done = (validation_at_once if new else data_at_once)(params, outs, store)
        if not done:
            step("dvc", "repro", *(f"validate@{name}" for name in params.datasets))
        if not tried:
            try_on_data(params, outs)
        if differing(params, outs):  # what DVC does not watch: packages, and code outside of `code`
            step("dvc", "repro", "--force", "--single-item", "check")
        for sentence in forget_other_data(params, study):
            print(f"note: {sentence}", flush=True)
        if not compute(params, outs, store, looks, done):
            record(lenient=True)
        summarise()


def begin(params: Params, study: Path, looks: Looks) -> bool:
    """Begin the next look where the last was written down; says whether there is anything to look at."""
    if looks == "next" and not is_reported(params, study):
        print("the look before this one has no report yet: that is made now, and no further look is begun")
        return True
    begun = begin_looks(params, study)
    if begun or is_left(params, study):
        return True
    print(nothing_left(params, study))
    # all that is left to do is to have the outs there, which "all" promises
    return looks == "all"


def compute(params: Params, outs: Outs, store: Store, looks: Looks, done: Sequence[str] = ()) -> bool:
    """Fill the store and let DVC collect; write down what was found at looks, and go on to the next.

    Args:
        params: of the study.
        outs: of the study.
        store: that is filled.
        looks: which are taken.
        done: stages whose outs are written, and that DVC does not know of yet.

    Returns:
        Whether MLflow has the record of what there is now.

    """
    while True:
        ready = fill(params, outs, store)
        looked = look_at_once(params, outs, store, ready)
        if looked and looks == "all" and begin_looks(params, outs.study):
            continue
        with as_read(params, outs.study):
            recorded = note_all(params, outs, collect_at_once(params, outs, store, ready, done))
        done = ()
        news = record_found(params, outs.study)
        if looks == "all" and begin_looks(params, outs.study):
            continue
        if news:
            step("dvc", "repro")  # check and report: they say what looks.yaml says
        return recorded and not news


@contextmanager
def as_read(params: Params, study: Path) -> Iterator[None]:
    """Have DVC record nothing under params that were edited meanwhile: it reads params.yaml by itself.

    Raises:
        GateError: if other params stand there now; dvc.lock is as it was.

    """
    file, lock = study / "params.yaml", study / "dvc.lock"
    said = f"{file}: edited while the run was at work; what was computed is in the store: run again"
    if _edited(params, file):
        raise GateError(said)
    before = lock.read_bytes() if lock.exists() else None
    try:
        yield
    finally:
        edited = _edited(params, file)
        if edited and before is not None:
            write_atomically(lock, before)
        elif edited:
            lock.unlink(missing_ok=True)
    if edited:
        raise GateError(said)


def _edited(params: Params, file: Path) -> bool:
    try:
        return load_params(file) != params
    except UserError:  # half written, say
        return True


def note_all(params: Params, outs: Outs, commit: Sequence[str]) -> bool:
    """Have DVC record what was collected, and do what is left to do; report and MLflow's record meanwhile.

    Args:
        params: of the study.
        outs: of the study.
        commit: the command that records what was collected; () where nothing was.

    Returns:
        Whether MLflow has its record; else it may be that nothing has changed for it.

    """
    if not commit or not report_as_shipped(outs):
        threading.Thread(target=_import_ahead).start()
        in_turn(commit, ("repro",))
        return False
    if relinked(outs.study):  # whoever reads meanwhile would miss some
        in_turn(commit)
        commit = ()
    with recording():
        with workers(_report, [(params, outs.home)]):
            in_turn(commit)
        in_turn(noting(outs.study, REPORT), ("repro",))
    return True


@contextmanager
def recording() -> Iterator[None]:
    """Record arms in MLflow while the block runs, and then the report.

    A process does it, for DVC, the report and MLflow keep a processor busy each. If the block fails, or we
    end, it is told that there will be no report: its pipe is closed.

    Raises:
        UserError: what the record says, where the block raises nothing.
        GateError: the same, or that its process ended.

    """
    hears, tells = get_context("forkserver").Pipe(duplex=False)
    written = False
    try:
        with workers(_record, [(hears,)]), tells:
            hears.close()
            yield
            written = True
            with suppress(BrokenPipeError):  # it has ended: told below
                tells.send(None)
    except EndedError as error:
        if not written:
            raise
        raise GateError(
            f"{error}; the results are complete, and `lossbench track` completes the record"
        ) from None


def _record(hears: Connection) -> None:
    from lossbench.tracking.server import close_store

    collect_rarely()
    try:
        record(lenient=True, reported=lambda: _is_told(hears))
    finally:
        close_store()  # what is to be done as the interpreter ends is not done where it was forked


def _is_told(hears: Connection) -> bool:
    """Wait for the report; False if there will be none."""
    try:
        hears.recv()
    except EOFError:
        return False
    return True


def _report(params: Params, home: Path) -> None:
    from lossbench.reporting.write import write_report

    write_report(params, Path(), home, Store(str(home / "store")))


def look_at_once(params: Params, outs: Outs, store: Store, ready: Collection[str]) -> bool:
    """Take the looks that the store allows, and write them down, without a report of each.

    Returns:
        Whether they were taken; else the report takes them: :func:`~lossbench.collecting.collect_at_once`.

    """
    if not params.comparison.looks or not outs_at_once(params, outs, store, ready):
        return False
    in_worker(_look, params, outs.study)
    return True


def _look(params: Params, study: Path) -> None:
    from lossbench.reporting.inputs import read_study
    from lossbench.reporting.tables import looks_json

    record_looks(params, study, looks_json(read_study(params, study)), study / LOOKS)


def _import_ahead() -> None:
    """Import what the record needs while DVC has the report made; the other processor has nothing to do."""
    with suppress(ModuleNotFoundError):  # the record says so, and what brings it
        get_ready()


def fetch_all(params: Params, outs: Outs) -> Sequence[str]:
    """Have DVC fetch all data; where it keeps nothing yet, at once instead of stage after stage.

    Returns:
        The command with which DVC records them, while others read them; () where it has done so.

    Raises:
        UserError: what a source says.

    """
    if not nothing_to_restore(params, outs):
        step("dvc", "repro", *(f"fetch@{name}" for name in params.datasets))
        return ()
    with as_read(params, outs.study):
        write_lineage(params, outs)
        in_workers(_fetch, [(params, part) for part in parts_of(params, params.datasets)])
    commit = noting(outs.study, "check", "fetch")
    if not relinked(outs.study):
        return commit
    note(params, outs, commit)  # whoever reads meanwhile would miss some
    return ()


def note(params: Params, outs: Outs, commit: Sequence[str]) -> None:
    """Have DVC record what was written, unless params were edited meanwhile; of () nothing."""
    with as_read(params, outs.study):
        in_turn(commit)


def _fetch(params: Params, names: Sequence[str]) -> None:
    from lossbench.data.fetching import fetch

    use_own_code(params, Path())
    outs = Outs(Path.cwd())
    for name in names:
        fetch(params.datasets[name], name, outs.data(name))


def try_on_data(params: Params, outs: Outs) -> None:
    """Try each experiment on data that were not there at the check; what fails does not pass validation.

    Raises:
        UserError: what the trial says.

    """
    try:
        checked_once(params, outs, lambda: check_in_worker(params))
    except BaseException:
        for name in params.datasets:
            outs.passed(name).unlink(missing_ok=True)
        raise


def refuse_other_code(params: Params, study: Path) -> None:
    """Refuse a study whose stages run other code than we do: everything would be trained twice.

    Raises:
        UserError: naming both.

    """
    theirs = (study / params.root / PACKAGE.name).resolve()
    if installed.is_checkout(theirs.parent) and theirs != PACKAGE.resolve():
        raise UserError(
            f"{study / 'params.yaml'}: 'root' leads to the code in {theirs.parent}, but this is lossbench "
            f"of {PACKAGE.resolve().parent}; allowed: the lossbench of that folder's own environment, or "
            "`python -m lossbench run` in the study's folder"
        )


@contextmanager
def validator(params: Params, outs: Outs, store: Store) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Give what validates all datasets in one process, which gets ready meanwhile where it is needed.

    What it is called with is done while they are validated.
    """
    waiting = Validator() if unknown(params, outs, store) else None

    def validate(meanwhile: Callable[[], object]) -> None:
        nonlocal waiting
        if waiting is None and unknown(params, outs, store):
            waiting = Validator()
        if waiting is None:
            meanwhile()
        else:
            waiting.validate(params, outs, store, meanwhile)

    try:
        yield validate
    finally:
        if waiting is not None:
            waiting.close()


def fill(params: Params, outs: Outs, store: Store, journal: bool = True) -> frozenset[str]:
    """Compute all that the outs of a study need and the store lacks.

    Args:
        params: of the study.
        outs: of the study.
        store: that is filled.
        journal: whether what is trained is written down for MLflow.

    Returns:
        Stages that need nothing though the store lacks something of theirs: see :func:`settled`.

    """
    from lossbench.tracking.watch import Watcher

    arms = {name: Arm(params, name, outs.study) for name in params.arms}
    done, place = settled(params, arms, outs, store), site(params, outs, store)
    forecast = say_plan(params, arms, store, place, done)
    if forecast.total:
        store.prove()
    watcher = Watcher(params, outs, store, "training", forecast, journal)
    filling = Filling(place.executor, watcher)
    add_all(filling, params, arms, outs, store, place.where(), done)
    filling.run()
    return done


def add_all(
    filling: Filling,
    params: Params,
    arms: Mapping[str, Arm],
    outs: Outs,
    store: Store,
    place: Where,
    done: Collection[str] = (),
) -> None:
    """Have all arms searched, trained and scored, and each experiment completed when its arms are.

    Args:
        filling: that runs them.
        params: of the study.
        arms: all of them.
        outs: of the study.
        store: that is filled.
        place: for the jobs.
        done: stages that need nothing; see :func:`settled`.

    """
    wanted = {name: arm for name, arm in arms.items() if f"train@{name}" not in done}
    for name, arm in wanted.items():
        filling.add(name, lambda arm=arm: arm_flow(arm, store, place, scores=True))  # type: ignore[misc]  # the default binds the arm

    def complete(name: str) -> Any:
        weights = {
            arm: weights_in_store(arms[arm], store) if arm in wanted else weights_of(params, arm, outs)
            for arm in params.arms_of(name)
        }
        budgets = {
            arm: budgets_in_store(arms[arm], store) if arm in wanted else budgets_of(params, arm, outs)
            for arm in params.arms_of(name)
        }
        return Experiment(params, name, outs.study).flow(store, place, weights, budgets)

    for name in params.experiments:
        if f"evaluate@{name}" not in done:
            after = [arm for arm in params.arms_of(name) if arm in wanted]
            filling.add(f"experiment {name}", lambda name=name: complete(name), after)  # type: ignore[misc]  # the default binds the name


def plan(study: Path) -> None:
    """Print what a run would train.

    Raises:
        GateError: if the data are not there yet: nothing is known of them.

    """
    params, outs = load_params(), Outs(study)
    if not all((outs.data(name) / "dataset.json").is_file() for name in params.datasets):
        for line in of_params(params):
            print(line)
        return
    with opened(outs.home) as store:
        arms = {name: Arm(params, name, study) for name in params.arms}
        say_plan(params, arms, store, site(params, outs, store), settled(params, arms, outs, store))


def say_plan(
    params: Params, arms: Mapping[str, Arm], store: Store, place: Site, done: Collection[str]
) -> Forecast:
    """Print what is missing, and about how long it takes; returns what shows that while it is done."""
    where = place.where()
    planned = make_plan(params, arms, store, where, place.executor, done)
    workers = place.workers if any(one.epochs for one in planned) else 1
    for line in [*sentences(planned, workers), *looks_said(params, where.study)]:
        print(line, flush=True)
    costs = {one.experiment: one.seconds for one in planned if one.seconds is not None}
    return Forecast({one.experiment: one.epochs for one in planned}, costs)


def check_in_worker(params: Params) -> None:
    """Check params where torch is imported already, or is now; several experiments side by side.

    Raises:
        UserError: what the check says.

    """
    parts = parts_of(params, params.experiments)
    with workers(_check, [(params, part, at == 0) for at, part in enumerate(parts)]), suppress(Exception):
        lineage(params, Path())  # parsed while they begin, and known then; what it raises the check says


def _check(params: Params, experiments: Sequence[str], first: bool) -> None:
    from lossbench.checking import check_declared, check_experiments

    if first:
        check_declared(params)
    check_experiments(params, experiments)


@contextmanager
def _alone(outs: Outs) -> Iterator[None]:
    """Refuse to run beside another of its kind: each would stop at the stages that the other has begun."""
    try:
        with only_one(outs.home / REPRO_LOCK, "`lossbench run`"):
            yield
    except HeldError as held:
        raise GateError(f"{held}; try again when it has ended") from None


def mend() -> None:
    """Repair what a killed run left in DVC's way, unless somebody is at work here: then DVC decides."""
    from lossbench.doctor import examine_files, find_repository, guarded, repair_all

    root = Path.cwd()
    with guarded(find_repository(root)) as undisturbed:
        found = examine_files(root, undisturbed).findings
        failed = repair_all(found, lambda sentence: print(printable(sentence), file=sys.stderr))
    if failed:
        raise GateError(f"{failed} of {len(found)} things that a killed run left could not be repaired")


def _end_on_signals() -> None:
    """Leave by an exception on SIGTERM and SIGINT, once: a second would break off the ending of what runs."""

    def asked(number: int, frame: object) -> None:
        del frame
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, asked)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a shell's background job
        signal.signal(signal.SIGINT, asked)
