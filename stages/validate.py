"""Hold one dataset against its expectations; a failed critical one stops the chain."""

from pathlib import Path

from lossbench.params import Params
from stages.common import run_stage


def main(params: Params, dataset: str) -> None:
    """Read data/<dataset>, write reports/validation/<dataset>.json and, where all is well, .passed."""
    from lossbench.execution.validation import collect_validation
    from lossbench.outs import Outs
    from lossbench.store import opened

    outs = Outs(Path.cwd())
    with opened(outs.home) as store:
        collect_validation(params, dataset, outs, store)


if __name__ == "__main__":
    run_stage(main, "dataset", lambda params: params.datasets)
