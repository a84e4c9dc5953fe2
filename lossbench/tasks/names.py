"""Where the tasks are: a module is imported when its task is asked for. A new task adds a line."""

MODULES = {
    "anomaly": "anomaly",
    "classification": "classification",
    "detection": "detection",
    "language_model": "language",
    "multilabel": "multilabel",
    "segmentation": "segmentation",
}
"""Name in params.yaml → module."""
