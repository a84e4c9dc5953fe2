"""The user's own folders: what is read, how it is brought to one shape, and what is refused in a sentence."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from law_cases import each, few
from PIL import Image

from lossbench.data.dataset import Dataset
from lossbench.data.expectations import validate
from lossbench.data.fetching import fetch
from lossbench.data.images import read_header, read_image, read_mask, resized
from lossbench.errors import GateError, UserError
from lossbench.params import Expectations
from tests.data_cases import class_folder, dataset, mask_folder, picture


def fetched(source: str, path: Path, out: Path, **options: object) -> Dataset:
    fetch(dataset(source, path, **options), "mine", out / "out")
    return Dataset.open(out / "out")


def refused(source: str, path: Path, **options: object) -> str:
    with pytest.raises(UserError) as error:
        fetch(dataset(source, path, **options), "mine", path.parent / "out")
    assert not (path.parent / "out").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_per_class_becomes_four_splits(tmp_path: Path) -> None:
    opened = fetched("image_folder", class_folder(tmp_path / "data"), tmp_path)
    assert opened.info.classes == ("ant", "bee", "cat")
    assert opened.info.input_shape == (1, 8, 8)
    assert sum(opened.info.sizes.values()) == 60
    table = pd.read_parquet(tmp_path / "out/manifest.parquet")
    assert (table["source"].str.split("/").str[0] == table["label"]).all()
    row = table[table["split"] == "train"].iloc[0]
    pixels = np.asarray(Image.open(tmp_path / "data" / row["source"]))
    np.testing.assert_array_equal(opened.split("train").inputs[row["index"], 0], pixels)


def test_the_users_own_division_is_kept(tmp_path: Path) -> None:
    for split, count in (("Train", 20), ("val", 4), ("test", 5)):
        class_folder(tmp_path / "data" / split, count)
    sizes = fetched("image_folder", tmp_path / "data", tmp_path).info.sizes
    assert (sizes["validation"], sizes["test"]) == (12, 15)
    assert sizes["train"] + sizes["reference"] == 60


def test_classes_are_numbered_in_natural_order_and_hidden_files_ignored(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "data", classes=("10", "2", "a"))
    (root / ".DS_Store").write_bytes(b"x")
    (root / "2/Thumbs.db").write_bytes(b"x")
    assert fetched("image_folder", root, tmp_path).info.classes == ("2", "10", "a")


def test_more_images_move_no_image_to_another_split(tmp_path: Path) -> None:
    def sides(out: str) -> dict[str, str]:
        fetched("image_folder", tmp_path / "data", tmp_path / out)
        table = pd.read_parquet(tmp_path / out / "out/manifest.parquet")
        return dict(zip(table["sha256"], table["split"], strict=True))

    class_folder(tmp_path / "data")
    before = sides("a")
    for index in range(30):
        picture(tmp_path / "data/bee" / f"a-new-{index}.png", seed=9)
    after = sides("b")
    assert before.items() <= after.items()
    assert len(after) == len(before) + 30


def spoil(root: Path, name: str, content: bytes) -> Path:
    (root / name).write_bytes(content)
    return root


def bomb(side: int) -> bytes:
    """A small PNG that claims side × side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def animated(root: Path) -> Path:
    frames = [Image.new("L", (8, 8), value) for value in (0, 100, 200)]
    frames[0].save(root / "bee/moving.gif", save_all=True, append_images=frames[1:])
    return root


def half(root: Path) -> Path:
    file = picture(root / "bee/half.png", (64, 64))
    file.write_bytes(file.read_bytes()[:2000])
    return root


def emptied(root: Path) -> Path:
    (root / "dog").mkdir()
    return root


BAD_CLASS_FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no image": (
        lambda root: spoil(root, "bee/notes.txt", b"hello"),
        "bee/notes.txt: not an image Lossbench can read",
    ),
    "video": (
        lambda root: spoil(root, "bee/clip.mp4", b"\0\0\0\x18ftypmp42"),
        "bee/clip.mp4: not an image Lossbench",
    ),
    "empty file": (
        lambda root: spoil(root, "bee/zero.png", b""),
        "bee/zero.png: not an image Lossbench can read",
    ),
    "half a file": (half, "bee/half.png: unreadable image: "),
    "large": (
        lambda root: spoil(root, "bee/b.png", bomb(10_000)),
        "bee/b.png: 10000×10000 pixels; at most 67108864",
    ),
    "bomb": (
        lambda root: spoil(root, "bee/b.png", bomb(60_000)),
        "bee/b.png: unreadable image: Image size (3600000000",
    ),
    "several frames": (animated, "bee/moving.gif: holds 3 pictures; expected one per file"),
    "empty class": (emptied, "dog: class 'dog' is empty"),
    "stray file": (lambda root: spoil(root, "list.csv", b"x"), "list.csv: a file beside the class folders"),
    "nested": (
        lambda root: picture(root / "bee/more/x.png").parents[2],
        "bee/more: a folder inside class 'bee'",
    ),
    "sizes": (lambda root: picture(root / "bee/zz.png", (9, 7)).parents[1], "bee/zz.png: 7×9 pixels, but "),
    "colours": (lambda root: picture(root / "bee/zz.png", (8, 8, 3)).parents[1], "bee/zz.png: colour, but "),
}


