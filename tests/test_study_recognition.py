"""`make study`: a folder is recognised as what it is, or refused with what is read; ready means that it trains."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from law_cases import each, few, mostly_slow
from PIL import Image

from lossbench.checking import check
from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.errors import UserError
from lossbench.look import look
from lossbench.params import Dataset as DatasetBlock
from lossbench.params import Params, parse_params
from lossbench.recognition import recognise
from lossbench.studies import params_for
from tests.data_cases import class_folder, picture

COUNT = 24


def mask(file: Path, number: int, side: int = 16, values: tuple[int, ...] = (0, 1)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(number).choice(values, (side, side))
    Image.fromarray(drawn.astype(np.uint8)).save(file)


def both(
    images: Path, masks: Path, ending: str = "", count: int = COUNT, side: int = 16, start: int = 0, **options
) -> None:
    for number in range(start, start + count):
        picture(images / f"a{number}.png", (side, side, 3), seed=number)
        mask(masks / f"a{number}{ending}.png", number, side, **options)


def per_split(root: Path, images: str, masks: str, ending: str = "") -> Path:
    for number, split in enumerate(("train", "val", "test")):
        both(root / images.format(split), root / masks.format(split), ending, 8, start=8 * number)
    return root


def pool(root: Path, images: str, masks: str, ending: str = "") -> Path:
    both(root / images, root / masks, ending)
    return root


def voc_masks(root: Path) -> Path:
    both(root / "JPEGImages", root / "SegmentationClass")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, some in (("train", range(16)), ("val", range(16, 24))):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"a{one}\n" for one in some))
    return root


def cityscapes(root: Path, masks: tuple[str, ...] = ("labelIds", "instanceIds", "labelTrainIds")) -> Path:
    for number in range(COUNT):
        split, city = ("train", "val", "test")[number // 8], ("aachen", "bonn")[number % 2]
        name = f"{split}/{city}/{city}_a{number}_000019"
        picture(root / "leftImg8bit" / f"{name}_leftImg8bit.png", (16, 16, 3), seed=number)
        for ending in masks:
            wanted = number if ending == masks[0] else 999
            mask(root / "gtFine" / f"{name}_gtFine_{ending}.png", wanted)
        picture(root / "gtFine" / f"{name}_gtFine_color.png", (16, 16, 4), seed=number)
        (root / "gtFine" / f"{name}_gtFine_polygons.json").write_text("{}")
    return root


def drive(root: Path) -> Path:
    for number in range(COUNT):
        place, name = (root / "training", "training") if number < 16 else (root / "test", "test")
        file = place / "images" / f"a{number}_{name}.tif"
        picture(file, (16, 16, 3), seed=number)
        mask(place / "1st_manual" / f"a{number}_manual1.gif", number)
        mask(place / "mask" / f"a{number}_{name}_mask.gif", 999)  # the camera's field of view
        if name == "test":
            mask(place / "2nd_manual" / f"a{number}_manual2.gif", 998)
    return root


def by_patient(root: Path) -> Path:
    for number in range(COUNT):
        picture(root / "images" / f"patient{number % 3}" / f"a{number}.png", (16, 16, 3), seed=number)
        mask(root / "masks" / f"patient{number % 3}" / f"a{number}.png", number)
    return root


MASKS: dict[str, Callable[[Path], Path]] = {
    **{
        f"{images} and {masks}": lambda root, images=images, masks=masks: pool(root, images, masks)
        for images, masks in [
            ("images", "masks"), ("img", "mask"), ("imgs", "gt"), ("image", "labels"), ("Images", "Annotations"), ("input", "ann"),
            ("images", "ground_truth"), ("images", "label"), ("JPEGImages", "SegmentationClass"),
        ]
    },
    **{
        f"{images} and {masks} per split": lambda root, images=images, masks=masks: per_split(root, images, masks)
        for images, masks in [
            ("{}/images", "{}/labels"), ("{}/img", "{}/ann"), ("images/{}", "masks/{}"), ("images/{}", "annotations/{}"),
            ("{}", "{}annot"), ("{}", "{}_labels"), ("{}", "{}-masks"), ("{}_images", "{}_masks"), ("images_{}", "gt_{}"),
        ]
    },
    "_mask beside": lambda root: pool(root, ".", ".", "_mask"),
    "_gt beside, per split": lambda root: per_split(root, "{}", "{}", "_gt"),
    "_label in its folder": lambda root: pool(root, "images", "labels", "_label"),
    "-seg in its folder": lambda root: per_split(root, "{}/images", "{}/masks", "-seg"),
    "lists of Pascal VOC": voc_masks,
    "Cityscapes": cityscapes,
    "Cityscapes, numbers for training": lambda root: cityscapes(root, ("labelTrainIds", "instanceIds")),
    "DRIVE": drive,
    "a folder per patient": by_patient,
}  # fmt: skip


def proposed(root: Path) -> tuple[Params, list[str]]:
    said: list[str] = []
    params = parse_params(params_for("mine", root, said.append))
    check(params)
    return params, said


@pytest.mark.parametrize("layout", mostly_slow(MASKS, 6))
def test_masks_are_recognised_by_the_names_people_give_them(layout: str, tmp_path: Path) -> None:
    root = MASKS[layout](tmp_path / "mine")
    params, said = proposed(root)
    assert params.experiments["mine"].task.name == "segmentation"
    assert any(one.startswith("masks hold values") for one in said)
    fetch(params.datasets["mine"], "mine", tmp_path / "data/mine")
    opened = Dataset.open(tmp_path / "data/mine")
    table = pd.read_parquet(tmp_path / "data/mine/manifest.parquet")
    assert len(table) == COUNT
    for _, row in table.iterrows():  # each image has its own mask
        number = int(re.search(r"a(\d+)", Path(row["source"]).name)[1])  # type: ignore[index]  # each has one
        expected = np.random.default_rng(number).choice((0, 1), (16, 16))
        np.testing.assert_array_equal(opened.split(row["split"]).targets[row["index"]], expected)


def coco(root: Path, file: str, images: str, start: int = 0, side: int = 30) -> Path:
    names = [f"{number}.png" for number in range(start, start + COUNT)]
    for number, name in enumerate(names):
        picture(root / images / name, (64, 64, 3), seed=start + number)
    content = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, side, side]} for n in range(COUNT)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content), encoding="utf-8-sig")
    return root


def roboflow(root: Path) -> Path:
    for number, split in enumerate(("train", "valid", "test")):
        coco(root, f"{split}/_annotations.coco.json", split, COUNT * number)
    return root


def voc(root: Path) -> Path:
    for number in range(COUNT):
        picture(root / "JPEGImages" / f"{number}.png", (64, 64, 3), seed=number)
        box = "<bndbox><xmin>4</xmin><ymin>4</ymin><xmax>34</xmax><ymax>34</ymax></bndbox>"
        (root / "Annotations").mkdir(exist_ok=True)
        (root / f"Annotations/{number}.xml").write_text(
            f"<annotation><object><name>cell</name>{box}</object></annotation>"
        )
    return root


def table(
    root: Path, header: str, row: Callable[[int], str], name: str = "labels.csv", encoding: str = "utf-8-sig"
) -> Path:
    for number in range(COUNT):
        picture(root / f"{number}.png", (16, 16), seed=number)
    (root / name).write_text("\n".join([header, *map(row, range(COUNT))]), encoding=encoding)
    return root


def metadata_per_split(root: Path) -> Path:
    for split in ("train", "validation", "test"):
        table(
            root / split, "file_name,label", lambda n: f"{n}.png,{'cat' if n % 2 else 'dog'}", "metadata.csv"
        )
    return root


OTHERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "classes": (class_folder, "classification"),
    "COCO": (lambda root: coco(root, "annotations/instances.json", "images"), "detection"),
    "COCO of another name": (lambda root: coco(root, "train.json", "pictures"), "detection"),
    "COCO per split": (roboflow, "detection"),
    "Pascal VOC": (voc, "detection"),
    "labels": (lambda root: table(root, "file,cat,dog", lambda n: f"{n}.png,{n % 2},{int(n > 9)}"), "multilabel"),
    "metadata of an image folder": (
        lambda root: table(root, "file_name,label", lambda n: f"{n}.png,{'cat' if n % 2 else 'dog'}", "metadata.csv"),
        "classification",
    ),
    "metadata per split": (metadata_per_split, "classification"),
    "labels of another name": (
        lambda root: table(root, "file,labels", lambda n: f"{n}.png,{'cat|dog' if n % 2 else 'dog'}", "data.csv", "utf-16"),
        "multilabel",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", mostly_slow(OTHERS, 3))
def test_other_layouts_are_recognised(layout: str, tmp_path: Path) -> None:
    make, task = OTHERS[layout]
    params, _ = proposed(make(tmp_path / "mine"))
    assert params.experiments["mine"].task.name == task
    fetch(params.datasets["mine"], "mine", tmp_path / "data/mine")


def beside_classes(root: Path) -> Path:
    class_folder(root / "train")
    (root / "train/metadata.csv").write_text("file_name,label\n")
    return root


def splits_unsaid(root: Path) -> Path:
    metadata_per_split(root)
    rows = [f"{file.parent.name}/{file.name},cat{file.stem}" for file in root.glob("*/*.png")]
    for file in root.glob("*/metadata.csv"):
        file.unlink()
    (root / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    return root


def another_split(root: Path) -> Path:
    metadata_per_split(root)
    (root / "test/metadata.csv").write_text("file_name,label,split\n0.png,cat,train\n")
    return root


def another_kind(root: Path) -> Path:
    metadata_per_split(root)
    (root / "test/metadata.csv").write_text("file_name,mask\n0.png,1.png\n")
    return root


def one_without(root: Path) -> Path:
    metadata_per_split(root)
    (root / "test/metadata.csv").unlink()
    return root


def yolo(root: Path) -> Path:
    for number in range(COUNT):
        picture(root / "images/train" / f"{number}.png")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/0.txt").write_text("0 .5 .5 .1 .1\n")
    return root


def unpaired(root: Path) -> Path:
    both(root / "train/images", root / "train/labels")
    (root / "train/labels/a3.png").unlink()
    return root


def jpeg_masks(root: Path) -> Path:
    both(root / "images", root / "masks", values=(0, 255))
    for file in (root / "masks").iterdir():
        Image.open(file).save(file.with_suffix(".jpg"), quality=60)
        file.unlink()
    return root


def smaller_masks(root: Path) -> Path:
    both(root / "images", root / "masks")
    mask(root / "masks/a3.png", 3, side=8)
    return root


def of(**options) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        both(root / "images", root / "masks", **options)
        return root

    return make


def loose(root: Path) -> Path:
    for number in range(COUNT):
        picture(root / f"{number}.png")
    return root


def xml_beside(root: Path) -> Path:
    voc(root)
    shutil.move(root / "JPEGImages", root / "images")
    shutil.move(root / "Annotations", root / "xml")
    return root


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "metadata of an image folder": (
        lambda root: table(root / "train", "file_name,text", lambda n: f"{n}.png,cat", "metadata.csv").parent,
        "metadata.csv: a table beside images that is not read; read are",
    ),
    "metadata as JSON lines": (
        lambda root: table(root, '{"file_name": "0.png"}', lambda n: "{}", "metadata.jsonl"),
        "metadata.jsonl: a table beside images that is not read; read are",
    ),
    "metadata beside classes": (beside_classes, "metadata.csv: no row below its header"),
    "metadata that says no split": (
        splits_unsaid,
        "metadata.csv: its images lie in test/, train/, validation/, and no",
    ),
    "metadata of another split": (
        another_split,
        "test/metadata.csv, row 2: the split is 'train', but the table is",
    ),
    "metadata of two kinds": (another_kind, "metadata.csv: its rows have a label each, those of"),
    "a split without metadata": (
        one_without,
        "test/metadata.csv: no such file; 'DATA.table' names the table in",
    ),
    "a label per file": (
        lambda root: table(root, "image_id,label", lambda n: f"{n},cat"),
        "labels.csv, row 1: no column 'file'; found 'image_id', 'label'; read are",
    ),
    "YOLO": (yolo, "boxes as YOLO has them are not read; convert them to COCO"),
    "XML elsewhere": (xml_beside, "an annotation in XML; read are"),
    "a mask missing": (unpaired, "a3.png: no mask of this name in"),
    "JPEG masks": (jpeg_masks, "a mask saved as JPEG, which changes values near every edge"),
    "smaller masks": (smaller_masks, "masks/a3.png: 8×8 pixels, but"),
    "empty masks": (of(values=(0,)), "masks hold the value 0 only; nothing can be learned"),
    "loose images": (loose, "no folder in it; read are a folder of images per class"),
    "too few": (of(count=3), "3 images are too few"),
    "one class": (lambda root: class_folder(root, classes=("ant",)), "1 class folder (ant); read are"),
}


@each("layout", REFUSED)
def test_what_is_not_read_is_refused_with_what_is(layout: str, tmp_path: Path) -> None:
    make, says = REFUSED[layout]
    with pytest.raises(UserError) as error:
        params_for("mine", make(tmp_path / "mine"), print)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@few(
    ("values", "classes", "ignored"),
    [
        ((0, 255), 2, None),
        ((0, 1, 255), 2, 255),
        ((0, 1, 2), 3, None),
        ((0, 128, 255), 3, None),
        ((0, 7, 15, 255), 3, 255),
        ((3, 9), 2, None),
    ],
)
def test_values_of_masks_are_looked_at(
    values: tuple[int, ...], classes: int, ignored: int | None, tmp_path: Path
) -> None:
    params, said = proposed(of(values=values)(tmp_path / "mine"))
    options = params.datasets["mine"].options
    assert len(options["classes"]) == classes
    assert options.get("ignore_index") == ignored
    shares = next(one for one in said if one.startswith("masks hold values"))
    assert all(f"{value}: " in shares for value in values)
    assert any("foreground" in one for one in said)
    assert any("void" in one for one in said) == (ignored is not None)


@pytest.mark.parametrize(("side", "clipped"), [(30, None), (60.4, None), (63, "clip")])
def test_boxes_beyond_the_edge_are_said_and_cut_off(side: float, clipped: str | None, tmp_path: Path) -> None:
    params, said = proposed(coco(tmp_path / "mine", "annotations/instances.json", "images", side=side))
    assert params.datasets["mine"].options.get("boxes") == clipped
    assert any("boxes of 24 images reach beyond the edge" in one for one in said) == (clipped is not None)


@pytest.mark.slow
def test_what_is_resized_is_said(tmp_path: Path) -> None:
    root = pool(tmp_path / "mine", "images", "masks")
    _, said = proposed(root)
    assert not any("stretched" in one for one in said)
    both(root / "images", root / "masks", side=200, start=100, count=30)
    _, said = proposed(root)
    assert any(
        "24 of 54 images are stretched to 128×128" in one or "54 of 54 images are stretched" in one
        for one in said
    )


@pytest.mark.parametrize(("high", "kind"), [(4095, np.uint16), (1023, np.uint16), (1.0, np.float32)])
def test_a_range_is_proposed_for_values_that_have_none_of_their_own(
    high: float, kind: type, tmp_path: Path
) -> None:
    for number in range(40):
        file = tmp_path / "mine" / ("ant", "bee")[number % 2] / f"{number}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).random((12, 12))
        values[0, :2] = 0, 1
        Image.fromarray((values * high).astype(kind)).save(file)
    params, said = proposed(tmp_path / "mine")
    assert params.datasets["mine"].options["range"] == [0, high]
    assert any("range [0, " in one for one in said)


def tagged(file: Path, orientation: int, shape: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)).save(file, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "shape", "ignored"), [(3, (16, 24), False), (6, (16, 24), True), (6, (16, 16), False)]
)
def test_masks_that_are_not_tagged_like_their_images_are_said(
    orientation, shape, ignored, tmp_path: Path
) -> None:
    for number in range(COUNT):
        tagged(tmp_path / f"mine/images/{number}.jpg", orientation, shape)
        picture(tmp_path / f"mine/images/{number}.jpg", shape, seed=number) if number > 5 else None
        drawn = np.random.default_rng(number).integers(0, 2, shape).astype(np.uint8)
        (tmp_path / "mine/masks").mkdir(exist_ok=True)
        Image.fromarray(drawn).save(tmp_path / f"mine/masks/{number}.png")
    params, said = proposed(tmp_path / "mine")
    assert any("6 images and their masks are not tagged alike" in one for one in said)
    assert (params.datasets["mine"].options.get("orientation") == "ignore") is ignored


@pytest.mark.parametrize("side", [8, 11, 17, 40])
def test_a_proposal_fits_the_size_of_its_images(side: int, tmp_path: Path) -> None:
    """Seventeen images: the last batch may hold one, whose deepest features must be more than one position."""
    params, _ = proposed(of(count=17, side=side)(tmp_path / "mine"))
    experiment = params.experiments["mine"]
    size, depth = params.datasets["mine"].options["size"], experiment.model.options["depth"]
    assert all(one % 2**depth == 0 and one // 2**depth >= 2 for one in size)
    assert 2 <= experiment.recipe.batch_size <= 16


@pytest.mark.parametrize("kind", mostly_slow(["masks", "classes", "COCO", "labels"], 4))
def test_what_is_proposed_trains(kind: str, tmp_path: Path) -> None:
    import torch

    from lossbench import losses
    from lossbench.losses.building import LossContext
    from lossbench.models.base import build
    from lossbench.tasks import task_class

    root = of(count=17, side=8)(tmp_path / "mine") if kind == "masks" else OTHERS[kind][0](tmp_path / "mine")
    params, _ = proposed(root)
    fetch(params.datasets["mine"], "mine", tmp_path / "data/mine")
    opened, experiment = Dataset.open(tmp_path / "data/mine"), params.experiments["mine"]
    task = task_class(experiment.task.name)(opened.info, experiment.task.options)
    train = opened.split("train")
    inputs = task.encode_inputs(torch.from_numpy(np.array(train.inputs)))
    targets = task.encode_targets(torch.from_numpy(np.array(train.targets)))
    for name in params.losses:
        model = build(experiment.model, tuple(inputs.shape[1:]), task.outputs)
        loss = losses.build(
            params.losses[name],
            LossContext(
                task.loss_classes,
                task.class_counts,
                task.multilabel,
                opened.info.ignore_index,
                task.positions,
            ),
        )
        for part in torch.split(torch.arange(len(inputs)), experiment.recipe.batch_size):
            task.objective(loss, model(inputs[part]), targets[part], inputs[part]).backward()


def test_a_folder_of_accents_is_one_class_however_it_is_spelled(tmp_path: Path) -> None:
    class_folder(tmp_path / "mine/train", classes=("cafe\u0301", "the"))
    class_folder(tmp_path / "mine/val", 8, classes=("caf\u00e9", "the"))
    assert {split: len(files) for split, files in recognise(tmp_path / "mine").images.items()} == {
        "train": 40,
        "validation": 16,
    }


def _photo(rng: np.random.Generator, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(file)


def _drawn(rng: np.random.Generator, file: Path, high: int = 255) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((24, 32), np.uint8)
    top, left = rng.integers(2, 10, 2)
    mask[top : top + 9, left : left + 12] = high
    Image.fromarray(mask).save(file)


@each(
    ("images", "masks"),
    [
        ("RGB/{}.png", "GT/{}.png"),
        ("photos/{}.png", "masks/{}.png"),
        ("Original/{}.png", "Ground Truth/{}.png"),
        ("CXR_png/{}.png", "ManualMask/{}.png"),
        ("X/{}.png", "Y/{}.png"),
        ("imagesTr/a_{}_0000.png", "labelsTr/a_{}.png"),
        ("701_StillsRaw_full/{}.png", "LabeledApproved_full/{}_L.png"),
        ("train/rgb/{}.png", "train/masks/{}.png"),
        ("train/x/{}.png", "train/y/{}.png"),
        ("benign/benign ({}).png", "benign/benign ({})_mask.png"),
    ],
)
def test_masks_are_never_taken_for_a_class(images: str, masks: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        _photo(rng, tmp_path / images.format(f"{number:03d}"))
        _drawn(rng, tmp_path / masks.format(f"{number:03d}"))
    if "benign" in images:
        for number in range(6):
            _photo(rng, tmp_path / f"malignant/malignant ({number}).png")
    try:
        found = recognise(tmp_path)
    except UserError as refused:
        assert "masks" in str(refused)
    else:
        assert found.task == "segmentation"


def test_classes_whose_files_share_names_are_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        for name in ("day", "night"):
            _photo(rng, tmp_path / f"{name}/{number}.png")
    assert recognise(tmp_path).task == "classification"


@each("quality", [75, 95, 100])
@each("high", [1, 255])
def test_masks_saved_as_jpeg_are_refused_by_their_format(quality: int, high: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(8):
        _photo(rng, tmp_path / f"images/{number}.png")
        _drawn(rng, tmp_path / "drawn.png", high)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.open(tmp_path / "drawn.png").save(tmp_path / f"masks/{number}.jpg", quality=quality)
    (tmp_path / "drawn.png").unlink()
    with pytest.raises(UserError, match="a mask saved as JPEG"):
        look(recognise(tmp_path))


def test_smoothed_masks_are_refused_and_grey_levels_are_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(8):
        _photo(rng, tmp_path / f"images/{number}.png")
        mask = np.zeros((24, 32), np.uint8)
        mask[5:15, 5:20] = 255
        mask[5, 5:20] = [3, 254, 18, 5, 250] * 3
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
    with pytest.raises(UserError, match="smoothed, or once saved as JPEG"):
        look(recognise(tmp_path))
    for number in range(8):
        levels = np.repeat(np.array([0, 85, 170, 255], np.uint8), 8)[None].repeat(24, 0)
        Image.fromarray(levels).save(tmp_path / f"masks/{number}.png")
    assert look(recognise(tmp_path)).options["values"] == [0, 85, 170, 255]


@pytest.mark.parametrize("lone", ["images", "masks"])
def test_a_patient_without_a_folder_of_both_is_named(lone: str, tmp_path: Path) -> None:
    root = by_patient(tmp_path / "mine")
    file = root / lone / "patient9" / "a99.png"
    picture(file, (16, 16, 3), seed=1)
    with pytest.raises(UserError, match=f"{file.parent}: no folder of this name in"):
        recognise(root)


def test_a_few_masks_that_call_0_white_are_counted_and_named(tmp_path: Path) -> None:
    root = pool(tmp_path / "mine", "images", "masks")
    for number in range(4):
        file = root / "masks" / f"a{number}.png"
        numbers = np.asarray(Image.open(file))
        file.unlink()
        tifffile.imwrite(file.with_suffix(".tif"), numbers, photometric="miniswhite")
    _, said = proposed(root)
    assert any("4 of 24 masks are TIFFs that call 0 white" in one and "a0.tif" in one for one in said)


def test_the_wrong_way_round_is_never_silent(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for number in range(COUNT):
        picture(root / "images" / f"a{number}.png", (16, 16, 3), seed=number)
        numbers = 255 * np.random.default_rng(number).choice((0, 1), (16, 16)).astype(np.uint8)
        (root / "masks").mkdir(exist_ok=True)
        tifffile.imwrite(root / "masks" / f"a{number}.tif", numbers, photometric="miniswhite")
    params, said = proposed(root)
    assert any(f"{COUNT} of {COUNT} masks are TIFFs that call 0 white, for example" in one for one in said)
    for declared, doubt in ((None, 1), ("apply", 0), ("ignore", 0)):
        written = params.datasets["mine"].model_dump(exclude_unset=True)
        block = DatasetBlock.model_validate({**written, "white_is_zero": declared})
        fetch(block, "mine", tmp_path / "data/mine")
        table = pd.read_parquet(tmp_path / "data/mine/manifest.parquet")
        assert (table["white_in_doubt"] == doubt).all()
        targets = Dataset.open(tmp_path / "data/mine").split("train").targets
        first = table[table["split"] == "train"].iloc[0]
        number = int(Path(first["source"]).stem.removeprefix("a"))
        numbers = np.random.default_rng(number).choice((0, 1), (16, 16))
        np.testing.assert_array_equal(targets[0], numbers if declared == "ignore" else 1 - numbers)


@each(
    "names",
    [
        ("train2017", "val2017"), ("trainA", "trainB", "testA", "testB"), ("train_images", "test_images"),
        ("training_set", "test_set"), ("DIV2K_train_HR", "DIV2K_train_LR_bicubic"), ("test1", "test2"), ("dev", "eval"),
    ],
)  # fmt: skip
def test_parts_of_a_dataset_are_never_taken_for_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    for place, name in enumerate(names):
        for number in range(12):
            picture(tmp_path / f"mine/{name}/{place}-{number}.png", seed=number)
    with pytest.raises(UserError, match=r"called like parts of a dataset, not like classes.*read are"):
        proposed(tmp_path / "mine")


@pytest.mark.parametrize(
    "names",
    [("training shoe", "boot"), ("latest", "contest"), ("evaluated", "tested well"), ("deviant", "a")],
)
def test_classes_may_be_called_almost_like_parts(names: tuple[str, ...], tmp_path: Path) -> None:
    for place, name in enumerate(names):
        for number in range(12):
            picture(tmp_path / f"mine/{name}/{place}-{number}.png", seed=number)
    params, said = proposed(tmp_path / "mine")
    assert params.datasets["mine"].source == "image_folder"
    assert not any("of the same names" in one for one in said)


def test_pictures_of_one_thing_are_said(tmp_path: Path) -> None:
    for name in ("rgb", "depth"):
        for number in range(24):
            picture(tmp_path / f"mine/{name}/a{number}.png", seed=number + 100 * len(name))
    _, said = proposed(tmp_path / "mine")
    assert any("depth, rgb hold files of the same names" in one for one in said)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"images": [', "invalid JSON"),
        (b'{"images": [], "annotations": [],}', "invalid JSON"),
        (b'{"images": [], "annotations": []}', "'categories': field required"),
        ('{"categories": "caf\xe9"}'.encode("latin-1"), "instances_train.json: "),
    ],
)
def test_a_broken_file_of_instances_is_told_as_such(content: bytes, says: str, tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"mine/images/{number}.png", seed=number)
    (tmp_path / "mine/annotations").mkdir()
    (tmp_path / "mine/annotations/instances_train.json").write_bytes(content)
    with pytest.raises(UserError) as refused:
        proposed(tmp_path / "mine")
    assert says in str(refused.value)
    assert "no mask of this name" not in str(refused.value)
