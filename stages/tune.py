"""Search one arm's learning rate (and more, where params say so) on validation data, as every other arm's."""

import json
from pathlib import Path

from lossbench.params import Params
from stages.common import run_stage


def main(params: Params, arm: str) -> None:
    """Read data/<dataset>, write reports/tuning/<arm>.json."""
    out = Path(f"reports/tuning/{arm}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"arm": arm, **_search(params, arm)}, indent=1) + "\n", encoding="utf-8")


def _search(params: Params, arm: str) -> dict[str, object]:
    loss = params.losses[params.arms[arm].loss]
    if not params.tuning.trials:  # nothing to search: spare torch and the data
        return {"points": 0, "seeds": [], "monitor": None, "trials": [], "best": {}, "edge": []}
    from lossbench.training import fit
    from lossbench.tuning import search
    from stages.arms import setting_of, store_of

    experiment = params.experiments[params.arms[arm].experiment]
    if params.tuning.epochs is not None:
        recipe = experiment.recipe.model_copy(update={"epochs": params.tuning.epochs})
        changed = experiment.model_copy(update={"recipe": recipe})
        params = params.model_copy(
            update={"experiments": {**params.experiments, params.arms[arm].experiment: changed}}
        )
    setting = setting_of(params, arm)
    store = store_of(params, arm, setting)
    return search(
        params.tuning,
        loss,
        setting.task.monitor,
        lambda members: fit(setting, members, store=store, label=f"tune {arm}"),
    )


if __name__ == "__main__":
    run_stage(main, "arm", lambda params: params.arms)
