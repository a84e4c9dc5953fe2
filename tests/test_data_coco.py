"""COCO instances: what becomes of boxes, and what is refused in a sentence."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from conftest import stage, tiny_params, write_params
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, few

from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.data.sources.listing import nfc
from lossbench.errors import UserError
from tests.data_cases import dataset, picture
from tests.law_cases import examples

CATEGORIES = [{"id": 7, "name": "bee", "supercategory": "insect"}, {"id": 3, "name": "ant"}]


def instances(names: list[str]) -> dict[str, Any]:
    """Two boxes per image of 12×20, and a crowd."""
    images = [
        {"id": 100 + index, "file_name": name, "width": 20, "height": 12} for index, name in enumerate(names)
    ]
    found: list[dict[str, Any]] = []
    for image in images:
        for category, box, crowd in (
            (7, [2, 3, 8, 5], 0),
            (3, [0, 0, 20, 12], 0),
            (3, [0, 0, 4, 4], 1),
        ):
            found.append(
                {
                    "id": len(found),
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box,
                    "iscrowd": crowd,
                }
            )
    return {"info": {}, "images": images, "annotations": found, "categories": CATEGORIES}


def write(root: Path, name: str, content: object) -> None:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / name).write_text(json.dumps(content))


TEXT = st.text(min_size=1).map(lambda text: nfc(text).strip()).filter(bool)


def coco_folder(root: Path) -> Path:
    """COCO's own layout: a folder of images and a file of instances per split."""
    for split, count in (("train2017", 6), ("val2017", 3), ("test2017", 3)):
        names = [f"{index:04d}.png" for index in range(count)]
        for name in names:
            picture(root / split / name, (12, 20, 3))
        write(root, f"instances_{split}.json", instances(names))
    write(root, "captions_train2017.json", {})
    return root


def fetched(path: Path, out: Path, **options: object) -> Dataset:
    fetch(dataset("coco", path, **options), "mine", out / "out")
    return Dataset.open(out / "out")


def refused(path: Path, **options: object) -> str:
    with pytest.raises(UserError) as error:
        fetch(dataset("coco", path, **options), "mine", path.parent / "out")
    assert not (path.parent / "out").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_boxes_become_padded_targets_crowds_are_left_out(tmp_path: Path) -> None:
    opened = fetched(coco_folder(tmp_path / "data"), tmp_path, splits={"reference": 0})
    assert opened.info.kind == "boxes"
    assert opened.info.classes == ("ant", "bee")
    assert opened.info.sizes == {"train": 6, "validation": 3, "test": 3, "reference": 0}
    expected = [[2, 3, 10, 8, 1], [0, 0, 20, 12, 0]]
    assert (opened.split("test").targets == expected).all()


def test_the_order_of_classes_can_be_given_and_images_resized(tmp_path: Path) -> None:
    opened = fetched(coco_folder(tmp_path / "data"), tmp_path, classes=["bee", "ant"], size=[24, 10])
    np.testing.assert_array_equal(opened.split("test").targets[0], [[1, 6, 5, 16, 0], [0, 0, 10, 24, 1]])


def test_one_file_of_instances_is_divided_by_content(tmp_path: Path) -> None:
    root = tmp_path / "data"
    names = [f"{index}.png" for index in range(40)]
    for name in names:
        picture(root / "images" / name, (12, 20, 3))
    write(root, "instances.json", instances(names))
    sizes = fetched(root, tmp_path).info.sizes
    assert sum(sizes.values()) == 40
    assert sizes["test"] > 0


