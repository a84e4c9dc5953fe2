"""Writing outs from the store: nothing is computed here, and torch is not imported.

Nothing in an out differs between two runs: no time, no duration, no run id, no path.
"""

import csv
import hashlib
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lossbench.errors import GateError
from lossbench.execution.declared import seeds_of, seeds_told
from lossbench.execution.fill import Arm, Experiment, Weights
from lossbench.execution.jobs import FLOORS, GALLERY, SCORES, TRAIN
from lossbench.execution.scripted import floors_of, mean, out_file
from lossbench.outs import Outs
from lossbench.params import Params, ScriptExperiment
from lossbench.store import DamagedError, Entry, Store
from lossbench.written import ARM, EVALUATION, make_room


class LostError(GateError):
    """An entry that was there a moment ago is gone, or damaged: filling the store again mends it."""


ATTEMPTS = 3
"""At filling the store and writing outs from it: an entry may turn out to be damaged."""


def filled_and_collected(fill: Callable[[], object], collect: Callable[[], None]) -> None:
    """Fill the store, then write outs from it; what turns out to be damaged is filled in anew.

    Raises:
        LostError: if that does not help.

    """
    for attempt in range(ATTEMPTS):
        fill()
        try:
            collect()
        except LostError as lost:
            if attempt == ATTEMPTS - 1:
                raise
            print(f"warning: {lost}; it is computed anew", file=sys.stderr)
        else:
            return


def collect_all(params: Params, outs: Outs, store: Store) -> None:
    """Write models and evaluation of a study from its store.

    Raises:
        LostError: if an entry cannot be read.

    """
    from lossbench.data.dataset import DatasetInfo

    for arm in params.arms:
        collect_arm(Arm(params, arm, outs.study), store, outs)
    for name, experiment in params.experiments.items():
        classes = DatasetInfo.read(outs.data(experiment.dataset)).classes
        weights = weights_in_models(params, name, outs)
        collect_evaluation(Experiment(params, name, outs.study), weights, classes, store, outs)


def collect_arm(arm: Arm, store: Store, outs: Outs) -> None:
    """Write ``models/<experiment>/<arm>`` and the report of its search.

    Raises:
        LostError: if an entry cannot be read.

    """
    found, _ = arm.found(store)
    if found is None:
        raise LostError(f"the search of '{arm.name}' is no longer in the store")
    report = outs.tuning(arm.name)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)  # which may be linked to DVC's cache
    report.write_text(json.dumps({"arm": arm.name, **found}, indent=1) + "\n", encoding="utf-8")
    wanted = arm.replicates(found)
    entries = {
        member.seed: _there(store, TRAIN, key)
        for member, key in zip(wanted.members, wanted.keys, strict=True)
    }
    folder = outs.arm(arm.experiment, arm.name)
    make_room(folder, ARM)
    folder.mkdir(parents=True)
    for seed, entry in entries.items():
        name = out_file(arm.params, arm.experiment, seed)
        (folder / name).write_bytes(_file(store, TRAIN, entry, arm.kept))
    _write_history(folder / "history.csv", entries)
    smaller = {
        share: {
            member.seed: _there(store, TRAIN, key) for member, key in zip(one.members, one.keys, strict=True)
        }
        for share, one in arm.budgets(found).items()
    }
    for share, of_budget in smaller.items():
        (folder / budget_name(share)).mkdir()
        for seed, entry in of_budget.items():
            file = folder / budget_name(share) / out_file(arm.params, arm.experiment, seed)
            file.write_bytes(_file(store, TRAIN, entry, arm.kept))
    described = _described(arm, entries)
    if smaller:
        described["budgets"] = [_budget(arm, share, of_budget) for share, of_budget in smaller.items()]
    text = json.dumps(described, indent=1)
    (folder / "arm.json").write_text(text + "\n", encoding="utf-8")


def budget_name(share: float) -> str:
    """Name the folder of an arm's weights at a smaller budget."""
    return f"budget-{share:g}"


