"""What a user's folder holds: a source that reads it, or one sentence that says what is read instead."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lossbench.data.samples import POOL
from lossbench.data.sources import listing
from lossbench.data.sources.coco import CocoOptions, instance_groups, read_instances
from lossbench.data.sources.folders import class_files
from lossbench.data.sources.multilabel_csv import read_table
from lossbench.data.sources.pairs import (
    LAYOUTS,
    MASKS,
    looks_like_masks,
    mask_pairs,
    plain,
    suffixed,
    without_ending,
)
from lossbench.data.sources.table import SUFFIXES, TARGETS, Row, TableOptions, entries_of, rows_of, tables_of
from lossbench.data.sources.voc import VocOptions, annotated_groups
from lossbench.errors import UserError, brief

LOOKED_AT = 5
"""Images of a class folder that are opened to see whether they are masks."""
MASK_VALUES, MASK_SHARE, SHARED = 8, 0.98, 0.8
"""So many values cover this share of a mask's pixels; the share of masks that have an image's name."""
TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
PART_OF_DATA = re.compile(
    r"(^|[^a-z])(train|training|val|valid|validation|test|testing|eval|dev)"
    r"([ab]|set|[ _-]?(set|images?|imgs?|data|hr|lr.*))?[ _-]?[0-9]*$"
)
"""Names of parts, in lower case: ``train2017``, ``test_images``, ``trainA``, ``x_train_hr``."""
MOST_JSON = 2**28
"""Bytes of a JSON file that is looked into to see whether it is COCO's."""
READ = (
    "read are a folder of images per class; images and masks as " + LAYOUTS + "; boxes as Pascal VOC "
    "(JPEGImages/ and Annotations/*.xml) or COCO (annotations/instances_*.json); labels.csv with a column "
    "'file' and a 0/1 column per label, or a column 'labels'; a table with the columns 'image' "
    "(or 'file_name') and 'label' or 'mask', as CSV, Parquet or JSON lines"
)


@dataclass(frozen=True)
class Found:
    """A folder that is read.

    Attributes:
        source: which source reads it.
        task: what is trained on it.
        options: of the source, beside ``path``, that this folder needs.
        images: split (or POOL) → its images.
        masks: split → the mask of each image, where there are any.
        boxes: of each image, in the same order: (x0, y0, x1, y1) in pixels on disk.
        said: sentences for the user.

    """

    source: str
    task: str
    images: Mapping[str, list[Path]]
    options: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, list[Path]] = field(default_factory=dict)
    boxes: tuple[tuple[tuple[float, float, float, float], ...], ...] = ()
    said: tuple[str, ...] = ()


def recognise(root: Path) -> Found:
    """Find the source that reads a folder.

    Raises:
        UserError: naming what was found, and what is read.

    """
    if found := _voc(root) or _coco(root):
        return found
    _refuse_other_boxes(root)
    if looks_like_masks(root):
        pairs = mask_pairs(root)
        return Found(
            "segmentation_folder",
            "segmentation",
            {split: list(some) for split, some in pairs.items()},
            masks={split: list(some.values()) for split, some in pairs.items()},
        )
    files = [one for folder in _looked_at(root) for one in _files(folder)]
    if tables := [one for one in files if one.suffix.lower() in TABLES]:
        return _table(root, tables)
    if not any(one.is_dir() for one in listing.entries(root)):
        raise UserError(f"{root}: no folder in it; {READ}")
    try:
        groups = class_files(root)
    except UserError as error:
        raise UserError(f"{error}; {READ}") from None
    classes = groups.get("train", groups.get(POOL, {}))
    if len(classes) < 2:
        raise UserError(f"{root}: {len(classes)} class folder ({', '.join(classes)}); {READ}")
    _refuse_splits_as_classes(root, classes)
    _refuse_masks_as_classes(root, classes)
    images = {split: [file for some in found.values() for file in some] for split, found in groups.items()}
    counts = ", ".join(f"{name} {len(some)}" for name, some in list(classes.items())[:12])
    more = f", … ({len(classes)} in all)" if len(classes) > 12 else ""
    told = (f"classes (images to train on): {counts}{more}", *_paired_names(classes))
    return Found("image_folder", "classification", images, said=told)


def _refuse_splits_as_classes(root: Path, classes: Mapping[str, Sequence[Path]]) -> None:
    """Refuse folders called after parts of a dataset: to tell training from test images is no task.

    Raises:
        UserError: naming them, and the layouts that are read.

    """
    if all(PART_OF_DATA.search(name.lower()) for name in classes):
        raise UserError(
            f"{root}: {', '.join(list(classes)[:4])} are called like parts of a dataset, not like classes, "
            f"and hold images without labels; {READ}"
        )


