"""What tuning and training an arm have in common: the setting, and the store beside the outs."""

from pathlib import Path

from lossbench.params import Params
from lossbench.training.setting import Setting, prepare
from lossbench.training.store import Store
from stages.common import home


def setting_of(params: Params, arm: str) -> Setting:
    """Bring an arm's data, model, recipe and loss together."""
    from lossbench.data.dataset import Dataset
    from lossbench.tasks import task_class

    chosen = params.arms[arm]
    experiment = params.experiments[chosen.experiment]
    data = Dataset.open(Path("data") / chosen.dataset)
    task = task_class(experiment.task.name)(data.info, experiment.task.options)
    return prepare(
        task, data, experiment.model, experiment.recipe, params.losses[chosen.loss], params.compute
    )


def store_of(params: Params, arm: str, setting: Setting) -> Store:
    """Open the store of the arm's finished and unfinished replicates."""
    return Store.of(home(), setting, Path("data") / params.arms[arm].dataset)
