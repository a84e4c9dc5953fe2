"""Train a pool of real replicates of one loss, for the A/A comparison of benchmarks/statistics.py.

    python -m benchmarks.aa_pool --experiment digits --loss dice --replicates 48

puts into benchmarks/results/aa_pool.csv (experiment, loss, metric, seed, value) the deciding metric of an
experiment of params.yaml trained with one of its losses on seeds that no study uses; other pools stay.
The tame losses flatter an A/A: pools of the wild ones (Dice on digits, the scenes) belong beside them.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.params import load_params
from lossbench.tasks import task_class
from lossbench.training.fitting import fit
from lossbench.training.member import Member
from lossbench.training.prediction import predicting
from lossbench.training.setting import prepare

ROOT = Path(__file__).parent.parent
FIRST_SEED = 20_000


def main(experiment: str, named: str | None, replicates: int) -> None:
    params = load_params(ROOT / "params.yaml")
    chosen = params.experiments[experiment]
    with tempfile.TemporaryDirectory() as folder:
        fetch(params.datasets[chosen.dataset], chosen.dataset, Path(folder) / "data")
        data = Dataset.open(Path(folder) / "data")
        task = task_class(chosen.task.name)(data.info)
        name = named or params.comparison.baseline
        loss = params.losses[name]
        setting = prepare(task, data, chosen.model, chosen.recipe, loss, params.compute)
        trained = fit(setting, [Member(FIRST_SEED + index) for index in range(replicates)])
        test = data.split("test")
        rows = []
        for one in trained:
            with predicting(task, chosen.model, one.state, test.inputs, params.compute) as predictor:
                digests, _ = predictor.digests(test)
            value = task.score(digests, np.asarray(test.targets)).metrics[chosen.metric]
            row = {"experiment": experiment, "loss": name, "metric": chosen.metric}
            rows.append({**row, "seed": one.seed, "value": value})
    table = pd.DataFrame(rows)
    out = ROOT / "benchmarks/results/aa_pool.csv"
    kept = pd.read_csv(out) if out.exists() else table.iloc[:0]
    kept = kept[(kept["experiment"] != experiment) | (kept["loss"] != name)]
    pd.concat([kept, table]).to_csv(out, index=False, lineterminator="\n")
    mean, sd = table["value"].mean(), table["value"].std()
    print(f"{out.relative_to(ROOT)}: {len(table)} replicates, mean {mean:.4f}, sd {sd:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiment", default="digits")
    parser.add_argument("--loss", help="of params.yaml (default: the baseline)")
    parser.add_argument("--replicates", type=int, default=48)
    arguments = parser.parse_args()
    main(arguments.experiment, arguments.loss, arguments.replicates)
