"""Small data made on the spot: tables, folders of images, IDX files."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from lossbench.data.dataset import DatasetInfo
from lossbench.data.fetching import describe
from lossbench.data.manifest import manifest
from lossbench.data.samples import Fetched, Samples
from lossbench.params import Dataset

CLASSES = ("ant", "bee", "cat")
SIZES = {"train": 90, "validation": 45, "test": 45, "reference": 45}


def sound(kind: str) -> tuple[pd.DataFrame, DatasetInfo]:
    """A manifest without a fault, of labels or of masks."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, size in SIZES.items():
        images = rng.integers(0, 256, (size, 1, 8, 8), dtype=np.uint8)
        labels = np.arange(size) % len(CLASSES)
        masks = rng.integers(0, len(CLASSES), (size, 8, 8), dtype=np.uint8)
        names = [f"{index}.png" for index in range(size)]
        splits[name] = Samples(images, labels if kind == "label" else masks, names)
    fetched = Fetched(kind, CLASSES, splits, {})  # type: ignore[arg-type]  # a literal, from a parameter
    return manifest(splits, fetched), describe(splits, fetched)


def dataset(source: str, path: Path | str = "requirements.lock", **options: Any) -> Dataset:
    return Dataset.model_validate({"source": source, "path": str(path), **options})


def picture(file: Path, shape: tuple[int, ...] = (8, 8), value: int | None = None, seed: int = 0) -> Path:
    """Write an image of noise, or of one value."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *map(ord, file.as_posix()[-12:])]).integers(0, 256, shape)
    pixels = noise if value is None else np.full(shape, value)
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    return file


def class_folder(root: Path, per_class: int = 20, classes: tuple[str, ...] = CLASSES) -> Path:
    for name in classes:
        for index in range(per_class):
            picture(root / name / f"{name}-{index}.png")
    return root


def mask_folder(root: Path, splits: tuple[str, ...] = ("train", "val", "test"), size: int = 6) -> Path:
    for split in splits:
        for index in range(size):
            picture(root / split / "images" / f"{split}{index}.png")
            mask = np.random.default_rng(index).integers(0, 2, (8, 8))
            file = root / split / "masks" / f"{split}{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8)).save(file)
    return root


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)
