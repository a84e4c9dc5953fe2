"""Where the sources are: a module is imported when its source is asked for. A new source adds a line."""

MODULES = {
    "cifar10": "cifar",
    "coco": "coco",
    "digit_scenes": "digit_scenes",
    "digits": "digits",
    "embedded_text": "embedded_text",
    "fashion_mnist": "mnist",
    "image_folder": "folders",
    "mnist": "mnist",
    "multilabel_csv": "multilabel_csv",
    "segmentation_folder": "folders",
    "table": "table",
    "text_file": "text_file",
    "voc": "voc",
}
"""Name in params.yaml → module."""
