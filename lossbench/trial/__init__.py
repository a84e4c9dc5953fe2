"""One step on a few samples before anything is trained.

The outputs' shape, which the model gives, is filled with zeros and shown to every loss beside real targets.
"""

from lossbench.trial.experiment import try_experiment, try_shape
from lossbench.trial.model import try_model
from lossbench.trial.shared import Trial

__all__ = ["Trial", "try_experiment", "try_model", "try_shape"]