@each("case", BAD_CLASS_FOLDERS)
def test_a_bad_folder_of_classes_is_refused_by_name(case: str, tmp_path: Path) -> None:
    spoiled, says = BAD_CLASS_FOLDERS[case]
    assert says in refused("image_folder", spoiled(class_folder(tmp_path / "data", 3)))


def test_sizes_that_differ_name_two_files_and_the_key_to_set(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "data", 3)
    picture(root / "bee/zz.png", (9, 7))
    text = refused("image_folder", root)
    assert "ant/ant-0.png has 8×8" in text
    assert (
        "say 'datasets.mine.size: [height, width]' (and 'datasets.mine.resize': stretch, pad or crop)" in text
    )


def test_one_class_or_none_is_refused(tmp_path: Path) -> None:
    assert "1 class folders found" in refused("image_folder", class_folder(tmp_path / "one", 3, ("ant",)))
    (tmp_path / "none").mkdir()
    assert "no class folders in it" in refused("image_folder", tmp_path / "none")


def test_a_missing_folder_and_a_file_in_its_place_are_told_apart(tmp_path: Path) -> None:
    assert "no such folder" in refused("image_folder", tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"x")
    assert "a file; expected a folder" in refused("image_folder", tmp_path / "file")


def test_a_test_class_that_is_not_trained_on_names_the_nearest(tmp_path: Path) -> None:
    class_folder(tmp_path / "data/train", 5)
    class_folder(tmp_path / "data/test", 5, ("ant", "bees"))
    assert "no training images of this class; did you mean 'bee'" in refused(
        "image_folder", tmp_path / "data"
    )


def test_splits_must_be_recognisable(tmp_path: Path) -> None:
    class_folder(tmp_path / "a/test", 5)
    assert "no train folder beside test" in refused("image_folder", tmp_path / "a")
    class_folder(tmp_path / "b/train", 5)
    class_folder(tmp_path / "b/extra", 5)
    assert "extra: beside a train folder only" in refused("image_folder", tmp_path / "b")
    for name in ("train", "val", "valid"):
        class_folder(tmp_path / "c" / name, 5)
    assert "both the validation split" in refused("image_folder", tmp_path / "c")


def test_unequal_images_are_brought_to_one_size_and_their_own_is_on_record(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "data")
    picture(root / "bee/wide.png", (5, 30))
    opened = fetched("image_folder", root, tmp_path, size=[8, 10], channels=3)
    assert opened.info.input_shape == (3, 8, 10)
    table = pd.read_parquet(tmp_path / "out/manifest.parquet").set_index("source")
    assert table.loc["bee/wide.png", ["width", "height", "channels"]].tolist() == [30, 5, 1]


@pytest.mark.parametrize("method", ["stretch", "pad", "crop"])
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 12), st.integers(1, 12))
def test_every_resize_gives_the_size_asked_for(method: str, h: int, w: int, height: int, width: int) -> None:
    image = Image.new("L", (w, h), 7)
    assert resized(image, (height, width), method, Image.Resampling.NEAREST, 0).size == (width, height)  # type: ignore[arg-type]  # a literal


def test_pad_keeps_the_whole_picture_and_crop_its_middle(tmp_path: Path) -> None:
    wide = np.arange(8, dtype=np.uint8).repeat(4).reshape(8, 4).T  # 4 high, 8 wide: columns 0…7
    Image.fromarray(np.ascontiguousarray(wide)).save(tmp_path / "wide.png")
    padded = read_mask(tmp_path / "wide.png", (8, 8), "pad", 99)
    np.testing.assert_array_equal(padded[2:6], wide)
    assert (padded[[0, 1, 6, 7]] == 99).all()
    cropped = read_mask(tmp_path / "wide.png", (4, 4), "crop", 0)
    np.testing.assert_array_equal(cropped, wide[:, 2:6])


