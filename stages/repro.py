"""Run the whole comparison: check, `dvc repro`, the record in MLflow, the result.

`dvc repro` alone does the same work; this adds the repair of what a killed run left in DVC's way, arms side
by side (--jobs), the device as a switch, one sentence for bad params, and the summary at the end.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from lossbench.errors import GateError, UserError, exit_code, printable
from lossbench.lifetime import collect_rarely, die_with_parent
from lossbench.params import Params, load_params


def main(study: Path, jobs: int, device: str | None) -> None:
    """Run a study.

    Args:
        study: its folder.
        jobs: train stages side by side.
        device: written to ``compute.device`` of params.yaml, where given.

    """
    if not (study / "params.yaml").is_file():
        raise UserError(f"{study / 'params.yaml'}: no such file; a study is a folder with a params.yaml")
    os.chdir(study)
    params = load_params()
    from lossbench.checking import check

    if device is not None:  # refused before params.yaml is touched
        params = params.model_copy(update={"compute": params.compute.model_copy(update={"device": device})})
    check(params)
    if device is not None:
        set_device(device)
    mend()
    if jobs > 1:
        side_by_side(params, jobs)
    dvc("repro")
    run([sys.executable, "-m", "stages.track", "--lenient"])
    run([sys.executable, "-m", "stages.summary"])


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
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    file = Path("params.yaml")
    content = yaml.load(file.read_text(encoding="utf-8"))
    if content["compute"]["device"] == device:
        return
    content["compute"]["device"] = device
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def side_by_side(params: Params, jobs: int) -> None:
    """Tune and train arms in parallel: everything upstream first, then `dvc --wait-for-lock repro -s` each.

    Processors are divided between the jobs; on GPUs each job gets one (``CUDA_VISIBLE_DEVICES``).
    """
    dvc("repro", *(f"validate@{name}" for name in params.datasets))
    free, commands = _slots(params, jobs), Commands()

    def one(arm: str) -> int:
        slot = free.pop()
        stages = [f"tune@{arm}", f"train@{arm}"]
        try:
            return commands.call(["dvc", "--wait-for-lock", "repro", "-s", *stages], slot)
        finally:
            free.append(slot)

    with ThreadPoolExecutor(len(free)) as pool:
        try:
            codes = list(pool.map(one, params.arms))
        except BaseException:  # Ctrl-C or SIGTERM: the pool would wait for hours of training
            commands.end()
            raise
    failed = [arm for arm, code in zip(params.arms, codes, strict=True) if code]
    if failed:
        raise GateError(f"stage tune or train failed for {', '.join(failed)}; its output stands above")


def _slots(params: Params, jobs: int) -> list[dict[str, str]]:
    if params.compute.device == "cuda":
        import torch

        gpus = torch.cuda.device_count()
        return [{"CUDA_VISIBLE_DEVICES": str(slot % gpus)} for slot in range(jobs)]
    share = max(1, len(os.sched_getaffinity(0)) // jobs)
    return [{"LOSSBENCH_WORKERS": str(share)} for _ in range(jobs)]


def dvc(*arguments: str) -> None:
    """Run a dvc command.

    Raises:
        GateError: if it fails; its own output says why.

    """
    if Commands().call(["dvc", *arguments], {}):
        raise GateError(f"`dvc {' '.join(arguments)}` failed; its output stands above")


def run(command: Sequence[str]) -> None:
    """Run a step after dvc.

    Raises:
        GateError: if it fails.

    """
    if Commands().call(command, {}):
        raise GateError(f"`{' '.join(command[1:])}` failed; its output stands above")


class Commands:
    """Commands that run side by side and end together, each with its group: dvc leaves its stages running."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._over = False

    def call(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a command, ended with us; its exit code. After :meth:`end` none is started any more."""
        with self._lock:
            if self._over:
                return -signal.SIGTERM
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                process_group=0,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # only system calls: no lock to wait for
            )
            self._running.add(process)
        try:
            return process.wait()
        except BaseException:
            self.end()
            raise
        finally:
            self._running.discard(process)

    def end(self) -> None:
        """End what runs, by SIGTERM, and what still runs ten seconds later by SIGKILL."""
        with self._lock:
            self._over = True
            running = list(self._running)
        for process in running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + 10
        for process in running:
            try:
                process.wait(timeout=max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, number)


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
    parser.add_argument("--jobs", type=int, default=1, help="train stages side by side")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="write compute.device to params.yaml first")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, _asked_to_end)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a shell's background job
        signal.signal(signal.SIGINT, _asked_to_end)
    collect_rarely()
    sys.exit(exit_code(lambda: main(chosen.study, chosen.jobs, chosen.device)))
