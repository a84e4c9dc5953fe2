"""Hold one dataset against its expectations; a failed critical one stops the chain."""

from collections.abc import Sequence
from pathlib import Path

from lossbench.checked import checked_by_caller
from lossbench.outs import Outs
from lossbench.params import Params

from .common import Part, run_stage


def main(params: Params, dataset: str) -> None:
    """Read data/<dataset>, write reports/validation/<dataset>.json and, where all is well, .passed."""
    from lossbench.execution.validation import collect_validation
    from lossbench.store import opened

    outs = Outs(Path.cwd())
    with opened(outs.home) as store:
        collect_validation(params, dataset, outs, store)
    if (
        not checked_by_caller()
    ):  # what `check` could not know before there were data; `lossbench run` does it itself
        try:
            try_all(params, dataset, outs)
        except BaseException:
            outs.passed(dataset).unlink()
            raise


def try_all(params: Params, dataset: str, outs: Outs) -> None:
    """Try each experiment on a dataset for one step."""
    from lossbench.data.dataset import Dataset
    from lossbench.params import ScriptExperiment
    from lossbench.trial import try_experiment

    for name, experiment in params.experiments.items():
        if experiment.dataset == dataset and not isinstance(experiment, ScriptExperiment):
            try_experiment(name, params, Dataset.open(outs.data(dataset)))


def reads(params: Params, dataset: str) -> Sequence[Part]:
    """What of params.yaml the stage reads, as in dvc.yaml."""
    return [("datasets", dataset)]


if __name__ == "__main__":
    run_stage(main, "dataset", lambda params: params.datasets, reads)
