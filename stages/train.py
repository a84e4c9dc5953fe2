"""Train one arm: all its seeds, with what tuning found."""

import json
from pathlib import Path

from lossbench.params import Params
from stages.common import home, run_stage


def main(params: Params, arm: str) -> None:
    """Read data/<dataset> and reports/tuning/<arm>.json, write models/<experiment>/<arm>."""
    from lossbench.tracking.journal import JournalObserver
    from lossbench.training import Member, fit
    from lossbench.training.arm import describe, write_arm
    from lossbench.training.interruption import ending_on_sigterm
    from stages.arms import setting_of, store_of

    chosen = params.arms[arm]
    best = json.loads(Path(f"reports/tuning/{arm}.json").read_bytes())["best"]
    setting = setting_of(params, arm)
    members = [Member(seed, **best) for seed in params.seeds]
    names = {"arm": arm, "experiment": chosen.experiment, "dataset": chosen.dataset, "loss": chosen.loss}
    described = describe(setting, names, members)
    with (
        ending_on_sigterm(),
        JournalObserver.open(home(), described, params.tracking.system_metrics) as journal,
    ):
        store = store_of(params, arm, setting)
        replicates = fit(setting, members, store=store, observer=journal, label=f"train {arm}")
        write_arm(Path("models") / chosen.experiment / arm, described, replicates)


if __name__ == "__main__":
    run_stage(main, "arm", lambda params: params.arms)