@given(height=st.integers(1, 9), width=st.integers(1, 9), how=st.sampled_from(["stretch", "pad", "crop"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resizing_a_mask_invents_no_value(height: int, width: int, how: str, tmp_path: Path) -> None:
    values = np.array([[0, 3, 7], [7, 0, 3]], np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    found = read_mask(tmp_path / "mask.png", (height, width), how, 0)  # type: ignore[arg-type]  # a literal
    assert set(np.unique(found)) <= {0, 3, 7}


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: turn by 90° clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    header = read_header(tmp_path / "turned.png")
    assert (header.width, header.height) == (2, 3)
    upright = read_image(tmp_path / "turned.png", 1, None, "stretch")[0]
    np.testing.assert_array_equal(upright, np.rot90(np.asarray(image), -1))


@each(
    ("mode", "channels", "expected"),
    [
        ("1", 1, 255),
        ("L", 1, 200),
        ("L", 3, 200),
        ("LA", 1, 200),
        ("P", 3, 200),
        ("RGBA", 3, 200),
        ("I;16", 1, 200),
    ],
)
def test_every_depth_becomes_eight_bits(mode: str, channels: int, expected: int, tmp_path: Path) -> None:
    values = np.full((4, 4), 200, np.uint8)
    image = (
        Image.fromarray(values.astype(np.uint16) * 256 + 255)
        if mode == "I;16"
        else Image.fromarray(values).convert(mode, dither=Image.Dither.NONE)
    )
    image.save(tmp_path / "x.png")
    found = read_image(tmp_path / "x.png", channels, None, "stretch")
    assert found.shape == (channels, 4, 4)
    assert (found == expected).all()


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=r"x\.tiff: floating-point pixels"):
        read_image(tmp_path / "x.tiff", 1, None, "stretch")


@given(
    content=st.binary(max_size=200),
    magic=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"P5 4 4 255\n"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_an_image_or_a_sentence(content: bytes, magic: bytes, tmp_path: Path) -> None:
    file = tmp_path / "any"
    file.write_bytes(magic + content)
    try:
        found = read_image(file, 1, None, "stretch")
    except UserError:
        return
    assert found.dtype == np.uint8


def test_masks_are_paired_with_images_by_name(tmp_path: Path) -> None:
    root = mask_folder(tmp_path / "data", size=30)
    opened = fetched("segmentation_folder", root, tmp_path)
    assert opened.info.classes == ("background", "foreground")
    assert (opened.info.sizes["validation"], opened.info.sizes["test"]) == (30, 30)
    table = pd.read_parquet(tmp_path / "out/manifest.parquet")
    row = table[table["split"] == "test"].iloc[3]
    mask = np.asarray(Image.open(root / row["source"].replace("images", "masks")))
    np.testing.assert_array_equal(opened.split("test").targets[row["index"]], mask)
    assert row["foreground"] == pytest.approx((mask > 0).mean())


def test_masks_without_a_division_are_split_by_content(tmp_path: Path) -> None:
    mask_folder(tmp_path / "data", ("train",), 60)
    sizes = fetched("segmentation_folder", tmp_path / "data/train", tmp_path).info.sizes
    assert sum(sizes.values()) == 60
    assert min(sizes["train"], sizes["validation"], sizes["test"]) > 0


def change_masks(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    for file in root.rglob("masks/*.png"):
        Image.fromarray(change(np.asarray(Image.open(file)))).save(file)
    return root


def test_values_name_the_classes_and_ignored_positions_stay_unknown(tmp_path: Path) -> None:
    def grey(mask: np.ndarray) -> np.ndarray:
        changed = np.where(mask > 0, 200, 50).astype(np.uint8)
        changed[0] = 7
        return changed

    root = change_masks(mask_folder(tmp_path / "data", size=20), grey)
    options = {"classes": ["cell", "ground"], "values": [200, 50], "ignore_index": 7}
    opened = fetched("segmentation_folder", root, tmp_path, **options)
    targets = np.asarray(opened.split("train").targets)
    assert opened.info.ignore_index == 255
    assert set(np.unique(targets[:, 0])) == {255}
    assert set(np.unique(targets[:, 1:])) == {0, 1}
    assert sum(opened.info.counts) == targets[:, 1:].size


@pytest.mark.parametrize(
    ("change", "classes"),
    [
        (lambda mask: mask * 255, ("background", "foreground")),
        (lambda mask: np.where(np.arange(64).reshape(8, 8) % 3 == 2, 2, mask).astype(np.uint8),
         ("background", "class_1", "class_2")),
    ],
)  # fmt: skip
def test_classes_are_found_in_the_masks(
    change: Callable[[np.ndarray], np.ndarray], classes: tuple[str, ...], tmp_path: Path
) -> None:
    root = change_masks(mask_folder(tmp_path / "data", size=20), change)
    assert fetched("segmentation_folder", root, tmp_path).info.classes == classes


@few("mode", ["RGBA", "RGB", "LA"])
def test_masks_of_grey_written_as_colours_are_read_as_grey(mode: str, tmp_path: Path) -> None:
    grey = mask_folder(tmp_path / "grey", size=20)
    same = shutil.copytree(grey, tmp_path / "same")
    for file in same.glob("*/masks/*"):
        Image.open(file).convert("L").convert(mode).save(file)
    expected = fetched("segmentation_folder", grey, tmp_path / "of grey").split("train").targets
    found = fetched("segmentation_folder", same, tmp_path / "of colours").split("train").targets
    np.testing.assert_array_equal(found, expected)


def lose(root: Path, name: str) -> Path:
    (root / name).unlink()
    return root


def lose_masks(root: Path) -> Path:
    for file in (root / "val/masks").iterdir():
        file.unlink()
    (root / "val/masks").rmdir()
    return root


def colour(root: Path) -> Path:
    picture(root / "val/masks/val0.png", (8, 8, 3))
    return root


def hidden(root: Path) -> Path:
    values = np.dstack([np.ones((8, 8, 3), np.uint8), np.full((8, 8), 255, np.uint8)])
    values[2, 3, 3] = 7
    Image.fromarray(values).save(root / "val/masks/val0.png")
    return root


def small_mask(root: Path) -> Path:
    picture(root / "val/masks/val0.png", (4, 4), 1)
    return root


def odd_value(root: Path) -> Path:
    picture(root / "val/masks/val0.png", (8, 8), 9)
    return root


BAD_MASK_FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no masks folder": (lose_masks, "val/masks: no such folder; expected images/ and masks/"),
    "no mask": (
        lambda root: lose(root, "val/masks/val0.png"),
        "val/images/val0.png: no mask of this name in",
    ),
    "no image": (
        lambda root: lose(root, "val/images/val0.png"),
        "val/masks/val0.png: no image of this name in",
    ),
    "colour mask": (colour, "val/masks/val0.png: a mask of mode RGB; expected one value per pixel"),
    "alpha": (hidden, "found (1, 1, 1, 7) in row 2, column 3, of which alpha is not opaque"),
    "other size": (small_mask, "val/masks/val0.png: 4×4 pixels, but its image has 8×8"),
    "odd value": (odd_value, "the masks hold the values 0, 1, 9, which do not say what the classes are"),
}


@each("case", BAD_MASK_FOLDERS)
def test_a_bad_folder_of_masks_is_refused_by_name(case: str, tmp_path: Path) -> None:
    spoiled, says = BAD_MASK_FOLDERS[case]
    assert says in refused("segmentation_folder", spoiled(mask_folder(tmp_path / "data", size=20)))


def test_an_unknown_mask_value_is_refused_by_file_and_value(tmp_path: Path) -> None:
    root = odd_value(mask_folder(tmp_path / "data", size=20))
    text = refused("segmentation_folder", root, classes=["ground", "cell"])
    assert "val/masks/val0.png: a mask with unknown values 9; allowed by 'datasets.mine': 0, 1" in text


@pytest.mark.slow
def test_a_mask_unlike_its_image_is_caught_even_where_both_are_resized(tmp_path: Path) -> None:
    root = small_mask(mask_folder(tmp_path / "data", size=20))
    fetched("segmentation_folder", root, tmp_path, size=[8, 8])
    with pytest.raises(GateError, match=r"masks are as wide as their images .*\n.*masks are as high"):
        validate(tmp_path / "out", Expectations(), "mine", tmp_path / "report.json", tmp_path / "gx")


def test_a_failed_fetch_leaves_the_former_data_alone(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "data")
    fetched("image_folder", root, tmp_path)
    before = (tmp_path / "out/train/inputs.npy").read_bytes()
    spoil(root, "bee/notes.txt", b"hello")
    with pytest.raises(UserError):
        fetched("image_folder", root, tmp_path)
    assert (tmp_path / "out/train/inputs.npy").read_bytes() == before
