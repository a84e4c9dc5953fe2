"""Search and train one arm, all its seeds; what the store has is taken from it."""

from collections.abc import Sequence
from pathlib import Path

from lossbench.checked import checked_by_caller
from lossbench.params import Params

from .common import Part, from_store, run_stage


def main(params: Params, arm: str) -> None:
    """Read data/<dataset>, write models/<experiment>/<arm> and reports/tuning/<arm>.json."""
    from lossbench.execution.collect import collect_arm
    from lossbench.execution.fill import Arm, arm_flow
    from lossbench.execution.sites import site
    from lossbench.outs import Outs
    from lossbench.store import opened

    outs = Outs(Path.cwd())
    with opened(outs.home) as store:
        made = Arm(params, arm, outs.study)
        place = site(params, outs, store)
        from_store(
            params,
            store,
            place,
            lambda filling: filling.add(arm, lambda: arm_flow(made, store, place.where(), scores=False)),
            lambda: collect_arm(made, store, outs),
            label=f"train {arm}",
            before=lambda: _try(params),
        )


def _try(params: Params) -> None:
    """Try what is to be trained: DVC may have brought back a ``.passed`` that a refused run had removed."""
    from lossbench.running import check_in_worker

    if not checked_by_caller():
        check_in_worker(params)


def reads(params: Params, arm: str) -> Sequence[Part]:
    """What of params.yaml the stage reads, as in dvc.yaml."""
    chosen = params.arms[arm]
    return [
        ("experiments", chosen.experiment),
        ("losses", chosen.loss),
        ("tuning",),
        ("seeds",),
        ("compute",),
    ]


if __name__ == "__main__":
    run_stage(main, "arm", lambda params: params.arms, reads)
