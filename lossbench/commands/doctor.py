"""Find and repair what crashes left behind in the study of the current folder; nothing good is removed.

Exit codes: 0 nothing is wrong (any more); 1 something was found (--check), or a living process, a server
that does not answer or an error stood in the way; 2 this is no study.
"""

import argparse
from pathlib import Path

from lossbench.commands.study import enter_study, study_argument
from lossbench.errors import GateError, UserError
from lossbench.telling import printable


def examine_here(check: bool) -> None:
    """Examine and, unless ``check``, repair; a line for each thing.

    Args:
        check: only look.

    """
    root = Path.cwd()
    if not (root / "params.yaml").is_file():
        raise UserError(f"{root / 'params.yaml'}: no such file; run from a study's folder")
    from lossbench.doctor import examine, find_repository, guarded, repair_all

    with guarded(find_repository(root)) as undisturbed:
        made = examine(root, undisturbed)
        failed = 0 if check else repair_all(made.findings, say)
    for one in made.findings if check else ():
        say(one.what)
    for sentence in made.unseen:
        say(f"not looked at: {sentence}")
    if made.busy:
        raise GateError(
            f"at work: {', '.join(made.busy)}; what it may hold was left alone: run again when it has ended"
        )
    if failed:
        raise GateError(f"{failed} of {len(made.findings)} things could not be repaired")
    if check and made.findings:
        raise GateError(f"{len(made.findings)} things to repair; `lossbench doctor` does it")
    if made.unseen:
        raise GateError("not everything could be looked at")
    if not made.findings:
        print("nothing to repair")


def say(sentence: str) -> None:
    """Print a line, whatever a file is called."""
    print(printable(sentence))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("--check", action="store_true", help="only look; exit code 1 if something is found")


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    enter_study(chosen.study)
    examine_here(chosen.check)
