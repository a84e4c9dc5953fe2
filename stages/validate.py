"""Hold one dataset against its expectations; a failed critical one stops the chain."""

from pathlib import Path

from lossbench.params import Params
from stages.common import home, run_stage


def main(params: Params, dataset: str) -> None:
    """Read data/<dataset>, write reports/validation/<dataset>.json and, where all is well, .passed."""
    from lossbench.data.dataset import Dataset
    from lossbench.data.expectations import validate
    from lossbench.trial import try_experiment

    out = Path("reports/validation")
    passed = out / f"{dataset}.passed"
    passed.unlink(missing_ok=True)
    validate(
        Path("data") / dataset,
        params.datasets[dataset].expectations,
        dataset,
        report=out / f"{dataset}.json",
        docs=home() / "gx" / dataset,
    )
    for name, experiment in params.experiments.items():
        if experiment.dataset == dataset:  # what `check` could not know before there were data
            try_experiment(name, params, Dataset.open(Path("data") / dataset))
    passed.write_text("passed\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main, "dataset", lambda params: params.datasets)