def _paired_names(classes: Mapping[str, Sequence[Path]]) -> tuple[str, ...]:
    """A sentence where classes hold the same names, as pictures of one thing do: photo and depth."""
    names = {frozenset(listing.nfc(one.stem) for one in files) for files in classes.values()}
    if len(names) > 1:
        return ()
    return (
        f"{', '.join(list(classes)[:4])} hold files of the same names: if these are pictures of one thing, "
        "they are no classes",
    )


def _refuse_masks_as_classes(root: Path, classes: Mapping[str, Sequence[Path]]) -> None:
    """Refuse folders in which one "class" is the masks of another: no verdict on them would mean anything.

    Raises:
        UserError: naming both, and the layouts that are read.

    """
    for name, files in classes.items():
        if suffixed(files):
            raise UserError(f"{root}: class folder '{name}' holds masks beside their images; {READ}")
    flat = {name: _mask_like(files) for name, files in classes.items()}
    for one, other in itertools.permutations(classes, 2):
        if flat[other] and not flat[one] and _partners(classes[one], classes[other]):
            raise UserError(
                f"{root}: '{other}' looks like the masks of '{one}' (few values, and as many or like names); "
                f"name them images/ and masks/; {READ}"
            )


def _partners(images: Sequence[Path], masks: Sequence[Path]) -> bool:
    """Whether most masks have an image's name, but for what either ends in; or there are as many of both."""
    stems = {_stem(one) for one in images}
    shared = sum(_stem(one) in stems for one in masks)
    return shared >= SHARED * len(masks) or (
        len(images) == len(masks) and any(plain(masks[0].parent.name).startswith(one) for one in MASKS)
    )


def _stem(file: Path) -> str:
    """A name without ``_mask`` and its like, and without nnU-Net's number of the channel."""
    return re.sub(r"_\d{4}$", "", without_ending(listing.nfc(file.stem)))


