"""Training many replicates on equal terms. Imports neither mlflow nor dvc nor Great Expectations."""

from typing import TYPE_CHECKING

from lossbench.lookup import lazily

if TYPE_CHECKING:
    from lossbench.training.fitting import fit as fit
    from lossbench.training.member import Member as Member
    from lossbench.training.prediction import predict as predict
    from lossbench.training.replicate import Observer as Observer
    from lossbench.training.replicate import Record as Record
    from lossbench.training.replicate import Replicate as Replicate
    from lossbench.training.setting import Setting as Setting
    from lossbench.training.setting import prepare as prepare

__getattr__ = lazily(
    __name__,
    {
        "Member": "member",
        "Observer": "replicate",
        "Record": "replicate",
        "Replicate": "replicate",
        "Setting": "setting",
        "fit": "fitting",
        "predict": "prediction",
        "prepare": "setting",
    },
)
