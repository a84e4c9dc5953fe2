"""A study of two replicates on the stand-in GPU, scored by a helper: prints, as JSON, what was kept and by whom.

Its argument is a folder to work in.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own study

from conftest import tiny_params, write_params

from lossbench.data.fetching import fetch
from lossbench.execution.fill import Arm, Filling, arm_flow
from lossbench.execution.jobs import SCORES
from lossbench.execution.local import LocalExecutor, where
from lossbench.outs import Outs
from lossbench.params import load_params
from lossbench.store import Store

ARM = "digits-focal"


def main(folder: str) -> None:
    root = Path(folder)
    content = tiny_params()
    content["experiments"].pop("scenes")
    content["datasets"].pop("scenes")
    content["arms"] = {name: one for name, one in content["arms"].items() if name.startswith("digits")}
    write_params(root, content | {"compute": {"device": "cuda"}, "seeds": [0, 1]})
    params, outs = load_params(root / "params.yaml"), Outs(root)
    fetch(params.datasets["digits"], "digits", root / "data/digits")
    store = Store(str(outs.home / "store"))
    arm, place = Arm(params, ARM, root), where(params, outs, store)
    filling = Filling(partial(LocalExecutor, params.compute, 1))
    filling.add(arm.name, lambda: arm_flow(arm, store, place, scores=True))
    filling.run()
    kept = [kind for kind, _ in store.entries()]
    print(json.dumps({"scores": kept.count(SCORES), "driver": os.getpid()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