def _budget(arm: Arm, share: float, entries: Mapping[int, Entry]) -> dict[str, Any]:
    """Say of a smaller budget how long it was trained, and how its trainings ended."""
    return {
        "share": share,
        "epochs": arm.params.experiments[arm.experiment].recipe.epochs_at(share),
        "diverged": [seed for seed, entry in entries.items() if entry.content["diverged"]],
        "last_losses": [_last_loss(entry) for entry in entries.values()],
    }


def _last_loss(entry: Entry) -> float | None:
    """Return a replicate's last training loss; None where it is not finite."""
    rows = entry.content["history"]
    last = [value for _, split, metric, value in rows if (split, metric) == ("train", "loss")][-1]
    return last if last is not None and math.isfinite(last) else None


def _described(arm: Arm, entries: Mapping[int, Entry]) -> dict[str, Any]:
    chosen = arm.params.arms[arm.name]
    described = [entry.content["described"] for entry in entries.values()]
    first, constants = described[0], [one["constant_loss"] for one in described]
    return {
        "arm": arm.name,
        "experiment": chosen.experiment,
        "dataset": chosen.dataset,
        "loss": chosen.loss,
        **{
            key: first[key]
            for key in ("task", "task_options", "loss_parameters", "model", "recipe", "compute")
        },
        "seeds": list(entries),
        **({"folds": {str(seed): arm.fold(seed) for seed in entries}} if len(arm.folds) > 1 else {}),
        "constant_loss": None if None in constants else median(constants),
        "kept_bytes": first["kept_bytes"],
        "epochs": {str(seed): entry.content["epoch"] for seed, entry in entries.items()},
        "diverged": [seed for seed, entry in entries.items() if entry.content["diverged"]],
    }


def _write_history(file: Path, entries: Mapping[int, Entry]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["seed", "epoch", "split", "metric", "value"])
        for seed, entry in entries.items():
            rows.writerows([seed, *one] for one in entry.content["history"])


def weights_in_models(params: Params, experiment: str, outs: Outs) -> dict[str, dict[int, Weights]]:
    """Find the weights that ``models/`` holds: arm → seed → SHA-256 and file.

    Raises:
        GateError: if one is not there.

    """
    return {arm: weights_of(params, arm, outs) for arm in params.arms_of(experiment)}


def budgets_of(params: Params, arm: str, outs: Outs) -> dict[tuple[float, int], Weights]:
    """Find an arm's weights at smaller budgets in ``models/``: (share, seed) → SHA-256 and file.

    Raises:
        GateError: if one is not there.

    """
    experiment = params.arms[arm].experiment
    shares = [share for share in params.experiments[experiment].recipe.budgets if share != 1]
    return {
        (share, seed): one
        for share in shares
        for seed, one in weights_of(params, arm, outs, budget_name(share)).items()
    }


def weights_of(params: Params, arm: str, outs: Outs, inside: str = "") -> dict[int, Weights]:
    """Find an arm's weights in ``models/``, or in a folder inside: seed → SHA-256 and file.

    Raises:
        GateError: if one is not there.

    """
    experiment = params.arms[arm].experiment
    folder = (outs.arm(experiment, arm) / inside).resolve()
    made: dict[int, Weights] = {}
    for seed in seeds_of(params, outs.study)[arm]:
        file = folder / out_file(params, experiment, seed)
        if not file.is_file():
            raise GateError(f"{file}: no such file; `dvc pull` fetches it, `dvc repro train@{arm}` makes it")
        made[seed] = (hashlib.sha256(file.read_bytes()).hexdigest(), file)
    return made