def _mask_like(files: Sequence[Path]) -> bool:
    """Whether images hold so few values as masks do: eight cover nearly all pixels of each looked at."""
    shown = files[:: max(1, len(files) // LOOKED_AT)][:LOOKED_AT]
    return all(_flat(file) for file in shown)


def _flat(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            values = np.asarray(image)
    except (OSError, ValueError):  # whatever it is, the source that reads it says so
        return False
    if values.ndim == 3:
        wide = values.astype(np.int64)
        values = (wide << (8 * np.arange(values.shape[2]))).sum(axis=2)
    counts = np.sort(np.unique(values, return_counts=True)[1])[::-1]
    return bool(counts[:MASK_VALUES].sum() >= MASK_SHARE * values.size)


def _looked_at(root: Path) -> Iterator[Path]:
    """A folder, and its train, val and test."""
    yield root
    yield from (one for one in listing.entries(root) if one.is_dir() and one.name.lower() in listing.SIDES)


def _files(folder: Path) -> list[Path]:
    return [one for one in listing.entries(folder) if one.is_file()]


def _boxes_said(boxes: Iterable[Any], images: int) -> str:
    counts: dict[str, int] = {}
    for box in boxes:
        counts[box.label] = counts.get(box.label, 0) + 1
    shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items())[:12])
    return f"boxes: {sum(counts.values())} in {images} images ({shown or 'none'})"


def _detection(
    source: str, groups: Mapping[str, Any], options: Mapping[str, Any], said: tuple[str, ...] = ()
) -> Found:
    boxes = [box for some in groups.values() for one in some for box in one.boxes]
    if not boxes:
        raise UserError("no box in any image; nothing can be learned")
    if not any(x1 > x0 and y1 > y0 for box in boxes for x0, y0, x1, y1 in [box.edges]):
        raise UserError(f"{boxes[0].where}: it has no area, nor has any other box; nothing can be learned")
    images = {split: [one.file for one in some] for split, some in groups.items()}
    told = _boxes_said(boxes, sum(map(len, images.values())))
    edges = tuple(tuple(box.edges for box in one.boxes) for some in groups.values() for one in some)
    return Found(source, "detection", images, options, boxes=edges, said=(told, *said))


def _voc(root: Path) -> Found | None:
    annotations = root / "Annotations"
    if not (root / "JPEGImages").is_dir() or not annotations.is_dir():
        return None
    if not any(one.suffix.lower() == ".xml" for one in listing.entries(annotations)):
        return None
    masks = ("SegmentationClass/ holds masks too: for those, source: segmentation_folder",)
    said = masks if (root / "SegmentationClass").is_dir() else ()
    return _detection("voc", annotated_groups(root, VocOptions()), {}, said)


def _coco(root: Path) -> Found | None:
    files = [
        one for folder in (*_looked_at(root), root / "annotations") for one in _json(folder) if _is_coco(one)
    ]
    if not files:
        _refuse_broken_instances(root / "annotations")
        return None
    usual = [one for one in files if one.parent == root / "annotations" and one.stem.startswith("instances")]
    options: dict[str, Any] = {}
    if usual != files:
        options = _coco_options(root, files)
    return _detection("coco", instance_groups(root, CocoOptions.model_validate(options), "DATA"), options)


def _refuse_broken_instances(folder: Path) -> None:
    """What is called as COCO's files are, and is none, is told for what it is."""
    for one in _json(folder):
        if one.stem.startswith("instances"):
            read_instances(one)


def _json(folder: Path) -> list[Path]:
    return [one for one in _files(folder) if one.suffix.lower() == ".json"] if folder.is_dir() else []


def _content(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes()) if file.stat().st_size <= MOST_JSON else None
    except (ValueError, RecursionError, OSError):
        return None  # whatever it is, it is no COCO; the source of what is there will say so


def _is_coco(file: Path) -> bool:
    found = _content(file)
    return isinstance(found, dict) and {"images", "annotations", "categories"} <= found.keys()


def _coco_options(root: Path, files: list[Path]) -> dict[str, Any]:
    """Say which file is which split's, and where its images lie."""
    instances: dict[str, str] = {}
    images: dict[str, str] = {}
    for file in files:
        words = [*file.stem.lower().replace("-", "_").replace(".", "_").split("_"), file.parent.name.lower()]
        split = next((listing.SIDES[word] for word in words if word in listing.SIDES), "train")
        if split in instances:
            raise UserError(
                f"{file} and {root / instances[split]} may both be the {split} split's; name them "
                "annotations/instances_train.json, instances_val.json, or say 'instances' in params.yaml"
            )
        instances[split] = file.relative_to(root).as_posix()
        images[split] = _images_of(root, file).relative_to(root).as_posix()
    if "train" not in instances:
        raise UserError(f"{files[0]}: COCO instances, but none of a train split")
    return {"instances": instances, "images": images}


def _images_of(root: Path, file: Path) -> Path:
    """The folder in which a COCO file's first image lies."""
    first = _content(file)["images"]
    name = first[0].get("file_name") if first and isinstance(first[0], dict) else None
    folders = [file.parent, *(one for one in listing.entries(root) if one.is_dir()), root]
    below = [two for one in folders for two in listing.entries(one) if two.is_dir()]
    for folder in (*folders, *below):
        if isinstance(name, str) and (folder / name).is_file():
            return folder
    raise UserError(f"{file}: 'images[0].file_name' is {name!r}, which lies in no folder of {root}")


def _refuse_other_boxes(root: Path) -> None:
    """Boxes in other forms are no masks and no classes."""
    below = [root, *(one for one in listing.entries(root) if one.is_dir())]
    below += [two for one in below[1:] for two in listing.entries(one) if two.is_dir()]
    for one in below:
        files = _files(one)
        if xml := next((file for file in files if file.suffix.lower() == ".xml"), None):
            raise UserError(f"{xml}: an annotation in XML; {READ}")
        text = next((file for file in files if file.suffix.lower() == ".txt"), None)
        if text is not None and "labels" in (one.name.lower(), one.parent.name.lower()):
            raise UserError(f"{text}: boxes as YOLO has them are not read; convert them to COCO; {READ}")


def _table(root: Path, tables: list[Path]) -> Found:
    """A table beside images is read by one source, or not at all: its labels must not be lost in silence."""
    problems = []
    for file in tables:
        if found := _samples(root, file, tables):
            return found
        if file.parent != root or file.suffix.lower() != ".csv":
            problems.append(_unread(file))
            continue
        try:
            names, rows = read_table(file, None)
        except UserError as error:
            problems.append(str(error))
            continue
        images: dict[str, list[Path]] = {}
        for row in rows:
            images.setdefault(row.split, []).append(row.file)
        left = _not_listed([row.file for row in rows], [file])
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        said = [f"labels: {shown} in {len(rows)} rows of {file.name}"]
        if rows and rows[0].weight is not None:
            said.append("column 'weight' says how much each row counts in training")
        return Found("multilabel_csv", "multilabel", images, {"table": file.name}, said=(*said, *left))
    raise UserError(f"{problems[0]}; {READ}")


def _unread(file: Path) -> str:
    try:
        if file.suffix.lower() in SUFFIXES:
            entries_of(file)
    except UserError as error:
        return str(error)
    return f"{file}: a table beside images that is not read"


IMAGE_COLUMNS = ("image", "file_name", "filename")
"""What the column of images is called: by us, in an ``imagefolder``'s metadata, and by many exports."""


def _not_listed(listed: Sequence[Path], tables: Sequence[Path]) -> tuple[str, ...]:
    """A sentence where files lie beside those that tables name."""
    named = {one.resolve() for one in (*listed, *tables)}
    left = [one for folder in {one.parent for one in listed} for one in _files(folder)]
    count = sum(one.resolve() not in named for one in left)
    return (f"{count} files beside the images that {tables[0].name} names are not read",) if count else ()


def _lists_samples(file: Path) -> str | None:
    """The column of images, where a table has one and a column of labels, masks or boxes beside it."""
    if file.suffix.lower() not in SUFFIXES:
        return None
    try:
        columns = {listing.nfc(one).casefold() for one in entries_of(file)[0]}
    except UserError:  # whoever reads it says so
        return None
    image = next((one for one in IMAGE_COLUMNS if one in columns), None)
    return image if any(one in columns for one in TARGETS) else None


def _samples(root: Path, file: Path, beside: Sequence[Path]) -> Found | None:
    """A table with a column of images and one of labels, masks or boxes; None for any other.

    Raises:
        UserError: for another such table ``beside`` it, of which none would be read.

    """
    image = _lists_samples(file)
    if image is None:
        return None
    own = {"table": file.name} | ({} if image == IMAGE_COLUMNS[0] else {"image": image})
    options = TableOptions.model_validate(own)
    tables = tables_of(root, options, "DATA")
    kind, rows = rows_of(tables, options)
    _refuse_splits_unsaid(root, file, rows)
    others = [one for one in beside if one not in tables.values() and _lists_samples(one)]
    if others:
        raise UserError(
            f"{file} and {others[0]} both list images with a {kind}; expected one table: join them, with a "
            "column 'split', or put one of one name into each of train/, val/ and test/"
        )
    images: dict[str, list[Path]] = {}
    masks: dict[str, list[Path]] = {}
    for row in rows:
        images.setdefault(row.split, []).append(row.image)
        if kind == "mask":
            masks.setdefault(row.split, []).append(Path(row.target))
    groups = len({row.group for row in rows} - {None})
    kept = (f"{groups} groups, which are kept together",) if groups else ()
    where = ", ".join(one.relative_to(root).as_posix() for one in tables.values())
    said = (
        f"{len(rows)} rows of {where}, with a {kind} each", *kept, *_weighed_said(rows),
        *(_labels_said(file, rows) if kind == "label" else ()),
        *_not_listed([row.image for row in rows], [*tables.values()]),
    )  # fmt: skip
    if kind == "boxes":
        raise UserError(
            f"{file}: a table of files of boxes; no study is proposed for it, write one with 'source: table'"
        )
    task = {"label": "classification", "mask": "segmentation"}[kind]
    return Found("table", task, images, own, masks, said=said)


def _labels_said(file: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    counts = Counter(str(row.target) for row in rows if row.split in (POOL, "train"))
    if len(counts) < 2:
        raise UserError(f"{file}: one class alone, {brief(next(iter(counts), ''))}; expected two or more")
    shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:12])
    more = f", … ({len(counts)} in all)" if len(counts) > 12 else ""
    return (f"classes (images to train on): {shown}{more}",)


def _weighed_said(rows: Sequence[Row]) -> tuple[str, ...]:
    """Say that a column weighs: in another's table, its name may mean kilograms."""
    weights = [row.weight for row in rows if row.weight is not None]
    if weights:
        return (
            f"column 'weight' ({min(weights):g} to {max(weights):g}) says how much each row counts in "
            "training; 'weight: null' in the dataset's block if it means something else",
        )
    if any(row.map for row in rows):
        return (
            "column 'weights' names a weight map for each mask; 'weights: null' in the dataset's block if it "
            "means something else",
        )
    return ()


def _refuse_splits_unsaid(root: Path, file: Path, rows: Sequence[Row]) -> None:
    """Refuse images that lie in ``train/`` and ``test/`` without a word of that in their table.

    Raises:
        UserError: naming the table and the folders.

    """
    folders = sorted({row.image.relative_to(root).parts[0] for row in rows if row.image.is_relative_to(root)})
    if (
        {row.split for row in rows} == {POOL}
        and folders
        and all(one.lower() in listing.SIDES for one in folders)
    ):
        raise UserError(
            f"{file}: its images lie in {', '.join(f'{one}/' for one in folders)}, and no column says which "
            "split is whose; add a column 'split', or put a table into each of these folders"
        )
