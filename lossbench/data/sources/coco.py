"""Images with a file of COCO instances per split."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AllowInfNan, BaseModel, BeforeValidator, Field, ValidationError

from lossbench.data.samples import POOL, Fetched
from lossbench.data.sources import listing
from lossbench.data.sources.base import FolderSource, register
from lossbench.data.sources.boxes import Box, BoxOptions, Picture, boxes_of, found_classes
from lossbench.errors import UserError, brief
from lossbench.params import Dataset

PROVENANCE = {"name": "the user's own folder, COCO instances", "licence": "the user's own"}
MOST_BYTES = 2**30
Split = Literal["train", "validation", "test"]
Finite = Annotated[float, AllowInfNan(False)]


def _as_text(given: Any) -> Any:
    """Write an id as text, spelled as names are; what is neither number nor text its reader refuses."""
    if isinstance(given, str):
        return listing.nfc(given).strip()
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


Id = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]
"""COCO's ids are numbers; exports of annotation tools have UUIDs and file names too. 7 and "7" are one id."""


class CocoImage(BaseModel):
    """An entry of ``images``."""

    id: Id
    file_name: str
    width: int | None = None
    height: int | None = None


class CocoAnnotation(BaseModel):
    """An entry of ``annotations``: ``bbox`` is x, y, width, height in pixels."""

    id: Id | None = None
    image_id: Id
    category_id: Id
    bbox: tuple[Finite, Finite, Finite, Finite]
    iscrowd: int | None = 0


class CocoCategory(BaseModel):
    """An entry of ``categories``."""

    id: Id
    name: Annotated[str, BeforeValidator(_as_text)]


class Instances(BaseModel):
    """What we read of a file of instances: further keys (masks, licences) say nothing of boxes."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


class CocoOptions(BoxOptions):
    """Where files lie, relative to ``path``.

    ``instances``: split → JSON; by default ``annotations/instances_<split>*.json``. ``images``: split →
    folder, or one for all; by default the first of the folder named like the rest of the JSON
    (``train2017``), ``images``, one of that name within it, and ``path`` that holds the first image.
    """

    instances: dict[Split, str] | None = Field(None, min_length=1)
    images: dict[Split, str] | str | None = None


@register
class Coco(FolderSource[CocoOptions]):
    """``path/annotations/instances_{train,val,test}*.json`` with ``path/train*/`` … or ``images/``."""

    name = "coco"
    options = CocoOptions

    def load(self, dataset: Dataset, options: CocoOptions, key: str) -> Fetched:
        """Read instances, then images; boxes around crowds are left out, as they hold no single object."""
        root = listing.existing_folder(dataset.path, key)
        groups = instance_groups(root, options, key)
        classes = options.classes or found_classes(groups, key)
        return boxes_of(groups, classes, options, root, key, PROVENANCE)


def instance_groups(root: Path, options: CocoOptions, key: str) -> dict[str, list[Picture]]:
    """Split → its images and their boxes.

    Raises:
        UserError: naming the file and the entry that cannot be.

    """
    groups: dict[str, list[Picture]] = {}
    seen: dict[Path, str] = {}
    for split, file in _instances(root, options, key).items():
        groups[split] = _pictures(file, _folders(root, split, file, options, key))
        _refuse_twice(groups[split], seen)
    return groups


def _instances(root: Path, options: CocoOptions, key: str) -> dict[str, Path]:
    """Split → its file of instances; one pool where there is a single file of no split's name."""
    if options.instances is not None:
        if "train" not in options.instances:
            raise UserError(f"'{key}.instances' names no file for 'train'")
        return {
            split: listing.below(root, name, f"{key}.instances") for split, name in options.instances.items()
        }
    folder = root / "annotations"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it holds instances_train*.json, or say '{key}.instances'")
    found: dict[str, Path] = {}
    for file in listing.entries(folder):
        name = re.fullmatch(r"instances(?:_([a-z]+)\w*)?", file.stem.lower())
        if file.suffix.lower() != ".json" or name is None:
            continue  # captions and keypoints lie here too
        split = listing.SIDES.get(name[1], POOL) if name[1] else POOL
        if split in found:
            raise UserError(
                f"{file} and {found[split].name} are both the {split} split; choose with '{key}.instances'"
            )
        found[split] = file
    if not found or (POOL in found and len(found) > 1) or not {"train", POOL} & set(found):
        raise UserError(
            f"{folder}: found {', '.join(one.name for one in found.values()) or 'no file of instances'}; "
            f"expected instances_train*.json (and val, test), or '{key}.instances'"
        )
    return found


def _folders(root: Path, split: str, file: Path, options: CocoOptions, key: str) -> list[Path]:
    """The folder of a split's images, or those that may be it, the usual first."""
    if isinstance(options.images, str):
        return [listing.below(root, options.images, f"{key}.images")]
    if options.images is not None:
        named = {str(one): folder for one, folder in options.images.items()}
        if split not in named:
            raise UserError(f"'{key}.images' names no folder for '{split}'")
        return [listing.below(root, named[split], f"{key}.images")]
    own = file.stem[len("instances_") :]
    usual = [own, "images", f"images/{own}"] if own else ["images"]
    found = [one for name in usual if (one := listing.as_spelled(root, name)).is_dir()]
    return [*found, root]


