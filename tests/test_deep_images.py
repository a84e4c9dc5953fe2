"""Images of more than 8 bits, or more than three bands, from the folder to the answer."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from data_cases import dataset
from law_cases import each, mostly_slow
from PIL import Image
from training_cases import digest, setting

from lossbench.data.dataset import Dataset
from lossbench.data.expectations import validate
from lossbench.data.fetching import fetch
from lossbench.errors import GateError, UserError
from lossbench.params import Expectations
from lossbench.reporting.gallery import image_address
from lossbench.serving.files import _read
from lossbench.tasks import task_class
from lossbench.training import portions
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from tests.data_cases import picture

CASES: dict[str, tuple[Any, float, int, dict[str, Any], str]] = {
    "12 bits in 16": (np.uint16, 4095, 1, {}, "uint16"),
    "12 bits in 16, of a range": (np.uint16, 4095, 1, {"range": [0, 4095]}, "uint16"),
    "five bands": (np.uint16, 65535, 5, {}, "uint16"),
    "floating point": (np.float32, 1000, 3, {"range": [0, 1000]}, "float32"),
    "signed": (np.int16, 2000, 1, {"range": [-100, 2000]}, "float32"),
    "four bands of 8 bits": (np.uint8, 255, 4, {}, "uint8"),
}
"""Type on disk, largest value, bands, options, type stored."""


def write(root: Path, case: str) -> Path:
    kind, most, bands, _, _ = CASES[case]
    for number in range(60):
        random = np.random.default_rng(number)
        values = random.random((8, 8, bands)) * 0.6
        values[2 * (number % 3)] += 0.35  # a bright row tells the class
        values[0, 0], values[0, 1] = 0, 1
        file = root / "abc"[number % 3] / f"{number}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        layout = {"planarconfig": "contig"} if bands > 1 else {}
        tifffile.imwrite(file, (values * most).astype(kind).squeeze(), photometric="minisblack", **layout)
    return root


@pytest.fixture(params=mostly_slow(CASES, 3))
def case(request) -> str:
    return request.param


@pytest.fixture
def data(case: str, tmp_path: Path) -> Dataset:
    fetch(
        dataset("image_folder", write(tmp_path / "mine", case), **CASES[case][3]), "mine", tmp_path / "data"
    )
    return Dataset.open(tmp_path / "data")


def test_the_depth_is_kept_and_the_statistics_are_numpys(case: str, data: Dataset) -> None:
    _, _, bands, options, dtype = CASES[case]
    stored = np.asarray(data.split("train").inputs)
    assert (stored.dtype, data.info.dtype, data.info.input_shape) == (dtype, dtype, (bands, 8, 8))
    assert data.info.reading.get("range") == options.get("range")
    scaled = stored.astype(np.float64) / {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    assert data.info.mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), abs=1e-7)
    assert data.info.std == pytest.approx(scaled.std(axis=(0, 2, 3)), abs=1e-7)
    task = task_class("classification")(data.info)
    encoded = task.encode_inputs(torch.from_numpy(stored))
    assert encoded.dtype == torch.float32
    assert encoded.mean().item() == pytest.approx(0, abs=1e-4)
    assert encoded.std().item() == pytest.approx(1, abs=0.01)


def test_bits_of_training_do_not_depend_on_where_the_images_lie(data: Dataset, monkeypatch) -> None:
    recipe = {"augmentation": {"flip": True, "noise": 0.1}}
    made = train_replicate(setting(data, **recipe), Member(0))
    assert not made.diverged
    with monkeypatch.context() as patch:
        patch.setattr(portions, "ENCODED_AHEAD", 0)
        assert digest(train_replicate(setting(data, **recipe), Member(0))) == digest(made)
    monkeypatch.setenv("LOSSBENCH_MEMORY", "0")
    assert digest(train_replicate(setting(data, **recipe), Member(0))) == digest(made)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["12 bits in 16", "12 bits in 16, of a range", "floating point"], indirect=True
)
def test_validation_says_where_a_small_part_of_the_range_is_used(
    case: str, data: Dataset, tmp_path: Path
) -> None:
    validate(data.folder, Expectations(), "mine", tmp_path / "report.json", tmp_path / "gx")
    found = {one["name"]: one for one in json.loads((tmp_path / "report.json").read_text())["expectations"]}
    assert found["highest_value"]["success"]
    assert found["range_used"]["success"] is (case != "12 bits in 16")
    assert found["range_used"]["severity"] == "warning"


def test_the_gallery_shows_and_a_file_is_answered_as_it_was_trained_on(data: Dataset, tmp_path: Path) -> None:
    split = data.split("test")
    shown = task_class("classification")(data.info).show_input(np.asarray(split.inputs[0]))
    assert shown.pixels.dtype == np.uint8
    assert np.ptp(shown.pixels) > 128
    assert image_address(shown.pixels).startswith("data:image/png")
    table = pd.read_parquet(data.folder / "manifest.parquet")
    row = table[table["split"] == "test"].iloc[0]
    model = SimpleNamespace(info=data.info, resize="stretch")
    answered = _read(model, tmp_path / "mine" / row["source"])
    np.testing.assert_array_equal(answered, split.inputs[row["index"]])


def test_anomalies_of_deep_images_are_scored(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", "12 bits in 16, of a range")
    fetch(
        dataset("image_folder", root, range=[0, 4095], anomaly={"normal": ["a", "b"]}),
        "mine",
        tmp_path / "data",
    )
    data = Dataset.open(tmp_path / "data")
    task = task_class("anomaly")(data.info)
    inputs = np.asarray(data.split("test").inputs)
    intensities = task.intensities(task.encode_inputs(torch.from_numpy(inputs)))
    np.testing.assert_allclose(intensities, inputs / 65535, atol=1e-5)
    floors = task.floors(data)
    assert all(0 <= one["auroc"] <= 1 for one in floors.values())
    decided = task.show_decision((inputs[0] / 65535).astype(np.float32), np.int64(0), inputs[0])
    assert decided.text.endswith("MSE 0.0000")


def test_eight_bits_among_sixteen_keep_their_scale(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", "five bands")
    for file in sorted(root.rglob("*.tif"))[::2]:
        values = tifffile.imread(file)
        tifffile.imwrite(
            file, (values >> 8).astype(np.uint8), photometric="minisblack", planarconfig="contig"
        )
    fetch(dataset("image_folder", root), "mine", tmp_path / "data")
    inputs = np.asarray(Dataset.open(tmp_path / "data").split("train").inputs)
    assert inputs.dtype == np.uint16
    assert inputs.max(axis=(1, 2, 3)).min() > 60_000
    with pytest.raises(UserError, match=r"'datasets\.mine\.range' holds for one type"):
        fetch(dataset("image_folder", root, range=[0, 255]), "mine", tmp_path / "other")


@each(
    ("options", "says"),
    [
        ({}, r"floating-point pixels have no fixed range; say 'datasets\.mine\.range: \[lowest, highest\]'"),
        ({"range": [3, 3]}, r"'datasets\.mine\.range': the lowest value \(3\) must lie below the highest"),
        ({"range": [0, float("inf")]}, r"datasets\.mine\.range"),
        ({"range": [0, 1], "channels": 2}, "colour|3 bands|of 3 bands"),
        ({"range": [0, 1], "channels": 0}, r"datasets\.mine\.channels"),
        ({"range": [0, 1], "orientation": "turn"}, r"datasets\.mine\.orientation"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(
    options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    root = write(tmp_path / "mine", "floating point")
    with pytest.raises(UserError, match=says):
        fetch(dataset("image_folder", root, **options), "mine", tmp_path / "data")


def orientation_of(file: str) -> int:
    """Every eighth picture is turned alike."""
    return int(Path(file).stem) % 8 + 1


def turned_masks(root: Path, orientation: int | None = None, shape: tuple[int, int] = (8, 8)) -> Path:
    """Pictures that equal their masks before a tag turns them; one of all eight, or all by the same."""
    for number in range(40):
        raw = np.random.default_rng(number).integers(0, 2, shape).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = orientation or orientation_of(f"{number}.png")
        for name, options in (("images", {"exif": exif} if exif[0x0112] > 1 else {}), ("masks", {})):
            file = root / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(raw).save(file, **options)
    return root


@pytest.mark.parametrize("declared", [None, "apply", "ignore"])
def test_a_mask_drawn_on_raw_pixels_meets_its_image_where_tags_are_ignored(
    declared: str | None, tmp_path: Path
) -> None:
    options = {} if declared is None else {"orientation": declared}
    fetch(
        dataset("segmentation_folder", turned_masks(tmp_path / "mine"), **options), "mine", tmp_path / "data"
    )
    split = Dataset.open(tmp_path / "data").split("train")
    table = pd.read_parquet(tmp_path / "data/manifest.parquet")
    turned = table["source"].map(orientation_of)
    assert set(turned) == set(range(1, 9))
    for row, orientation in zip(table.itertuples(), turned, strict=True):
        if row.split != "train":
            continue
        met = np.array_equal(split.inputs[row.index, 0], split.targets[row.index])
        assert met is (declared == "ignore" or orientation == 1), orientation
    assert (table["orientation"] == turned).all()
    assert (table["orientation_in_doubt"] == ((turned != 1) & (declared is None))).all()
    if declared is None:
        found = expected_of(tmp_path / "data", tmp_path)["orientation_agrees"]
        assert (found["success"], found["severity"]) == (False, "warning")


def test_a_mask_of_the_raw_size_names_the_tag(tmp_path: Path) -> None:
    root = turned_masks(tmp_path / "mine", 6, (6, 9))
    with pytest.raises(
        UserError,
        match=r"9×6 pixels, but its image has 6×9, turned as its EXIF tag asks .*orientation: ignore",
    ):
        fetch(dataset("segmentation_folder", root), "mine", tmp_path / "data")
    fetch(dataset("segmentation_folder", root, orientation="ignore"), "mine", tmp_path / "data")
    assert Dataset.open(tmp_path / "data").info.reading == {"orientation": "ignore"}


def test_images_of_eight_bits_are_described_as_before(tmp_path: Path) -> None:
    for number in range(40):
        picture(tmp_path / "mine" / "ab"[number % 2] / f"{number}.png")
    fetch(dataset("image_folder", tmp_path / "mine"), "mine", tmp_path / "data")
    assert Dataset.open(tmp_path / "data").info.extra == {}


@pytest.mark.slow
def test_a_value_above_white_is_critical(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", "five bands")
    fetch(dataset("image_folder", root), "mine", tmp_path / "data")
    table = pd.read_parquet(tmp_path / "data/manifest.parquet")
    table.loc[0, "maximum"] = 65536
    table.to_parquet(tmp_path / "data/manifest.parquet")
    with pytest.raises(GateError, match="no pixel value lies above 65535"):
        validate(tmp_path / "data", Expectations(), "mine", tmp_path / "report.json", tmp_path / "gx")


def expected_of(folder: Path, tmp_path: Path) -> dict[str, dict[str, object]]:
    validate(folder, Expectations(min_per_class=1), "mine", tmp_path / "report.json", tmp_path / "gx")
    return {one["name"]: one for one in json.loads((tmp_path / "report.json").read_text())["expectations"]}


@pytest.mark.slow
def test_a_few_images_of_fewer_bits_are_counted_and_named(tmp_path: Path) -> None:
    write(tmp_path / "mine", "five bands")
    for number in (7, 11):
        file = tmp_path / "mine" / "abc"[number % 3] / f"{number}.tif"
        tifffile.imwrite(file, tifffile.imread(file) >> 4, photometric="minisblack", planarconfig="contig")
    fetch(dataset("image_folder", tmp_path / "mine"), "mine", tmp_path / "data")
    found = expected_of(tmp_path / "data", tmp_path)["range_used"]
    assert not found["success"]
    assert str(found["observed"]).startswith("2 of 60 rows otherwise")
    assert {str(one).rpartition("/")[2] for one in found["examples"]} == {"7.tif", "11.tif"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", mostly_slow([np.uint16, np.uint8, np.int16, np.float32], 4))
def test_values_that_a_declared_range_clips_are_counted_and_reported(kind: type, tmp_path: Path) -> None:
    beyond: dict[str, int] = {}
    for number in range(40):
        random = np.random.default_rng(number)
        values = random.integers(0, 120, (9, 7)).astype(kind)
        file = tmp_path / "mine" / "ab"[number % 2] / f"{number}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(file, values, photometric="minisblack")
        beyond[f"{'ab'[number % 2]}/{number}.tif"] = int(((values < 5) | (values > 110)).sum())
    options = {"range": [5, 110], "size": [4, 4]}  # counted before anything is resized
    fetch(dataset("image_folder", tmp_path / "mine", **options), "mine", tmp_path / "data")
    table = pd.read_parquet(tmp_path / "data/manifest.parquet").set_index("source")
    assert table["clipped_values"].to_dict() == beyond
    told = json.loads((tmp_path / "data/provenance.json").read_text())["clipped_values"]
    assert told == {"values": sum(beyond.values()), "images": sum(one > 0 for one in beyond.values())}
    if kind is not np.uint16:  # what is said of the counts does not ask for the type
        return
    found = expected_of(tmp_path / "data", tmp_path)["values_within"]
    assert (found["success"], found["severity"]) == (False, "warning")
    assert str(found["observed"]).startswith(f"{told['images']} of 40 rows")
