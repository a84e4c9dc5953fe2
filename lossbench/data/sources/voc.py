"""A folder in the layout of Pascal VOC: ``JPEGImages``, ``Annotations/*.xml``, ``ImageSets/Main/*.txt``."""

import codecs
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lossbench.data.samples import POOL, Fetched
from lossbench.data.sources import listing
from lossbench.data.sources.base import FolderSource, register
from lossbench.data.sources.boxes import Box, BoxOptions, Picture, boxes_of, found_classes
from lossbench.errors import UserError, brief
from lossbench.params import Dataset

PROVENANCE = {"name": "the user's own folder, Pascal VOC layout", "licence": "the user's own"}
MOST_BYTES = 2**24
"""Of one annotation: a thousand objects take half a megabyte."""
EDGES = ("xmin", "ymin", "xmax", "ymax")
WHOLE = re.compile(r"-?[0-9]{1,9}(\.0*)?")


class VocOptions(BoxOptions):
    """``first_pixel``: 0 where box edges count from the image's edge, as most tools write them.

    With 1, as in the challenge's own annotations, pixels are numbered from 1 and xmax, ymax name the last one
    inside. ``difficult: drop`` leaves out objects that are marked so.
    """

    first_pixel: Literal[0, 1] = 0
    difficult: Literal["keep", "drop"] = "keep"


@register
class Voc(FolderSource[VocOptions]):
    """``path/{JPEGImages,Annotations}``, divided by ``path/ImageSets/Main/{train,val,test}.txt`` if there."""

    name = "voc"
    options = VocOptions

    def load(self, dataset: Dataset, options: VocOptions, key: str) -> Fetched:
        """Read annotations, then images."""
        root = listing.existing_folder(dataset.path, key)
        groups = annotated_groups(root, options)
        classes = options.classes or found_classes(groups, key)
        return boxes_of(groups, classes, options, root, key, PROVENANCE)


def annotated_groups(root: Path, options: VocOptions) -> dict[str, list[Picture]]:
    """Split → its images and their boxes.

    Raises:
        UserError: naming the file that is missing, or the object that is none.

    """
    return {
        split: [picture(image, annotation, options) for image, annotation in pairs]
        for split, pairs in _divided(root).items()
    }


Pairs = list[tuple[Path, Path]]


def _divided(root: Path) -> dict[str, Pairs]:
    """Split → (image, annotation) pairs; one pool where no lists divide them."""
    found = {}
    for name in ("JPEGImages", "Annotations"):
        if not (root / name).is_dir():
            raise UserError(f"{root / name}: no such folder; expected JPEGImages/ and Annotations/ in {root}")
        found[name] = listing.by_stem(listing.files_in(root / name, f"'{name}'"))
    images, annotations = found["JPEGImages"], found["Annotations"]
    lists = listing.split_lists(root / "ImageSets" / "Main")
    if "train" not in lists:
        lists |= listing.split_lists(root / "ImageSets" / "Main", {"trainval": "train"})
    if not lists:
        _refuse_single(images, annotations, root)
        return {POOL: [(image, annotations[stem]) for stem, image in images.items()]}
    if "train" not in lists:
        raise UserError(f"{root / 'ImageSets' / 'Main'}: no train.txt beside {_names(lists)}")
    listed: dict[str, str] = {}
    return {
        split: [_pair(stem, row, file, images, annotations, listed) for row, stem in _stems(file)]
        for split, file in lists.items()
    }


def _names(lists: Mapping[str, Path]) -> str:
    return ", ".join(file.name for file in lists.values())


def _refuse_single(images: Mapping[str, Path], annotations: Mapping[str, Path], root: Path) -> None:
    """Without lists every image counts, and every annotation."""
    for stem, image in images.items():
        if stem not in annotations:
            raise UserError(f"{image}: no annotation of this name in {root / 'Annotations'}")
    for stem, annotation in annotations.items():
        if stem not in images:
            raise UserError(f"{annotation}: no image of this name in {root / 'JPEGImages'}")


