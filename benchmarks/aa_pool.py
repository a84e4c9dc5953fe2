"""Train a pool of real replicates of one loss, for the A/A comparison of benchmarks/statistics.py.

    python -m benchmarks.aa_pool --replicates 48

writes benchmarks/results/aa_pool.csv (experiment, metric, seed, value): the test accuracy of the default
`digits` experiment trained with its baseline on seeds that no study uses.
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
from lossbench.training import Member, fit, prepare
from lossbench.training.prediction import predicting

ROOT = Path(__file__).parent.parent
FIRST_SEED = 20_000


def main(experiment: str, replicates: int) -> None:
    params = load_params(ROOT / "params.yaml")
    chosen = params.experiments[experiment]
    with tempfile.TemporaryDirectory() as folder:
        fetch(params.datasets[chosen.dataset], chosen.dataset, Path(folder) / "data")
        data = Dataset.open(Path(folder) / "data")
        task = task_class(chosen.task.name)(data.info)
        loss = params.losses[params.comparison.baseline]
        setting = prepare(task, data, chosen.model, chosen.recipe, loss, params.compute)
        trained = fit(setting, [Member(FIRST_SEED + index) for index in range(replicates)], label=experiment)
        test = data.split("test")
        rows = []
        for one in trained:
            with predicting(task, chosen.model, one.state, test.inputs, params.compute) as predictor:
                digests, _ = predictor.digests(test)
            value = task.score(digests, np.asarray(test.targets)).metrics[chosen.metric]
            rows.append({"experiment": experiment, "metric": chosen.metric, "seed": one.seed, "value": value})
    table = pd.DataFrame(rows)
    out = ROOT / "benchmarks/results/aa_pool.csv"
    table.to_csv(out, index=False, lineterminator="\n")
    mean, sd = table["value"].mean(), table["value"].std()
    print(f"{out.relative_to(ROOT)}: {len(table)} replicates, mean {mean:.4f}, sd {sd:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiment", default="digits")
    parser.add_argument("--replicates", type=int, default=48)
    arguments = parser.parse_args()
    main(arguments.experiment, arguments.replicates)
