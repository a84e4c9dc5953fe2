"""Trains a group's cases on the stand-in GPU, and prints of each, as JSON, what a step asked of it.

Run by the test, in a process of its own, with the stand-in preloaded. Its arguments are the stand-in and the
group.
"""

import ctypes
import io
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import planted
import torch
from cases import BATCH, FEW, STEPS, Case, groups
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.synthetic import CLASSES, setting, synthetic
from lossbench.data.dataset import Dataset
from lossbench.training import graphs, loop, optimization, patches, population, portions
from lossbench.training.member import Member
from lossbench.training.samples import Plan
from lossbench.training.setting import Setting

MEMBERS = (Member(0), Member(1), Member(2))
OURS = Path(__file__).parents[2]


class Counter:
    """Counts of the stand-in at the end of each step."""

    def __init__(self, library: str) -> None:
        self.runtime = ctypes.CDLL(library)
        self.runtime.standin_held.restype = ctypes.c_long
        self.marks: list[tuple[int, int, int]] = []
        self.began = self.strayed = 0

    def reset(self) -> None:
        self.marks.clear()
        self.began = self.runtime.standin_replays()
        self.strayed = self.runtime.standin_strays()

    @property
    def replays(self) -> int:
        """Graphs launched since the last reset."""
        return self.runtime.standin_replays() - self.began

    @property
    def strays(self) -> int:
        """Kernels launched beside a recording since the last reset."""
        return self.runtime.standin_strays() - self.strayed

    def mark(self) -> None:
        runtime = self.runtime
        self.marks.append((runtime.standin_waits(), runtime.standin_launches(), runtime.standin_held()))

    def per_step(self, warm: int) -> dict[str, int]:
        """The most that any step but the first ``warm``, which warm up, waited and launched.

        And the least that any left in memory: what each of them does, a longer training does for ever.
        """
        steps = [
            [later - earlier for earlier, later in zip(before, after, strict=True)]
            for before, after in zip(self.marks[warm - 1 :], self.marks[warm:], strict=False)
        ]
        waits, launches, held = zip(*steps, strict=True)
        return {"waits": max(waits), "launches": max(launches), "kept": min(held)}


@contextmanager
def told_of_steps(tell: Callable[[], None]) -> Iterator[None]:
    """Call ``tell`` whenever either engine has taken a step."""
    take = graphs.Steps.__call__

    def told(*given: Any) -> None:
        take(*given)
        tell()

    # Numbers mean nothing here, so that a recorded step is believed to end in the right ones.
    # Few members take the way of many.
    fewest = dict.fromkeys(patches.FEWEST, len(MEMBERS))
    with (
        patch.object(graphs.Steps, "__call__", told),
        patch.object(graphs, "_same", lambda *_: True),
        patch.object(patches, "FEWEST", fewest),
    ):
        yield


class Asked(TorchDispatchMode):
    """Names what a step asks torch for, the way back included, until the optimizer takes over.

    That is told its rate by a number in a step as it comes, and by a tensor in one that is recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.over = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.over:
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@contextmanager
def asking(asked: dict[bool, list[str]]) -> Iterator[None]:
    """Note what the last step that came asked for (False), and the last that was recorded (True)."""

    def listening(take: Callable[..., None]) -> Callable[..., None]:
        def listened(*given: Any) -> None:
            with Asked() as mode, patch.object(optimization.Optimizer, "step", ending(mode)):
                take(*given)
            asked[torch.cuda.is_current_stream_capturing()] = mode.names

        return listened

    update = optimization.Optimizer.step

    def ending(mode: Asked) -> Callable[..., None]:
        def ended(*given: Any) -> None:
            mode.over = True
            update(*given)

        return ended

    one, many = loop._Run, population._Population
    with (
        patch.object(one, "_step", listening(one._step)),
        patch.object(many, "_step", listening(many._step)),
    ):
        yield


def with_more(data: Dataset, name: str) -> Dataset:
    """Add weights of samples, or of a mask's positions; or soft labels."""
    for split in ("train", "validation"):
        targets = data.split(split).targets
        shape = (*targets.shape, CLASSES) if name == "soft" else targets.shape
        np.save(data.folder / split / f"{name}.npy", np.full(shape, 1 / CLASSES, np.float32))
    data.info.extra[name] = True if name == "soft" else ("sample" if targets.ndim == 1 else "position")
    return data


