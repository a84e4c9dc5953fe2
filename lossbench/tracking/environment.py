"""The versions that decide results, without importing what they belong to."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "mlflow", "dvc")


def versions() -> dict[str, str]:
    """List versions of Python and of the packages above that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
