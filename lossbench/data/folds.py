"""Dividing one pool of samples into folds: each tests once, validates once, and trains otherwise."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lossbench.data.samples import POOL, Array, Fetched, Samples
from lossbench.errors import UserError

GROUP = "group"
"""Column of what must stay whole; without it samples of one content stay together."""


def dealt(groups: Sequence[str], folds: int, salt: str) -> Array:
    """Deal groups to folds of about equal size.

    The largest group comes first, equals in the order of a hash, each to the fold that has fewest samples.

    Args:
        groups: what each sample belongs to.
        folds: how many; no more than there are groups.
        salt: another one deals otherwise.

    Returns:
        (n,) number of each sample's fold, from 0 on.

    """
    sizes = Counter(groups)

    def turn(group: str) -> tuple[int, str]:
        return -sizes[group], hashlib.sha256(f"{salt}:fold:{group}".encode()).hexdigest()

    held, place = [0] * folds, {}
    for group in sorted(sizes, key=turn):
        place[group] = held.index(min(held))
        held[place[group]] += sizes[group]
    return np.array([place[group] for group in groups], np.int64)


def folded(fetched: Fetched, folds: int, salt: str, name: str) -> list[dict[str, Samples]]:
    """Divide a pool as often as there are folds.

    Fold k is the test split of the k-th division, the one after it the validation split; the rest is trained
    on, and nothing is kept aside for retraining.

    Args:
        fetched: what a source handed over, looked at.
        folds: how many.
        salt: see :func:`dealt`.
        name: of the dataset, for messages.

    Raises:
        UserError: where the samples are divided already, or there are fewer groups than folds.

    """
    if set(fetched.groups) != {POOL}:
        given = ", ".join(sorted(set(fetched.groups) - {POOL}))
        raise UserError(
            f"datasets.{name}.folds is {folds}, but the data are divided already ({given}); remove 'folds', "
            "or let the data name no split"
        )
    pool = fetched.groups[POOL]
    groups = [str(one) for one in pool.columns.get(GROUP) or pool.hashes()]
    if len(set(groups)) < folds:
        what = "groups" if GROUP in pool.columns else "different samples"
        raise UserError(
            f"datasets.{name}.folds is {folds}, but there are {len(set(groups))} {what}; allowed: at most as "
            "many folds"
        )
    place = dealt(groups, folds, salt)
    return [_division(pool, (place - fold) % folds) for fold in range(folds)]


def _division(pool: Samples, turned: Array) -> dict[str, Samples]:
    sides = {
        "train": turned > 1,
        "validation": turned == 1,
        "test": turned == 0,
        "reference": np.zeros(len(pool), bool),
    }
    return {split: pool.take(np.flatnonzero(side)) for split, side in sides.items()}
