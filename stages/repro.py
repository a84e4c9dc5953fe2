"""Run the whole comparison: check, `dvc repro`, the record in MLflow, the result.

`dvc repro` alone does the same work, one stage after another; this adds arms side by side, the repair of what
a killed run left, the device as a switch, one sentence for bad params, and the result at the end.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossbench.chain import without_git
from lossbench.commands import step
from lossbench.errors import GateError, UserError, exit_code, printable
from lossbench.lifetime import collect_rarely
from lossbench.lock import REPRO_LOCK, HeldError, only_one
from lossbench.params import load_params
from stages.common import home
from stages.recorder import RECORD, Recorder


def main(study: Path, jobs: int | None, device: str | None) -> None:
    """Run a study.

    Args:
        study: its folder.
        jobs: arms side by side; None for as many as keep the processors, or the GPUs, at work.
        device: written to ``compute.device`` of params.yaml, where given.

    """
    if not (study / "params.yaml").is_file():
        raise UserError(f"{study / 'params.yaml'}: no such file; a study is a folder with a params.yaml")
    os.chdir(study)
    params = load_params()
    from lossbench.checking import check
    from lossbench.editing import write_out_homes

    params = write_out_homes(params, Path())
    without_git(Path())
    if device is not None:  # refused before params.yaml is touched
        params = params.model_copy(update={"compute": params.compute.model_copy(update={"device": device})})
    check(params)
    if device is not None:
        set_device(device)
    from stages.side_by_side import side_by_side  # imports torch, as the check does

    with _alone():
        mend()
        if jobs == 1:
            step("dvc", "repro")
            step(sys.executable, *RECORD)
        else:
            with Recorder() as recorder:
                side_by_side(params, jobs, nearly_done=recorder.start)
                recorder.tell("trained")
                step("dvc", "repro")
                recorder.tell("reported")
        step(sys.executable, "-m", "stages.summary")


@contextmanager
def _alone() -> Iterator[None]:
    """Refuse to run beside another of its kind: each would stop at the stages that the other has begun."""
    try:
        with only_one(home() / REPRO_LOCK, "`make repro`"):
            yield
    except HeldError as held:
        raise GateError(f"{held}; try again when it has ended") from None


def mend() -> None:
    """Repair what a killed run left in DVC's way, unless somebody is at work here: then DVC decides."""
    from lossbench.doctor import examine_files, find_repository, guarded, repair_all

    root = Path.cwd()
    with guarded(find_repository(root)) as undisturbed:
        found = examine_files(root, undisturbed).findings
        failed = repair_all(found, lambda sentence: print(printable(sentence), file=sys.stderr))
    if failed:
        raise GateError(f"{failed} of {len(found)} things that a killed run left could not be repaired")


def set_device(device: str) -> None:
    """Write ``compute.device``, keeping comments and order."""
    from lossbench.editing import write_values

    write_values(Path("params.yaml"), {("compute", "device"): device})


def _number(text: str) -> int | None:
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number from 1, or auto")
    return int(text)


def _asked_to_end(number: int, frame: object) -> None:
    """Leave by an exception, once: a second signal would break off the ending of what runs."""
    del frame
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, default=Path(), help="folder with a params.yaml")
    parser.add_argument(
        "--jobs",
        type=_number,
        help="arms side by side; 1 for one after another; auto, the default: what the machine has room for",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="write compute.device to params.yaml first")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, _asked_to_end)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a shell's background job
        signal.signal(signal.SIGINT, _asked_to_end)
    collect_rarely()
    sys.exit(exit_code(lambda: main(chosen.study, chosen.jobs, chosen.device)))
