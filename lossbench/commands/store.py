"""List, verify and prune what was computed."""

import argparse
from collections import Counter

from lossbench.commands.study import enter_study, study_argument
from lossbench.errors import GateError
from lossbench.outs import Outs
from lossbench.store import opened


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("action", choices=["list", "verify"], help="how many of each kind, or read all")
    study_argument(parser)
    parser.add_argument("--drop", action="store_true", help="forget what verify finds damaged")


def main(chosen: argparse.Namespace) -> None:
    """Look at the store.

    Raises:
        GateError: if something is damaged, and was not dropped.

    """
    outs = Outs(enter_study(chosen.study))
    with opened(outs.home) as store:
        if chosen.action == "list":
            for kind, count in sorted(Counter(kind for kind, _ in store.entries()).items()):
                print(f"{kind:<12}{count:>8}")
            return
        damaged = store.damaged()
        for kind, key, sentence in damaged:
            print(sentence)
            if chosen.drop:
                store.drop(kind, key)
    if damaged and not chosen.drop:
        raise GateError(f"{len(damaged)} entries are damaged; --drop has them computed anew")