def collect_evaluation(
    experiment: Experiment,
    weights: Mapping[str, Mapping[int, Weights]],
    classes: Sequence[str],
    store: Store,
    outs: Outs,
) -> None:
    """Write ``reports/evaluation/<experiment>``.

    Args:
        experiment: which.
        weights: arm → seed → the SHA-256 of the weights, and where they are.
        classes: their names, in order.
        store: that holds the scores.
        outs: of the study.

    Raises:
        LostError: if an entry cannot be read.

    """
    import numpy as np

    from lossbench.execution.serialised import read_array

    params, out = experiment.params, outs.evaluation(experiment.name)
    scored = {
        (name, seed): _there(store, SCORES, arm.identity_of(seed).scores(weights[name][seed][0]))
        for name, arm in experiment.arms.items()
        for seed in arm.seeds
    }
    make_room(out, EVALUATION)
    out.mkdir(parents=True)
    diverged = {
        name: json.loads((outs.arm(experiment.name, name) / "arm.json").read_bytes())["diverged"]
        for name in experiment.arms
    }
    for file, rows in _tables(params, scored, diverged, classes).items():
        write_rows(out / f"{file}.csv", rows)
    write_rows(out / "budgets.csv", _budget_rows(experiment, store, outs))
    scripted = isinstance(params.experiments[experiment.name], ScriptExperiment)
    if scripted:
        floors = floors_of([entry.content for entry in scored.values()])
    else:
        floors = _mean_floors([_there(store, FLOORS, experiment.floors(fold)) for fold in experiment.folds])
    write_rows(
        out / "floors.csv",
        [
            {"floor": name, "metric": metric, "value": value}
            for name, metrics in floors.items()
            for metric, value in metrics.items()
        ],
    )
    if all("statistics.npy" in entry.files for entry in scored.values()):
        _expect_as_many(scored, experiment)
        (out / "statistics").mkdir()
        for name in experiment.arms:
            of_arm = [
                read_array(_file(store, SCORES, scored[name, seed], "statistics.npy"))
                for seed in experiment.arms[name].seeds
            ]
            np.save(out / "statistics" / f"{name}.npy", np.stack(_rounds(of_arm, len(experiment.folds))))
        metric = params.experiments[experiment.name].metric
        described = {"metric": metric, "seeds": seeds_told(params, outs.study, experiment.name)}
        (out / "statistics.json").write_text(json.dumps(described) + "\n", encoding="utf-8")
    if scripted:
        (out / "gallery.json").write_text(json.dumps(NOTHING_SHOWN) + "\n", encoding="utf-8")
        return
    first = params.seeds[0]
    shown = [(name, arm.identity.shown(weights[name][first][0])) for name, arm in experiment.arms.items()]
    entry = _there(store, GALLERY, experiment.gallery(shown))
    (out / "gallery.npz").write_bytes(_file(store, GALLERY, entry, "gallery.npz"))
    text = json.dumps(entry.content, indent=1, ensure_ascii=False)
    (out / "gallery.json").write_text(text + "\n", encoding="utf-8")


def _rounds(of_seeds: Sequence[Any], folds: int) -> list[Any]:
    """Put together what the seeds of one round tested: (examples, K) each, all samples once.

    Args:
        of_seeds: (examples of its fold, K) of each seed, in their order.
        folds: how many seeds make a round; with 1 each is one by itself.

    """
    import numpy as np

    starts = range(0, len(of_seeds), folds)
    return [np.concatenate(of_seeds[start : start + folds]) for start in starts]


def _expect_as_many(scored: Mapping[tuple[str, int], Entry], experiment: Experiment) -> None:
    """Refuse statistics of another number of examples: a script may have drawn its test split anew.

    Raises:
        GateError: naming two replicates.

    """
    of_folds: dict[int, dict[int, tuple[str, int]]] = {}
    for (arm, seed), entry in scored.items():
        if "examples" in entry.content:
            counts = of_folds.setdefault(experiment.arms[arm].fold(seed), {})
            counts[entry.content["examples"]] = (arm, seed)
    for counts in of_folds.values():
        if len(counts) > 1:
            told = " and ".join(
                f"{count} of '{arm}' with seed {seed}" for count, (arm, seed) in counts.items()
            )
            raise GateError(
                f"experiment '{experiment.name}': 'per_example' has {told}; allowed: the same test "
                "examples in every run"
            )


