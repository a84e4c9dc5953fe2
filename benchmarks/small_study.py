"""Small studies for benchmarks, trained by the library without DVC; and outs multiplied as if trained."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from lossbench.params import load_params

PER_SEED = ("per_class", "confusion", "reliability", "calibration")
"""Tables of an evaluation that are copied as they are for each replicate."""


def write_params(root: Path, content: Mapping[str, Any]) -> None:
    """Write a params.yaml."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(content, stream)


def read_params(root: Path) -> dict[str, Any]:
    """Read a params.yaml as it stands."""
    content: dict[str, Any] = YAML(typ="safe").load((root / "params.yaml").read_text(encoding="utf-8"))
    return content


def fetch_data(root: Path, content: Mapping[str, Any]) -> None:
    """Write params.yaml and the data it names."""
    from lossbench.data.fetching import fetch

    write_params(root, content)
    for name, dataset in load_params(root / "params.yaml").datasets.items():
        fetch(dataset, name, root / "data" / name)


def train(root: Path, scores: bool) -> None:
    """Train all arms of a study whose data are there; with ``scores`` evaluate them too."""
    from lossbench.data.dataset import DatasetInfo
    from lossbench.execution.collect import collect_arm, collect_evaluation, weights_in_models
    from lossbench.execution.fill import Arm, Experiment, Filling, arm_flow
    from lossbench.execution.inline import InlineExecutor
    from lossbench.execution.local import where
    from lossbench.outs import Outs
    from lossbench.running import add_all
    from lossbench.store import opened

    params, outs = load_params(root / "params.yaml"), Outs(root)
    with opened(outs.home) as store:
        arms = {name: Arm(params, name, root) for name in params.arms}
        filling, place = Filling(InlineExecutor), where(params, outs, store)
        if scores:
            add_all(filling, params, arms, outs, store, place)
        else:
            for name, arm in arms.items():
                filling.add(name, lambda arm=arm: arm_flow(arm, store, place, scores=False))  # type: ignore[misc]  # the default binds the arm
        filling.run()
        for arm in arms.values():
            collect_arm(arm, store, outs)
        for name, experiment in params.experiments.items() if scores else ():
            classes = DatasetInfo.read(outs.data(experiment.dataset)).classes
            weights = weights_in_models(params, name, outs)
            collect_evaluation(Experiment(params, name, root), weights, classes, store, outs)


def multiply(root: Path, arms: int, seeds: int, epochs: int) -> None:
    """Make of a trained study's first experiment one of many arms, seeds and epochs, with simulated curves.

    Every file has the form that training and evaluation give it. Scores and histories are drawn anew, an
    arm's mean a little above that of the one before; weights and tables are those of the first replicate.
    """
    content = read_params(root)
    first, given = next(iter(content["arms"].items()))
    name, dataset = given["experiment"], given["dataset"]
    copies = {f"{name}-{at:03d}": f"loss{at:03d}" for at in range(arms)}
    losses = {loss: dict(content["losses"][given["loss"]]) for loss in copies.values()}
    content["experiments"][name]["recipe"]["epochs"] = epochs
    content |= {
        "losses": losses,
        "arms": {arm: {"experiment": name, "dataset": dataset, "loss": loss} for arm, loss in copies.items()},
        "seeds": list(range(seeds)),
        "comparison": {**content["comparison"], "baseline": next(iter(losses))},
        "experiments": {name: content["experiments"][name]},
    }
    write_params(root, content)
    _multiply_models(root / "models" / name, first, copies, seeds, epochs)
    _multiply_evaluation(root / "reports/evaluation" / name, first, copies, seeds)
    tuning = json.loads((root / f"reports/tuning/{first}.json").read_bytes())
    for arm in copies:
        (root / f"reports/tuning/{arm}.json").write_text(json.dumps({**tuning, "arm": arm}))
    (root / "reports/validation").mkdir(parents=True, exist_ok=True)
    passed = {"dataset": dataset, "success": True, "evaluated": 1, "expectations": []}
    (root / f"reports/validation/{dataset}.json").write_text(json.dumps(passed))