def _holding(folders: Sequence[Path], images: Sequence[CocoImage]) -> Path:
    """The folder in which the first image lies, or else the usual one: ``file_name`` may begin at any."""
    name = images[0].file_name if images else ""
    for folder in folders:
        with suppress(OSError, ValueError):  # a name that none can have
            if listing.as_spelled(folder, name).is_file():
                return folder
    return folders[0]


def read_instances(file: Path) -> Instances:
    """Read a file of instances.

    Raises:
        UserError: naming the file and the entry that is not as COCO has it.

    """
    try:
        if not file.is_file():
            raise UserError(f"{file}: no file; expected COCO instances as JSON")
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: {file.stat().st_size} bytes; at most {MOST_BYTES} are read")
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    if (encoding := json.detect_encoding(content)) != "utf-8":  # with a byte order mark, or none of UTF-8
        try:
            content = content.decode(encoding).encode()
        except UnicodeError as error:
            raise UserError(f"{file}: not {encoding} text: {error}") from None
    try:
        return Instances.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in first["loc"])
        said = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        if first["type"] == "json_invalid":
            raise UserError(f"{file}: {said}") from None
        given = "" if first["type"] == "missing" else f" is {brief(first['input'])}"
        raise UserError(f"{file}: '{where.removeprefix('.')}'{given}: {said}") from None


def _pictures(file: Path, folders: Sequence[Path]) -> list[Picture]:
    content = read_instances(file)
    folder = _holding(folders, content.images)
    names = _categories(content.categories, file)
    _refuse_same_ids(content.annotations, file)
    boxes: dict[str, list[Box]] = {one.id: [] for one in content.images}
    if len(boxes) < len(content.images):
        twice = next(one for one, count in Counter(one.id for one in content.images).items() if count > 1)
        same = [one.file_name for one in content.images if one.id == twice]
        raise UserError(
            f"{file}: two of 'images' share an id, {twice} ({brief(same[0])}, {brief(same[1])}); "
            "each needs its own"
        )
    if not boxes:
        raise UserError(f"{file}: 'images' is empty")
    for number, one in enumerate(content.annotations):
        where = f"{file}: annotations[{number}]"
        if one.image_id not in boxes:
            raise UserError(f"{where}: image_id is {one.image_id}, which none of 'images' has")
        if one.category_id not in names:
            raise UserError(f"{where}: category_id is {one.category_id}; {_known(names)}")
        if not one.iscrowd:
            x, y, width, height = one.bbox
            label = names[one.category_id]
            boxes[one.image_id].append(Box(label, (x, y, x + width, y + height), f"{where} ('{label}')"))
    return [_picture(one, number, boxes[one.id], file, folder) for number, one in enumerate(content.images)]


def _categories(categories: Sequence[CocoCategory], file: Path) -> dict[str, str]:
    """Id → name, of which none may stand twice."""
    ids: dict[str, str] = {}
    names: dict[str, str] = {}
    for one in categories:
        name = listing.nfc(one.name).strip()
        if not name:
            raise UserError(f"{file}: 'categories' has no name for id {one.id}; a class is known by its name")
        if one.id in names:
            raise UserError(f"{file}: 'categories' has id {one.id} twice, for '{names[one.id]}' and '{name}'")
        if name in ids:
            raise UserError(
                f"{file}: 'categories' has two of the name '{name}', ids {ids[name]} and {one.id}; "
                "a class is known by its name: rename one, or give both annotations one id"
            )
        names[one.id], ids[name] = name, one.id
    return names


def _refuse_same_ids(annotations: Sequence[CocoAnnotation], file: Path) -> None:
    seen: dict[str, int] = {}
    for number, one in enumerate(annotations):
        if one.id is not None and seen.setdefault(one.id, number) != number:
            raise UserError(
                f"{file}: annotations[{seen[one.id]}] and annotations[{number}] share the id "
                f"{brief(one.id)}; each needs its own"
            )


def _known(names: Mapping[str, str]) -> str:
    ordered = sorted(names.items(), key=lambda one: listing.natural(Path(one[0].replace("/", "_"))))
    shown = [f"{number} ('{name}')" for number, name in ordered][:20]
    return f"'categories' has {', '.join(shown) or 'none'}"


def _picture(one: CocoImage, number: int, boxes: Sequence[Box], file: Path, folder: Path) -> Picture:
    where = f"{file}: images[{number}]"
    # Some tools write 0 or -1 where they do not know.
    known = one.width is not None and one.height is not None and min(one.width, one.height) > 0
    size = (one.width or 0, one.height or 0) if known else None
    found = listing.below(folder, one.file_name, f"{where}.file_name")
    if not found.is_file():
        raise UserError(f"{where}.file_name: {brief(one.file_name)} is a folder; expected an image")
    return Picture(found, boxes, size, where)


def _refuse_twice(pictures: Sequence[Picture], seen: dict[Path, str]) -> None:
    for one in pictures:
        first = seen.setdefault(one.file.resolve(), one.where)
        if first != one.where:
            raise UserError(f"{one.where}: {one.file.name} is the image of {first} too; keep one")
