"""Turn one dataset's source into arrays, a manifest and their provenance."""

from collections.abc import Sequence
from pathlib import Path

from lossbench.params import Params

from .common import Part, run_stage


def main(params: Params, dataset: str) -> None:
    """Read the source, write data/<dataset>."""
    from lossbench.data.fetching import fetch
    from lossbench.originals import protect

    protect(params, Path())  # called by hand, it is the first to see params.yaml

    fetch(params.datasets[dataset], dataset, Path("data") / dataset)


def reads(params: Params, dataset: str) -> Sequence[Part]:
    """What of params.yaml the stage reads, as in dvc.yaml."""
    return [("datasets", dataset)]


if __name__ == "__main__":
    run_stage(main, "dataset", lambda params: params.datasets, reads)
