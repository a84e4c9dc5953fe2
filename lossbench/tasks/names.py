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
MONITORS = {
    "anomaly": "similarity",
    "classification": "accuracy",
    "detection": "map50",
    "language_model": "log2_likelihood",
    "multilabel": "map",
    "segmentation": "mean_iou",
}
"""What chooses epochs and points of a search, unless the metric that decides has a validation form."""