def test_files_elsewhere_are_named_in_params(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    folders = {"train": "train2017", "validation": "val2017", "test": "test2017"}
    for split, folder in folders.items():
        (root / "annotations" / f"instances_{folder}.json").rename(root / f"{split}.json")
    options = {
        "instances": {split: f"{split}.json" for split in folders},
        "images": folders,
        "splits": {"reference": 0},
    }
    sizes = fetched(root, tmp_path, **options).info.sizes
    assert sizes == {"train": 6, "validation": 3, "test": 3, "reference": 0}


def test_an_image_without_a_box_is_kept(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    content = instances([f"{index:04d}.png" for index in range(3)])
    content["annotations"] = content["annotations"][:3]
    write(root, "instances_test2017.json", content)
    targets = fetched(root, tmp_path).split("test").targets
    assert sorted((targets[..., 4] >= 0).sum(axis=1).tolist()) == [0, 0, 2]


@given(ids=st.lists(st.uuids().map(str) | TEXT, min_size=5, max_size=5, unique=True))
@settings(max_examples=examples(20), deadline=None)
def test_ids_may_be_any_text_as_long_as_they_agree(ids: list[str]) -> None:
    with TemporaryDirectory() as folder:
        root = coco_folder(Path(folder) / "data")
        by_numbers = fetched(root, root.parent, splits={"reference": 0}).split("test").targets.tolist()
        content = instances([f"{index:04d}.png" for index in range(3)])
        own = {100: ids[0], 101: ids[1], 102: ids[2], 7: ids[3], 3: ids[4]}
        images = [{**one, "id": own[one["id"]]} for one in content["images"]]
        boxes = [
            {
                **one,
                "id": f"box {one['id']}",
                "image_id": own[one["image_id"]],
                "category_id": own[one["category_id"]],
            }
            for one in content["annotations"]
        ]
        categories = [{**one, "id": own[one["id"]]} for one in content["categories"]]
        write(
            root,
            "instances_test2017.json",
            {"images": images, "annotations": boxes, "categories": categories},
        )
        by_text = fetched(root, root.parent, splits={"reference": 0}).split("test").targets.tolist()
    assert by_text == by_numbers


@pytest.mark.parametrize("written", [100, "100", 100.0, " 100 "])
def test_a_number_is_the_id_that_it_is_as_text(written: object, tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    write(root, "instances_test2017.json", changed("annotations.0.image_id", written))
    assert (fetched(root, tmp_path).split("test").targets[..., 4] >= 0).sum() == 6


def test_an_accent_of_an_id_may_be_spelled_either_way(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    content = json.dumps(instances([f"{index:04d}.png" for index in range(3)]))
    content = content.replace('"id": 100', '"id": "café"').replace(
        '"image_id": 100', '"image_id": "cafe\u0301"'
    )
    write(root, "instances_test2017.json", json.loads(content))
    assert (fetched(root, tmp_path).split("test").targets[..., 4] >= 0).sum() == 6


def changed(path: str, value: object) -> Any:
    """Instances of the test split with one entry changed (or removed, with None)."""
    content = instances([f"{index:04d}.png" for index in range(3)])
    *way, last = path.split(".")
    place: Any = content
    for key in way:
        place = place[int(key)] if key.isdigit() else place[key]
    if value is None:
        del place[last]
    else:
        place[int(last) if last.isdigit() else last] = value
    return content


BAD = {
    "unknown image": ("annotations.4.image_id", 999, "annotations[4]: image_id is 999, which none of 'images' has"),
    "unknown category": ("annotations.4.category_id", 5, "category_id is 5; 'categories' has 3 ('ant'), 7 ('bee')"),
    "beyond the image": ("annotations.3.bbox", [2, 3, 30, 5], "annotations[3] ('bee'): the box from (2, 3) to (32, 8)"),
    "negative width": ("annotations.3.bbox", [9, 3, -4, 5], "annotations[3] ('bee'): the box from (9, 3) to (5, 8)"),
    "three edges": ("annotations.3.bbox", [2, 3, 30], "'annotations[3].bbox"),
    "not a number": ("annotations.3.bbox", [2, 3, "wide", 5], "'annotations[3].bbox[2]' is 'wide'"),
    "not finite": ("annotations.3.bbox", [2, 3, float("inf"), 5], "instances_test2017.json: "),
    "no box": ("annotations.3.bbox", None, "'annotations[3].bbox': field required"),
    "no images": ("images", [], "'images' is empty"),
    "no key": ("categories", None, "'categories': field required"),
    "two of an id": ("images.1.id", 100, "two of 'images' share an id"),
    "two of an id, as number and text": ("images.1.id", "100", "two of 'images' share an id"),
    "an id that is none": ("images.1.id", True, "'images[1].id' is True"),
    "an empty id": ("images.1.id", "", "'images[1].id' is ''"),
    "missing image": ("images.1.file_name", "gone.png", "images[1].file_name: 'gone.png' is not in"),
    "a way out": ("images.1.file_name", "../../secret.png", "images[1].file_name: '../../secret.png' leads out of"),
    "an absolute way out": ("images.1.file_name", "/etc/hostname", "'/etc/hostname' leads out of"),
    "the same image twice": ("images.1.file_name", "0000.png", "0000.png is the image of"),
    "another size": ("images.1.width", 30, "images[1]: says that the image is 30×12 pixels"),
    "a class not trained on": ("categories.1.name", "wasp", "no class is named 'wasp'; "),
}  # fmt: skip


@each("fault", BAD)
def test_a_bad_entry_is_one_sentence_with_file_and_place(fault: str, tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    path, value, said = BAD[fault]
    write(root, "instances_test2017.json", changed(path, value))
    message = refused(root)
    assert said in message
    assert "instances_test2017.json" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"images": [{"id": 1,', "EOF while parsing"),
        (b"[1, 2]", "instances_val2017.json: "),
        (b"\xff\xfe{", "instances_val2017.json: "),
        (b"[" * 100_000, "recursion limit exceeded"),
        (b"", "EOF while parsing"),
    ],
)
def test_a_damaged_file_is_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    (root / "annotations/instances_val2017.json").write_bytes(content)
    message = refused(root)
    assert said in message
    assert "instances_val2017.json" in message
    assert len(message) < 500


def test_a_video_instead_of_an_image_is_refused(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    (root / "val2017/0001.png").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(200))
    assert "0001.png: not an image Lossbench can read" in refused(root)


def test_folders_without_instances_are_refused(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    (root / "annotations/instances_train2017.json").rename(root / "annotations/training.json")
    assert "expected instances_train*.json" in refused(root)
    assert "names no file for 'train'" in refused(root, instances={"test": "x.json"})
    named = {"train": "annotations/training.json"}
    assert "'gone' is not in" in refused(root, instances=named, images="gone")
    assert "names no folder for 'train'" in refused(root, instances=named, images={"test": "test2017"})
    write(root, "instances_train.json", {})
    write(root, "instances_training.json", {})
    assert "are both the train split" in refused(root)
    (tmp_path / "empty").mkdir()
    assert "holds instances_train*.json" in refused(tmp_path / "empty")


def test_a_dataset_without_any_box_is_refused(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    content = instances([f"{index:04d}.png" for index in range(6)])
    write(root, "instances_train2017.json", {**content, "annotations": []})
    assert "no box in 6 training images" in refused(root)


@pytest.mark.slow
def test_the_stage_ends_with_exit_code_2_and_one_sentence(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "theirs")
    write(root, "instances_val2017.json", changed("annotations.4.category_id", 5))
    content = tiny_params()
    content["datasets"]["mine"] = {"source": "coco", "path": str(root)}
    write_params(tmp_path, content)
    ended = stage(tmp_path, "fetch", "mine")
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "annotations[4]: category_id is 5" in ended.stderr


@each("moved", ["images", "images/{}", "{}", "."])
@few("begins", ["", "images/", "{}/", "images/{}/"])
def test_images_are_found_wherever_their_names_begin(moved: str, begins: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, split in enumerate(("train2017", "val2017", "test2017")):
        place = root / moved.format(split) / begins.format(split)
        names = [f"{number}-{index}.png" for index in range(6)]
        for name in names:
            picture(place / name, (12, 20, 3))
        write(root, f"instances_{split}.json", instances([begins.format(split) + name for name in names]))
    opened = fetched(root, tmp_path, splits={"reference": 0})
    assert opened.info.sizes == {"train": 6, "validation": 6, "test": 6, "reference": 0}


def test_files_of_instances_are_found_in_any_case(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    for split in ("train2017", "val2017", "test2017"):
        (root / f"annotations/instances_{split}.json").rename(
            root / f"annotations/Instances_{split.title()}.JSON"
        )
    assert fetched(root, tmp_path).info.sizes["validation"] == 3


def test_a_name_may_be_a_number_and_a_crowd_unsaid(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    for file in (root / "annotations").glob("instances_*.json"):
        content = json.loads(file.read_text())
        content["categories"] = [{"id": 7, "name": 10}, {"id": 3, "name": 2.0}]
        content["annotations"] = [
            {**one, "iscrowd": one["iscrowd"] or None} for one in content["annotations"]
        ]
        file.write_text(json.dumps(content))
    assert fetched(root, tmp_path).info.classes == ("10", "2")
