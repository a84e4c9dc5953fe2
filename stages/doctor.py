"""Find and repair what crashes left behind in the study of the current folder; nothing good is removed.

Exit codes: 0 nothing is wrong (any more); 1 something was found (--check), or a living process, a server
that does not answer or an error stood in the way; 2 this is no study.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.errors import GateError, UserError, exit_code, printable

if TYPE_CHECKING:
    from lossbench.doctor import Finding


def main(check: bool) -> None:
    """Examine and, unless ``check``, repair; a line for each thing.

    Args:
        check: only look.

    """
    root = Path.cwd()
    if not (root / "params.yaml").is_file():
        raise UserError(f"{root / 'params.yaml'}: no such file; run from a study's folder")
    from lossbench.doctor import examine, find_repository, guarded

    with guarded(find_repository(root)) as undisturbed:
        made = examine(root, undisturbed)
        failed = sum(not treat(one, check) for one in made.findings)
    for sentence in made.unseen:
        print(printable(f"not looked at: {sentence}"))
    if made.busy:
        raise GateError(
            f"at work: {', '.join(made.busy)}; what it may hold was left alone: run again when it has ended"
        )
    if failed:
        raise GateError(f"{failed} of {len(made.findings)} things could not be repaired")
    if check and made.findings:
        raise GateError(f"{len(made.findings)} things to repair; `make doctor` does it")
    if made.unseen:
        raise GateError("not everything could be looked at")
    if not made.findings:
        print("nothing to repair")


def treat(one: "Finding", check: bool) -> bool:
    """Repair a thing (or not) and say so; False if it cannot be repaired."""
    try:
        if not check:
            one.repair()
    except OSError as error:
        print(printable(f"{one.what}; cannot be repaired: {error.strerror or error}"))
        return False
    print(printable(one.what if check else f"{one.what}; {one.cure}"))
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only look; exit code 1 if something is found")
    chosen = parser.parse_args()
    sys.exit(exit_code(lambda: main(chosen.check)))
