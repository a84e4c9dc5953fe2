"""Masks with a palette of their own in each file: read as what they show, or refused naming two; never mixed up."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_cases import dataset, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples
from PIL import Image

from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.data.images import read_mask
from lossbench.data.sources.palettes import coloured
from lossbench.errors import UserError
from lossbench.studies import params_for

SHARES = {"validation": 0.25, "test": 0.25, "reference": 0.0}
GREYS = (0, 64, 128, 255)


def with_palette(file: Path, values: np.ndarray, order: list[int]) -> None:
    """Write grey values as indices of a palette in which they come in this order."""
    indices = np.zeros_like(values)
    for index, value in enumerate(order):
        indices[values == value] = index
    image = Image.fromarray(indices, "P")
    image.putpalette([band for value in order for band in (value, value, value)])
    image.save(file)


@settings(max_examples=examples(80), deadline=None)
@given(
    ending=st.sampled_from([".png", ".gif", ".bmp", ".tif"]),
    masks=st.lists(
        st.tuples(st.lists(st.sampled_from(GREYS), min_size=1, max_size=8), st.permutations(GREYS)),
        min_size=1,
        max_size=4,
    ),
)
def test_an_index_is_one_colour_in_all_masks_or_they_are_refused(
    ending: str, masks: list[tuple[list[int], list[int]]]
) -> None:
    """The oracle knows what was drawn: from equal indices, equal greys; by ``grey``, the greys themselves."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, (drawn, order) in enumerate(masks):
            files.append(Path(folder) / f"{number}{ending}")
            with_palette(files[-1], np.array([drawn], np.uint8), order)
        take, look = coloured("grey", "datasets.mine"), coloured(None, "datasets.mine")
        meant: dict[int, int] = {}
        alike = True
        try:
            for file, (drawn, _) in zip(files, masks, strict=True):
                found = read_mask(file, None, "stretch", 0, coloured=take)
                np.testing.assert_array_equal(found, [drawn])
                with Image.open(file) as image:
                    plain = image.mode == "L"  # a palette of 0, 1, 2, … is none
                indices = read_mask(file, None, "stretch", 0)[0].tolist()
                alike &= all(
                    meant.setdefault(one, grey) == grey for one, grey in zip(indices, drawn, strict=True)
                )
                read_mask(file, None, "stretch", 0, coloured=look)
                assert alike or plain
        except UserError as refused:
            assert not alike
            assert "say 'datasets.mine.palette: grey'" in str(refused)
            assert str(file) in str(refused) or "0" in str(refused)


def masks(root: Path, ending: str) -> Path:
    """0 and 255 as programs save them that make a palette for each file; some masks are all white."""
    for number in range(24):
        picture(root / "images" / f"{number}.png", (16, 16, 3), seed=number)
        drawn = np.full((16, 16), 255, np.uint8)
        if number % 3:
            drawn[: number % 8 + 2] = 0
        (root / "masks").mkdir(exist_ok=True)
        colours = sorted({*drawn.ravel().tolist()})
        with_palette(root / "masks" / f"{number}{ending}", drawn, colours)
    return root


@pytest.mark.parametrize("ending", [".png", ".gif"])
@pytest.mark.parametrize("source", ["segmentation_folder", "table"])
def test_the_white_of_a_mask_is_not_taken_for_background(source: str, ending: str, tmp_path: Path) -> None:
    root = masks(tmp_path / "mine", ending)
    rows = [f"images/{number}.png,masks/{number}{ending}\n" for number in range(24)]
    (root / "samples.csv").write_text("image,mask\n" + "".join(rows)) if source == "table" else None

    def fetched(**options: Any) -> Dataset:
        fetch(dataset(source, root, splits=SHARES, **options), "mine", tmp_path / "data")
        return Dataset.open(tmp_path / "data")

    with pytest.raises(UserError, match=r"value 0 is the colour .* each file has a palette of its own"):
        fetched()
    opened = fetched(palette="grey")
    assert opened.info.classes == ("background", "foreground")
    for split in ("train", "validation", "test"):
        targets = np.asarray(opened.split(split).targets)
        assert targets[:, -1].all()
        assert set(targets[:, 0].ravel().tolist()) <= {0, 1}
    assert fetched(palette="index").info.classes == ("background", "foreground")


def test_a_proposal_names_masks_whose_palettes_differ(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="each file has a palette of its own"):
        params_for("mine", masks(tmp_path / "mine", ".png"))


def test_colours_for_the_eye_beside_grey_masks_of_the_same_numbers_are_read(tmp_path: Path) -> None:
    look = coloured(None, "datasets.mine")
    drawn = np.array([[0, 1, 2]], np.uint8)
    Image.fromarray(drawn).save(tmp_path / "grey.png")
    image = Image.fromarray(drawn, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])  # Pascal VOC's
    image.save(tmp_path / "coloured.png")
    for name in ("grey.png", "coloured.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name, None, "stretch", 0, coloured=look), drawn)
    with pytest.raises(UserError, match=r"index 1 is the colour \(128, 0, 0\), which is no grey"):
        read_mask(tmp_path / "coloured.png", None, "stretch", 0, coloured=coloured("grey", "datasets.mine"))


def test_a_mask_of_floats_is_told_as_such(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif: a mask of float32 values; expected whole numbers"):
        read_mask(tmp_path / "x.tif", None, "stretch", 0)