def _multiply_models(folder: Path, first: str, copies: Mapping[str, str], seeds: int, epochs: int) -> None:
    described = json.loads((folder / first / "arm.json").read_bytes())
    history = pd.read_csv(folder / first / "history.csv")
    measured = list(history[["split", "metric"]].drop_duplicates().itertuples(index=False, name=None))
    weights = next((folder / first).glob("seed-*.safetensors"))
    for at, (arm, loss) in enumerate(copies.items()):
        own = folder / arm
        own.mkdir()
        said: dict[str, Any] = {"arm": arm, "loss": loss, "seeds": list(range(seeds)), "diverged": []}
        said["recipe"] = {**described["recipe"], "epochs": epochs}
        said["epochs"] = {str(seed): epochs for seed in range(seeds)}
        (own / "arm.json").write_text(json.dumps({**described, **said}))
        for seed in range(seeds):
            shutil.copy(weights, own / f"seed-{seed}.safetensors")
        rng = np.random.default_rng(at)
        risen = 1 - np.exp(-np.arange(1, epochs + 1) / 30)
        with (own / "history.csv").open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(["seed", "epoch", "split", "metric", "value"])
            for seed in range(seeds):
                values = risen[:, None] * 0.9 + rng.normal(0, 0.01, (epochs, len(measured)))
                rows.writerows(
                    (seed, epoch + 1, *one, value)
                    for epoch, line in enumerate(values.tolist())
                    for one, value in zip(measured, line, strict=True)
                )


def _multiply_evaluation(folder: Path, first: str, copies: Mapping[str, str], seeds: int) -> None:
    rng = np.random.default_rng(0)
    table = _of_the_first(folder / "scores.csv", first)
    parts = []
    for at, (arm, loss) in enumerate(copies.items()):
        for seed in range(seeds):
            drawn = 0.8 + at * 1e-3 + rng.normal(0, 0.01, len(table))
            parts.append(table.assign(arm=arm, loss=loss, seed=seed, value=np.minimum(drawn, 1)))
    pd.concat(parts).to_csv(folder / "scores.csv", index=False)
    for kind in (one for one in PER_SEED if (folder / f"{one}.csv").exists()):
        table = _of_the_first(folder / f"{kind}.csv", first)
        every = [table.assign(arm=arm, seed=seed) for arm in copies for seed in range(seeds)]
        pd.concat(every).to_csv(folder / f"{kind}.csv", index=False)
    for file in sorted(folder.glob("statistics/*.npy")):
        statistics = np.load(file)[:1]
        file.unlink()
        if file.stem == first:
            for arm in copies:
                shuffled = [rng.permutation(statistics[0]) for _ in range(seeds)]
                np.save(folder / f"statistics/{arm}.npy", np.stack(shuffled))
    described = json.loads((folder / "statistics.json").read_bytes())
    (folder / "statistics.json").write_text(json.dumps({**described, "seeds": list(range(seeds))}))
    _multiply_gallery(folder, first, list(copies), rng)


def _multiply_gallery(folder: Path, first: str, arms: Sequence[str], rng: np.random.Generator) -> None:
    shown = json.loads((folder / "gallery.json").read_bytes())
    (folder / "gallery.json").write_text(json.dumps({**shown, "arms": list(arms)}))
    with np.load(folder / "gallery.npz") as arrays:
        kept = {name: arrays[name] for name in arrays.files if not name.startswith("decision/")}
        decided = arrays[f"decision/{first}"]
    kept |= {f"decision/{arm}": rng.permutation(decided) for arm in arms}
    np.savez(folder / "gallery.npz", **kept)  # type: ignore[arg-type]  # names of arrays


def _of_the_first(file: Path, first: str) -> pd.DataFrame:
    text = {"class": str, "true": str, "predicted": str}
    table = pd.read_csv(file, dtype=text, keep_default_na=False)
    chosen: pd.DataFrame = table[(table["arm"] == first) & (table["seed"] == table["seed"].min())]
    return chosen
