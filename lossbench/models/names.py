"""Where the models are: a module is imported when its model is asked for. A new model adds a line."""

MODULES = {
    "airbench": "airbench",
    "autoencoder": "autoencoder",
    "grid_detector": "detector",
    "lenet": "lenet",
    "lstm": "lstm",
    "mnist_cnn": "mnist_cnn",
    "resnet": "resnet",
    "simple_cnn": "simple_cnn",
    "torchvision": "torchvision",
    "unet": "unet",
}
"""Name in params.yaml → module."""

LOOP_ONLY = frozenset({"lstm"})
"""Models that no population can train: torch has no rule for stacking an LSTM."""
