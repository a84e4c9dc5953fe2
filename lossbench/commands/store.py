"""List, verify and prune what was computed."""

import argparse
import time

from lossbench.commands.study import enter_study, study_argument
from lossbench.errors import GateError, UserError
from lossbench.outs import Outs
from lossbench.pruning import DAY, Item, items, read_size, remove, say_size, to_prune
from lossbench.store import Store, opened


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument(
        "action",
        choices=["list", "verify", "prune"],
        help="what there is of each kind; read all and hold it against its hashes; remove what is old",
    )
    study_argument(parser)
    parser.add_argument("--drop", action="store_true", help="forget what verify finds damaged")
    parser.add_argument(
        "--older-than", metavar="DAYS", help="prune: what was written more than so many days ago"
    )
    parser.add_argument("--keep", metavar="SIZE", help="prune: the oldest, until no more than SIZE is left")
    parser.add_argument("--dry-run", action="store_true", help="prune: only say what would go")


def main(chosen: argparse.Namespace) -> None:
    """Look at the store.

    Raises:
        GateError: if something is damaged, and was not dropped.

    """
    outs = Outs(enter_study(chosen.study))
    with opened(outs.home) as store:
        if chosen.action == "list":
            _list(store)
        elif chosen.action == "verify":
            _verify(store, chosen.drop)
        else:
            size = None if chosen.keep is None else read_size(chosen.keep)
            _prune(store, _days(chosen.older_than), size, chosen.dry_run)


def _list(store: Store) -> None:
    kinds: dict[str, list[Item]] = {}
    for one in items(store.place):
        kinds.setdefault(one.kind, []).append(one)
    now = time.time()
    for kind, found in sorted(kinds.items()):  # the oldest stands first
        old, young = (max(0.0, now - one.written) / DAY for one in (found[0], found[-1]))
        size = say_size(sum(one.size for one in found))
        print(f"{kind:<12}{len(found):>8}{size:>12}   {young:.0f} to {old:.0f} days old")


def _verify(store: Store, drop: bool) -> None:
    damaged = store.damaged()
    for kind, key, sentence in damaged:
        print(sentence)
        if drop:
            store.drop(kind, key)
    if damaged and not drop:
        raise GateError(f"{len(damaged)} entries are damaged; --drop has them computed anew")
    if not damaged:
        count = sum(1 for _ in store.entries())
        print(f"{count} of {count} entries are what was written")


def _prune(store: Store, days: float | None, size: int | None, dry: bool) -> None:
    gone = list(to_prune(store.place, days, size))
    if not dry:
        for one in gone:
            remove(store.place, one)
    would = "would go" if dry else "went"
    print(f"{len(gone)} of the store's entries {would}, {say_size(sum(one.size for one in gone))}")


def _days(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise UserError(f"store prune: --older-than is '{text}'; allowed: a number of days from 0")
    return days
