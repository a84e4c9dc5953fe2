"""What is settled whatever the store holds: outs that DVC knows to be as they would be made.

So a clone that has pulled its outs trains nothing, though its store is empty.
"""

import json
import subprocess
from collections.abc import Mapping

from lossbench.execution.fill import Arm
from lossbench.execution.jobs import TRAIN
from lossbench.execution.lineage import lineage, written_in
from lossbench.outs import Outs
from lossbench.params import Params
from lossbench.store import Store


def settled(params: Params, arms: Mapping[str, Arm], outs: Outs, store: Store) -> frozenset[str]:
    """Name stages that need nothing: ``train@arm`` of arms that the store lacks something of, ``evaluate@…``.

    DVC is asked, which takes a second or two, only where the store lacks something.

    Args:
        params: of the study.
        arms: all of them.
        outs: of the study; ``reports/checked`` may be of an earlier edit.
        store: what is there.

    """
    lacking = {name for name, arm in arms.items() if lacks(arm, store)}
    if not lacking or not (outs.study / "dvc.lock").is_file():
        return frozenset()
    current = _current(params, lacking, outs)
    trained = {name for name in lacking if f"train@{name}" not in current}
    return frozenset(current - {f"evaluate@{params.arms[name].experiment}" for name in trained})


def lacks(arm: Arm, store: Store) -> bool:
    """Whether anything of an arm would have to be trained."""
    found, _ = arm.found(store)
    if found is None:
        return True
    wanted = [arm.replicates(found), *arm.budgets(found).values()]
    return any(store.get(TRAIN, key) is None for one in wanted for key in one.keys)


def _current(params: Params, arms: set[str], outs: Outs) -> set[str]:
    """Name the stages that DVC would skip, the code as it is now."""
    files = {f"train@{name}": f"arms/{name}.json" for name in arms}
    files |= {f"evaluate@{name}": f"experiments/{name}.json" for name in params.experiments}
    folders = {f"train@{name}": outs.arm(params.arms[name].experiment, name) for name in arms}
    folders |= {f"evaluate@{name}": outs.evaluation(name) for name in params.experiments}
    there = [stage for stage, folder in folders.items() if folder.exists()]
    if not there:  # DVC takes a second to say so
        return set()
    wanted = lineage(params, outs.study)
    same = {stage for stage in there if written_in(outs, files[stage]) == wanted[files[stage]]}
    if not same:
        return set()
    asked = subprocess.run(
        ["dvc", "status", "--json", *sorted(same)],
        cwd=outs.study, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if asked.returncode:  # a damaged dvc.lock, or none of these stages yet: `dvc repro` will tell
        return set()
    changed = {stage.rpartition(":")[2] for stage in json.loads(asked.stdout)}
    return same - changed
