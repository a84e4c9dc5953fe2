"""Folds: one dataset divided several times, so that every sample is tested; a seed has one of the divisions.

Seeds go round the folds in the order of ``params.yaml``: with five folds the first, sixth, … seed are tested
on the first. So a block, the replicates of all arms with one seed, has a fold of its own, the same for all
arms; blocks share no randomness of training, and every fold counts as often as another.
"""

from pathlib import Path

from lossbench.params import Params


def folds_of(params: Params, experiment: str) -> int:
    """How many folds an experiment's dataset has; 1 where it is divided once."""
    return params.datasets[params.experiments[experiment].dataset].folds or 1


def fold_of(params: Params, experiment: str, seed: int) -> int:
    """Which fold, from 0 on, a replicate with one of ``seeds`` is trained and tested on."""
    folds = folds_of(params, experiment)
    return params.seeds.index(seed) % folds if folds > 1 else 0


def fold_folder(data: Path, fold: int) -> Path:
    """Find a fold in ``data/<dataset>``: the first is the dataset itself, the others lie in it."""
    return data / f"fold-{fold}" if fold else data
