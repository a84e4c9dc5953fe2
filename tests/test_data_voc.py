"""Folders in the layout of Pascal VOC: what becomes of boxes, and what is refused in a sentence."""

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import pytest
from conftest import stage, tiny_params, write_params
from law_cases import each

from lossbench.data.dataset import Dataset
from lossbench.data.expectations import validate
from lossbench.data.fetching import fetch
from lossbench.errors import GateError, UserError
from lossbench.params import Expectations
from lossbench.recognition import recognise
from tests.data_cases import dataset, picture

Boxes = tuple[tuple[str, float, float, float, float], ...]
TWO: Boxes = (("bee", 2, 3, 10, 8), ("ant", 0, 0, 20, 12))


def annotation(boxes: Boxes = TWO, size: tuple[int, int] | None = (20, 12), more: str = "") -> str:
    objects = "".join(
        f"<object><name>{escape(name)}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox>{more}</object>"
        for name, x0, y0, x1, y1 in boxes
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation>{stated}{objects}</annotation>"


def voc_folder(root: Path, lists: bool = True, **splits: int) -> Path:
    """Images of 12×20 with two boxes each, in three lists."""
    for split, count in (splits or {"train": 6, "val": 3, "test": 3}).items():
        names = [f"{split}{index}" for index in range(count)]
        for name in names:
            picture(root / "JPEGImages" / f"{name}.png", (12, 20, 3))
            add(root, name, annotation())
        if lists:
            file = root / "ImageSets/Main" / f"{split}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(names) + "\n")
    return root


def add(root: Path, name: str, text: str) -> None:
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")


def fetched(path: Path, out: Path, **options: object) -> Dataset:
    fetch(dataset("voc", path, **options), "mine", out / "out")
    return Dataset.open(out / "out")


def refused(path: Path, **options: object) -> str:
    with pytest.raises(UserError) as error:
        fetch(dataset("voc", path, **options), "mine", path.parent / "out")
    assert not (path.parent / "out").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def boxes_of(opened: Dataset, split: str, source: str, out: Path) -> np.ndarray:
    table = pd.read_parquet(out / "out/manifest.parquet")
    row = table[(table["split"] == split) & (table["source"] == source)].iloc[0]
    return np.asarray(opened.split(split).targets[row["index"]])


def test_boxes_become_padded_targets_in_the_folders_own_division(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data")
    add(root, "train0", annotation((*TWO, ("cat", 1, 1, 2, 2))))
    opened = fetched(root, tmp_path, splits={"reference": 0})
    assert opened.info.kind == "boxes"
    assert opened.info.classes == ("ant", "bee", "cat")
    assert opened.info.target_shape == (3, 5)
    assert opened.info.sizes == {"train": 6, "validation": 3, "test": 3, "reference": 0}
    assert opened.info.counts == (6, 6, 1)
    found = boxes_of(opened, "test", "JPEGImages/test1.png", tmp_path)
    np.testing.assert_array_equal(found, [[2, 3, 10, 8, 1], [0, 0, 20, 12, 0], [0, 0, 0, 0, -1]])


def test_boxes_are_stretched_with_their_images(tmp_path: Path) -> None:
    opened = fetched(voc_folder(tmp_path / "data"), tmp_path, size=[24, 10])
    assert opened.info.input_shape == (3, 24, 10)
    found = boxes_of(opened, "test", "JPEGImages/test1.png", tmp_path)
    np.testing.assert_array_equal(found, [[1, 6, 5, 16, 1], [0, 0, 10, 24, 0]])


def test_without_lists_images_are_divided_by_content(tmp_path: Path) -> None:
    opened = fetched(voc_folder(tmp_path / "data", lists=False, all=40), tmp_path)
    assert sum(opened.info.sizes.values()) == 40
    assert opened.info.sizes["test"] > 0


def test_annotations_that_count_pixels_from_1_are_moved(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        voc_folder(root, **{split: count})
    for file in (root / "Annotations").iterdir():
        file.write_text(annotation((("ant", 1, 1, 20, 12),)))
    opened = fetched(root, tmp_path, first_pixel=1)
    assert (opened.split("train").targets == [0, 0, 20, 12, 0]).all()


def test_difficult_objects_are_kept_unless_asked(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data")
    add(root, "train0", annotation((("ant", 0, 0, 5, 5),), more="<difficult>1</difficult>"))
    assert sum(fetched(root, tmp_path).info.counts) == 11
    assert sum(fetched(root, tmp_path, difficult="drop").info.counts) == 10


@pytest.mark.slow
def test_boxes_without_an_area_are_left_out_and_reported_not_fatal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = voc_folder(tmp_path / "data")
    add(root, "val2", annotation((*TWO, ("ant", 4, 4, 4, 9), ("ant", 4, 4, 8, 4))))
    opened = fetched(root, tmp_path)
    table = pd.read_parquet(tmp_path / "out/manifest.parquet").set_index("source")
    assert table["dropped_boxes"].sum() == table.loc["JPEGImages/val2.png", "dropped_boxes"] == 2
    assert (opened.split("validation").targets[..., 4] >= 0).sum() == 6
    validate(tmp_path / "out", Expectations(), "mine", tmp_path / "report.json", tmp_path / "gx")
    said = capsys.readouterr().out
    assert "warning: expected that every annotated box has an area" in said
    assert "val2.png" in said


@pytest.mark.slow
def test_data_whose_boxes_leave_the_image_do_not_pass_validation(tmp_path: Path) -> None:
    fetched(voc_folder(tmp_path / "data"), tmp_path)
    table = pd.read_parquet(tmp_path / "out/manifest.parquet")
    table.loc[3, "stray_boxes"] = 1
    table.to_parquet(tmp_path / "out/manifest.parquet")
    with pytest.raises(GateError, match="boxes lie inside their images"):
        validate(tmp_path / "out", Expectations(), "mine", tmp_path / "report.json", tmp_path / "gx")


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><filename>&b;</filename></annotation>"""
FETCHING = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/hostname">]>
<annotation><filename>&a;</filename></annotation>"""
BAD = {
    "beyond the image": (
        annotation((("ant", 2, 3, 21, 8),)),
        "object 1 ('ant'): the box from (2, 3) to (21, 8)",
    ),
    "before the image": (annotation((("bee", -4, 0, 3, 3),)), "reaches beyond the image's 20×12 pixels"),
    "inside out": (
        annotation((*TWO, ("ant", 9, 3, 2, 8))),
        "object 3 ('ant'): the box from (9, 3) to (2, 8)",
    ),
    "not a number": (annotation((("ant", "x", 3, 2, 8),)), "<xmin> is 'x'; expected a number"),  # type: ignore[arg-type]  # that is the test
    "not finite": (annotation((("ant", float("nan"), 3, 2, 8),)), "is no box"),
    "no edge": (annotation().replace("<xmax>20</xmax>", ""), "object 2 ('ant'): no <xmax>"),
    "no box": ("<annotation><object><name>ant</name></object></annotation>", "object 1 ('ant'): no <bndbox>"),
    "no name": (annotation().replace("<name>ant</name>", ""), "object 2: no <name>"),
    "another size": (annotation(size=(30, 12)), "says that the image is 30×12 pixels"),
    "no size": (annotation(size=("wide", 12)), "expected whole numbers of pixels"),  # type: ignore[arg-type]  # that is the test
    "truncated": (annotation()[:120], "no well-formed XML"),
    "not XML": ("{}", "no well-formed XML"),
    "entities": (BOMB, "declares entities"),
    "a file fetched": (FETCHING, "declares entities"),
    "an unknown encoding": ('<?xml version="1.0" encoding="klingon"?><annotation/>', "test1.xml: no "),
    "another document": ("<html></html>", "begins with <'html'>"),
    "class of no training image": (annotation((("wasp", 1, 1, 4, 4),)), "no class is named 'wasp'"),
}


@each("fault", BAD)
def test_a_bad_annotation_is_one_sentence_with_its_file(fault: str, tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data")
    text, said = BAD[fault]
    add(root, "test1", text)
    message = refused(root)
    assert said in message
    assert "test1.xml" in message


def test_a_class_that_the_list_lacks_is_refused_with_the_nearest(tmp_path: Path) -> None:
    message = refused(voc_folder(tmp_path / "data"), classes=["ants", "bee"])
    assert "no class is named 'ant'; did you mean 'ants'?" in message


def test_a_listed_image_or_annotation_that_is_missing_is_named_with_its_row(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data")
    (root / "Annotations/val1.xml").unlink()
    assert "val.txt, row 2: no file of the name 'val1' in Annotations" in refused(root)
    (root / "JPEGImages/val1.png").unlink()
    assert "val.txt, row 2: no file of the name 'val1' in JPEGImages" in refused(root)


def test_an_image_in_two_lists_is_refused(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data")
    (root / "ImageSets/Main/test.txt").write_text("test0\ntrain3\n")
    assert "test.txt, row 2: 'train3' stands in train.txt, row 4 already" in refused(root)


def test_an_unpaired_file_is_refused_where_no_list_says_what_counts(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", lists=False)
    (root / "Annotations/val1.xml").unlink()
    assert "val1.png: no annotation of this name" in refused(root)
    (root / "JPEGImages/val1.png").unlink()
    (root / "JPEGImages/val2.png").unlink()
    assert "val2.xml: no image of this name" in refused(root)


def test_a_video_instead_of_an_image_is_refused(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data")
    (root / "JPEGImages/train2.png").unlink()
    (root / "JPEGImages/train2.mp4").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(200))
    assert "train2.mp4: not an image Lossbench can read" in refused(root)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert "expected JPEGImages/ and Annotations/" in refused(tmp_path / "data")
    assert "did you mean 'difficult'?" in refused(voc_folder(tmp_path / "data"), difficulty="drop")


@pytest.mark.slow
def test_the_stage_ends_with_exit_code_2_and_one_sentence(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "theirs")
    add(root, "train1", annotation((("ant", 2, 3, 99, 8),)))
    content = tiny_params()
    content["datasets"]["mine"] = {"source": "voc", "path": str(root)}
    write_params(tmp_path, content)
    ended = stage(tmp_path, "fetch", "mine")
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "train1.xml: object 1 ('ant'): the box from (2, 3) to (99, 8) reaches beyond" in ended.stderr


@pytest.mark.parametrize(
    "names", [("Train", "VAL", "Test"), ("training", "valid", "TEST"), ("TrainVal", "validation", "test")]
)
def test_lists_are_found_in_any_case_and_by_any_name_of_a_split(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    root = voc_folder(tmp_path / "data")
    for old, new in zip(("train", "val", "test"), names, strict=True):
        (root / f"ImageSets/Main/{old}.txt").rename(root / f"ImageSets/Main/{new}.txt")
    opened = fetched(root, tmp_path, splits={"reference": 0})
    assert opened.info.sizes == {"train": 6, "validation": 3, "test": 3, "reference": 0}


def test_two_lists_of_one_split_are_refused_naming_both(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data")
    (root / "ImageSets/Main/valid.txt").write_text("val0\n")
    assert "val.txt and valid.txt are both lists of the validation split" in refused(root)


def test_no_study_is_proposed_where_no_box_has_an_area(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", lists=False, train=6)
    for number in range(6):
        add(root, f"train{number}", annotation((("bee", 2, 3, 2, 8),)))
    with pytest.raises(UserError, match=r"object 1 \('bee'\): it has no area, nor has any other box"):
        recognise(root)