def _mean_floors(of_folds: Sequence[Entry]) -> dict[str, dict[str, float]]:
    """What predictors without training reach: the mean over the folds."""
    found: list[dict[str, dict[str, float]]] = [entry.content["floors"] for entry in of_folds]
    return {
        name: {metric: mean([one[name][metric] for one in found]) for metric in metrics}
        for name, metrics in found[0].items()
    }


NOTHING_SHOWN: Mapping[str, Any] = {"index": [], "arms": [], "texts": {}, "share_disagreeing": None}
"""The gallery of scripts: what they decide of a sample is not known."""
Rows = list[dict[str, Any]]


def _budget_rows(experiment: Experiment, store: Store, outs: Outs) -> Rows:
    """Scores at smaller budgets."""
    params, rows = experiment.params, []
    for name, arm in experiment.arms.items():
        described = json.loads((outs.arm(experiment.name, name) / "arm.json").read_bytes())
        diverged = {one["share"]: one["diverged"] for one in described.get("budgets", ())}
        for (share, seed), (weights, _) in budgets_of(params, name, outs).items():
            content = _there(store, SCORES, arm.identity_of(seed).scores(weights)).content
            failed = not content["finite"] or seed in diverged[share]
            rows += [
                {"arm": name, "loss": params.arms[name].loss, "seed": seed, "share": share}
                | {"metric": metric, "value": value, "diverged": failed}
                for metric, value in content["metrics"].items()
            ]
    return rows


def _tables(
    params: Params,
    scored: Mapping[tuple[str, int], Entry],
    diverged: Mapping[str, Sequence[int]],
    classes: Sequence[str],
) -> dict[str, Rows]:
    tables: dict[str, Rows] = {
        name: [] for name in ("scores", "per_class", "confusion", "reliability", "calibration")
    }
    for (arm, seed), entry in scored.items():
        content, who = entry.content, {"arm": arm, "seed": seed}
        values, calibration = dict(content["metrics"]), content["calibration"]
        if calibration is not None:
            values |= calibration["metrics"]
            tables["reliability"] += [{**who, **row} for row in calibration["reliability"]]
            threshold = content["threshold"]
            chosen = {} if threshold is None else {"threshold": threshold}
            tables["calibration"].append({**who, **calibration["link"], **chosen})
        failed = not content["finite"] or seed in diverged[arm]
        tables["scores"] += [
            {"arm": arm, "loss": params.arms[arm].loss, "seed": seed}
            | {"metric": metric, "value": value, "diverged": failed}
            for metric, value in values.items()
        ]
        tables["per_class"] += [
            {**who, "metric": metric, "class": label, "value": value}
            for metric, of_class in content["per_class"].items()
            for label, value in zip(classes, of_class, strict=True)
        ]
        tables["confusion"] += [
            {**who, "true": classes[true], "predicted": classes[predicted], "count": count}
            for true, predicted, count in content["confusion"] or ()
        ]
    return tables


def write_rows(file: Path, rows: Rows) -> None:
    """Write a table, if it has any rows; what is not a number is an empty cell."""
    if not rows:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([_cell(row.get(key)) for key in columns] for row in rows)
    file.write_text(text.getvalue(), encoding="utf-8", newline="")


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _there(store: Store, kind: str, key: str) -> Entry:
    entry = store.get(kind, key)
    if entry is None:
        raise LostError(f"{store.shown}: an entry of kind '{kind}' is gone")
    return entry


def _file(store: Store, kind: str, entry: Entry, name: str) -> bytes:
    """Read an entry's file; a damaged entry is dropped, so that it is computed anew."""
    try:
        return entry.read(name)
    except DamagedError as error:
        store.drop(kind, entry.folder.rpartition("/")[2])
        raise LostError(f"{store.shown}: {error}") from None
