"""Training many replicates on equal terms. Imports neither mlflow nor dvc nor Great Expectations."""

from lossbench.training.fit import fit
from lossbench.training.prediction import predict
from lossbench.training.replicate import Observer, Record, Replicate
from lossbench.training.setting import Member, Setting, prepare
from lossbench.training.store import Store

__all__ = ["Member", "Observer", "Record", "Replicate", "Setting", "Store", "fit", "predict", "prepare"]