def train(made: Setting) -> None:
    if made.compute.engine == "population":
        population.train_population(made, MEMBERS)
    else:
        loop.train_replicate(made, MEMBERS[0])


def prepared(case: Case, data: Dataset) -> Setting:
    ahead = portions.encoded_ahead if case.ahead else lambda *_: 0
    recipe = {"batch_size": FEW if case.graphs else BATCH, **case.recipe}
    how = (case.loss, case.engine, case.precision, case.graphs)
    with patch.object(portions, "encoded_ahead", ahead):
        return setting(data, case.network, "cuda", *how, **recipe)


def measure(case: Case, data: Dataset, counter: Counter) -> dict[str, Any]:
    """Train, and say what a step cost; where it waited, or what it raised."""
    counter.reset()
    made = prepared(case, data)
    said, asked = io.StringIO(), dict[bool, list[str]]()
    recurrent = case.kind == "tokens"  # the stand-in has no cuDNN of its own for these
    listening = asking(asked) if case.graphs else nullcontext()
    with torch.backends.cudnn.flags(enabled=not recurrent), told_of_steps(counter.mark):
        with redirect_stderr(said), listening:
            train(made)
        found = {
            **counter.per_step(graphs.WARM + 1 if case.graphs else 1),
            "drawn": drawn(made),
            "strays": counter.strays,
        }
        if case.graphs:
            ours = [line for line in said.getvalue().splitlines() if line.startswith("warning: ")]
            return {**found, "replays": counter.replays, "said": "\n".join(ours), "other": other(asked)}
        if found["waits"]:
            found["where"] = waiting(made)
    return found


def other(asked: dict[bool, list[str]]) -> str:
    """What a recorded step first asks for that the step as it comes does not, or the other way round."""
    came, recorded = asked.get(False, []), asked.get(True, [])
    pairs = zip_longest(came, recorded, fillvalue="nothing")
    return next((f"{one}, recorded {two}" for one, two in pairs if one != two), "")


def drawn(made: Setting) -> bool:
    """Whether a step drew from the CPU's generator, which has nothing to say about a GPU's numbers.

    It was seeded for the last step, in the loop; a population's members have generators of their own.
    """
    if made.compute.engine == "population":
        return False
    plan = Plan(made, MEMBERS[0].seed)
    last = plan.dropout_seed(1, plan.per_epoch - 1)
    expected = torch.Generator().manual_seed(last).get_state()
    return not torch.equal(expected, torch.default_generator.get_state())


def waiting(made: Setting) -> str:
    """Say which line of ours waits for the device in a step: torch raises there, from the first step's end on."""
    try:
        with told_of_steps(lambda: torch.cuda.set_sync_debug_mode("error")):
            train(made)
    except RuntimeError as error:
        return place(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "nowhere that torch tells of"


def place(error: BaseException) -> str:
    """The last line of ours that an error passed."""
    passed = traceback.extract_tb(error.__traceback__)
    frames = [one for one in passed if OURS in Path(one.filename).parents and ".venv" not in one.filename]
    last = frames[-1]
    return f"{Path(last.filename).name}:{last.lineno}: {last.line}"


def main(library: str, group: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Synchronization debug mode|Attempting to run cuBLAS")
    counter = Counter(library)
    opened: dict[Any, Dataset] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in planted.cases() if group == "planted" else groups()[group]:
            key = (case.kind, case.shape, case.beside)
            if key not in opened:
                where = Path(folder) / str(len(opened))
                made = synthetic(where, case.kind, case.shape, BATCH * STEPS, validation=8)  # type: ignore[arg-type]  # a kind
                opened[key] = with_more(made, case.beside) if case.beside else made
            try:
                with planted.planted(case):
                    found = measure(case, opened[key], counter)
            except Exception as error:  # whatever it is, the test tells it with its case
                found = {
                    "error": f"{type(error).__name__}: {str(error).splitlines()[0]}",
                    "where": place(error),
                }
            print(json.dumps({"case": case.name, **found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
