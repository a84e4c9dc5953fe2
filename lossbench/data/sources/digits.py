"""1 797 handwritten digits of 8×8: real data inside scikit-learn's wheel, no download."""

from importlib.metadata import distribution, version

import numpy as np

from lossbench.data.samples import POOL, Array, Fetched, Samples
from lossbench.data.sources.base import Options, Source, register
from lossbench.params import Dataset

CLASSES = tuple("0123456789")
PROVENANCE = {
    "name": "Optical recognition of handwritten digits (test part)",
    "origin": "E. Alpaydin, C. Kaynak; UCI Machine Learning Repository; shipped by scikit-learn",
    "licence": "CC BY 4.0",
    "version": f"scikit-learn {version('scikit-learn')}",
}


def load_digits() -> tuple[Array, Array]:
    """Return images (1797, 8, 8) uint8 in 0..255 (stored as 0..16) and labels (1797,) int64."""
    # The file that sklearn.datasets.load_digits reads; importing scikit-learn for it would cost 2 seconds.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",", dtype=np.int64)
    return np.minimum(rows[:, :-1] * 16, 255).astype(np.uint8).reshape(-1, 8, 8), rows[:, -1]


@register
class Digits(Source[Options]):
    """The digits as a pool, divided by content."""

    name = "digits"
    shape = (1, 8, 8)

    def load(self, dataset: Dataset, options: Options, key: str) -> Fetched:
        """Read them from the installed scikit-learn."""
        images, labels = load_digits()
        names = [f"digit-{index:04d}" for index in range(len(labels))]
        return Fetched("label", CLASSES, {POOL: Samples(images[:, None], labels, names)}, PROVENANCE)