def _stems(file: Path) -> list[tuple[int, str]]:
    """Names of a list's images, with their rows."""
    lines = listing.nfc(listing.read_text(file)).splitlines()
    found = [(row, line.strip()) for row, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{file}: empty; expected the name of an image per row")
    return found


def _pair(
    stem: str,
    row: int,
    file: Path,
    images: Mapping[str, Path],
    annotations: Mapping[str, Path],
    listed: dict[str, str],
) -> tuple[Path, Path]:
    for folder, known in (("JPEGImages", images), ("Annotations", annotations)):
        if stem not in known:
            raise UserError(f"{file}, row {row}: no file of the name {brief(stem)} in {folder}")
    here = f"{file.name}, row {row}"
    first = listed.setdefault(stem, here)
    if first != here:
        raise UserError(f"{file}, row {row}: {brief(stem)} stands in {first} already; keep one")
    return images[stem], annotations[stem]


def picture(image: Path, annotation: Path, options: VocOptions) -> Picture:
    """Read the objects of one image from its XML.

    Raises:
        UserError: naming the file, or the object that is none.

    """
    root = _parsed(annotation)
    if root.tag != "annotation":
        raise UserError(f"{annotation}: begins with <{brief(root.tag)}>; expected <annotation>")
    objects = list(enumerate(root.findall("object"), 1))
    kept = [(number, one) for number, one in objects if not _left_out(one, options)]
    boxes = [_box(one, f"{annotation}: object {number}", options) for number, one in kept]
    return Picture(image, boxes, _size(root, annotation), str(annotation))


def _parsed(file: Path) -> Any:
    """Parse XML that may come from anywhere: no entities, nothing fetched, nothing huge."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException  # type: ignore[import-untyped]  # it has no stubs
    from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]  # likewise

    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: {file.stat().st_size} bytes; an annotation has at most {MOST_BYTES}")
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    try:
        return fromstring(decoded_xml(content, str(file)))
    except ParseError as error:
        raise UserError(f"{file}: no well-formed XML: {error}") from None
    except UnicodeError as error:  # a lone surrogate
        raise UserError(f"{file}: no readable XML: {brief(str(error))}") from None
    except DefusedXmlException:
        raise UserError(
            f"{file}: declares entities, which an annotation does not need and a bomb is made of; remove them"
        ) from None


DECLARED = re.compile(
    rb"""\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]{0,39})["'][^>]{0,200}\?>"""
)
DECLARATION = re.compile(r"\s*<\?xml[^>]{0,400}\?>")
ALIASES = re.compile(
    r"(?:x-)*(?:windows-(31j|874|9\d\d)|ms-?(9\d\d)|(sjis|gbk|big5|mac-roman))", re.IGNORECASE
)
"""Names of encodings that editors declare and Python lacks: a code page's number, or a name after ``x-``."""
PAGES = {"31j": "cp932", "sjis": "shift_jis", "gbk": "gbk", "big5": "big5", "mac-roman": "mac_roman"}
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs"}
"""Encoding → the one that people mean by its name: the same, and more characters."""
MEANT = {"iso8859-1": "cp1252"}
"""Encoding → what is tried first: of these bytes Latin-1 makes control characters, which no name holds."""
NO_TEXT = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")
"""Python's codecs of text that are no encodings of it; others are refused by ``bytes.decode``."""


def decoded_xml(content: bytes, where: str) -> str:
    """Decode XML as it declares itself, without its declaration: the parser knows no multi-byte encoding.

    Raises:
        UserError: beginning with ``where``, for an unknown encoding, or bytes that are none of it.

    """
    if any(content.startswith(mark) for mark in listing.MARKS):
        text = listing.decoded(content, where)
    elif content[:4] in (b"<\0?\0", b"\0<\0?"):  # UTF-16 without its mark
        text = _decoded_as(content, "utf-16-le" if content[1] == 0 else "utf-16-be", where)
    else:
        found = DECLARED.match(content)
        name = found[1].decode() if found else "utf-8"
        if name.lower().startswith(("utf-16", "utf-32", "ucs")) or name.lower() == "unicode":
            name = "utf-8"  # or the declaration could not have been read byte by byte
        text = _decoded_as(content, name, where)
    return DECLARATION.sub("", text, count=1) if text.lstrip().startswith("<?xml") else text


def _decoded_as(content: bytes, name: str, where: str) -> str:
    try:
        codec = codecs.lookup(_known(name)).name
        if codec.replace("_", "-") in NO_TEXT:
            raise LookupError
        problem = ""
        for one in (MEANT.get(codec, codec), codec, WIDER.get(codec, codec)):
            try:
                return content.decode(one)
            except UnicodeDecodeError as error:
                problem = f"{error.reason} at byte {error.start}"
    except LookupError:
        raise UserError(f"{where}: no readable XML: it declares an unknown encoding, '{name}'") from None
    raise UserError(f"{where}: not {name} text ({problem})")


def _known(name: str) -> str:
    """Name an encoding as Python does."""
    found = ALIASES.fullmatch(name)
    page = (found[1] or found[2] or found[3]).lower() if found else ""
    return PAGES.get(page, f"cp{page}") if page else name


def _left_out(one: Any, options: VocOptions) -> bool:
    return options.difficult == "drop" and (one.findtext("difficult") or "0").strip() == "1"


def _box(one: Any, where: str, options: VocOptions) -> Box:
    label = listing.nfc((one.findtext("name") or "").strip())
    if not label:
        raise UserError(f"{where}: no <name>")
    box = one.find("bndbox")
    if box is None:
        raise UserError(f"{where} ('{label}'): no <bndbox>")
    x0, y0, x1, y1 = (_number(box, edge, f"{where} ('{label}')") for edge in EDGES)
    first = options.first_pixel
    return Box(label, (x0 - first, y0 - first, x1, y1), f"{where} ('{label}')")


def _number(box: Any, edge: str, where: str) -> float:
    text = box.findtext(edge)
    if text is None:
        raise UserError(f"{where}: no <{edge}>")
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where}: <{edge}> is {brief(text)}; expected a number") from None


def _size(root: Any, file: Path) -> tuple[int, int] | None:
    """(width, height) as annotated; some tools leave it out, or write 0 or -1."""
    found: Sequence[str] = [(root.findtext(f"size/{side}") or "0").strip() for side in ("width", "height")]
    if not all(WHOLE.fullmatch(one) for one in found):
        raise UserError(f"{file}: <size> is {brief(' × '.join(found))}; expected whole numbers of pixels")
    width, height = (int(float(one)) for one in found)
    return (width, height) if min(width, height) > 0 else None
