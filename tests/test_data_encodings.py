"""Names and texts as tools write them: any encoding that says what it is, accents spelled either way, byte order marks."""

import json
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data_cases import dataset, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples, few

from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.data.sources.listing import below, csv_entries, nfc
from lossbench.data.sources.voc import decoded_xml
from lossbench.errors import UserError

NAMES = {
    "gbk": "猫", "gb2312": "狗", "gb18030": "𠮷猫", "shift_jis": "ネコ", "euc-jp": "犬", "iso-2022-jp": "犬", "euc-kr": "고양이",
    "cp949": "뷁", "big5": "貓", "latin-1": "Füchsin", "iso-8859-15": "œuf", "windows-1251": "кошка", "koi8-r": "собака",
    "utf-8": "Größe 猫", "us-ascii": "cat",
}  # fmt: skip
"""Encoding → a name in it."""
ACCENTS = st.text(st.sampled_from("aeéèçñöüßがÅ한ﬁ"), min_size=1, max_size=6)
SHARES = {"validation": 0.25, "test": 0.25, "reference": 0.0}


def annotation(label: str, declared: str | None) -> str:
    head = "" if declared is None else f'<?xml version="1.0" encoding="{declared}"?>\n'
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
    return f"{head}<annotation><object><name>{label}</name>{box}</object></annotation>"


def voc(root: Path, contents: list[bytes]) -> Path:
    for number, content in enumerate(contents):
        picture(root / "JPEGImages" / f"{number}.png", seed=number)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / f"Annotations/{number}.xml").write_bytes(content)
    return root


def fetched(source: str, root: Path, **options: Any) -> Dataset:
    with tempfile.TemporaryDirectory() as out:
        fetch(dataset(source, root, **options), "mine", Path(out) / "data")
        opened = Dataset.open(Path(out) / "data")
        opened.info.write(root.parent)
        return opened


ALIASES = {
    "x-gbk": "gbk", "windows-936": "gbk", "x-sjis": "shift_jis", "windows-31j": "cp932", "ms932": "cp932",
    "windows-949": "cp949", "x-windows-949": "cp949", "x-x-big5": "big5", "windows-950": "cp950", "windows-874": "cp874",
    "x-mac-roman": "mac_roman", "Unicode": "utf-8", "iso-8859-1": "cp1252",
}  # fmt: skip
"""A name that editors declare and Python lacks, or means otherwise → what the bytes are."""
OF_ALIASES = {"gbk": "猫", "shift_jis": "犬", "cp932": "①犬", "cp949": "뷁", "big5": "貓", "cp950": "貓", "cp874": "แมว",
           "mac_roman": "œuf", "utf-8": "猫", "cp1252": "œuf"}  # fmt: skip


@each("declared", ALIASES)
def test_names_of_encodings_that_python_lacks_are_known(declared: str) -> None:
    name = OF_ALIASES[ALIASES[declared]]
    for spelled in (declared, declared.upper()):
        assert name in decoded_xml(annotation(name, spelled).encode(ALIASES[declared]), "a.xml")


@few("encoding", NAMES)
def test_an_annotation_is_read_in_the_encoding_it_declares(encoding: str, tmp_path: Path) -> None:
    content = annotation(NAMES[encoding], encoding.upper()).encode(encoding)
    opened = fetched("voc", voc(tmp_path / "mine", [content] * 12), splits=SHARES)
    assert opened.info.classes == (nfc(NAMES[encoding]),)


@each("mark", [True, False])
@each("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@each("declared", [None, "utf-16", "UTF-8"])
def test_unicode_is_read_with_its_mark_or_by_its_look(
    mark: bool, encoding: str, declared: str | None
) -> None:
    """Tools declare UTF-16 and write UTF-8, and the other way round: a mark, or the bytes, say what is so."""
    text = annotation("猫", declared)
    if not mark and declared is None and encoding != "utf-8":
        return  # nothing tells
    content = ("\ufeff" * mark + text).encode(encoding)
    assert "<name>猫</name>" in decoded_xml(content, "x.xml")
    assert "<?xml" not in decoded_xml(content, "x.xml")


def test_more_characters_than_the_name_of_an_encoding_promises_are_read() -> None:
    for declared, written, name in (
        ("gb2312", "gb18030", "镕"),
        ("shift_jis", "cp932", "①"),
        ("euc-kr", "cp949", "뷁"),
    ):
        assert name in decoded_xml(annotation(name, declared).encode(written), "x.xml")


@each(
    ("content", "says"),
    [
        (annotation("狗", "utf-8").encode("gbk"), r"0\.xml: not utf-8 text \(invalid"),
        (annotation("狗", None).encode("gbk"), r"0\.xml: not utf-8 text"),
        (annotation("cat", "klingon").encode(), r"0\.xml: no readable XML: it declares an unknown encoding, 'klingon'"),
        (annotation("cat", "rot13").encode(), r"0\.xml: no readable XML: it declares an unknown encoding, 'rot13'"),
        (annotation("cat", "unicode_escape").encode(), r"0\.xml: no readable XML: it declares an unknown"),
        (annotation("cat", "idna").encode(), r"0\.xml: no readable XML"),
        (b"\xff\xfe<\0a", r"0\.xml: not UTF-16 text|0\.xml: no well-formed XML"),
    ],
)  # fmt: skip
def test_bytes_that_are_not_what_they_declare_are_one_sentence(
    content: bytes, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        fetched("voc", voc(tmp_path / "mine", [content] * 12))


@pytest.mark.parametrize("encoding", ["gbk", "utf-16", "shift_jis", "utf-7", "utf-8-sig"])
def test_an_entity_is_refused_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "xxxx"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
    head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
    content = head.encode() + bomb.encode("utf-7") if encoding == "utf-7" else (head + bomb).encode(encoding)
    with pytest.raises(UserError, match=r"declares entities|no well-formed XML"):
        fetched("voc", voc(tmp_path / "mine", [content] * 12))


@settings(max_examples=examples(80), deadline=None)
@given(encoding=st.sampled_from(list(NAMES)), text=st.text(max_size=8), declared=st.booleans())
def test_what_an_encoding_can_write_is_read_back(encoding: str, text: str, declared: bool) -> None:
    label = "".join(one for one in text if one.isprintable() and one not in "<&>")
    try:
        content = annotation(label, encoding if declared else None).encode(encoding if declared else "utf-8")
    except UnicodeEncodeError:
        return  # not in this encoding
    if content.decode(encoding if declared else "utf-8") == annotation(label, encoding if declared else None):
        assert f"<name>{label}</name>" in decoded_xml(content, "x")


# -- accents -----------------------------------------------------------------------------------------------------


def spelled(name: str, way: str) -> str:
    return unicodedata.normalize(way, name)


@settings(max_examples=examples(8), deadline=None)
@given(name=ACCENTS, ways=st.permutations(["NFC", "NFD", "NFC"]))
def test_a_class_is_one_however_its_folders_are_spelled(name: str, ways: list[str]) -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "mine"
        for split, way in zip(("train", "val", "test"), ways, strict=True):
            for label in (name, "other"):
                for number in range(3):
                    picture(root / split / spelled(label, way) / f"{split}{number}.png", seed=number)
        opened = fetched(
            "image_folder", root, anomaly={"normal": [spelled(name, "NFD")]}, splits={"reference": 0}
        )
        assert opened.info.kind == "anomaly"
        assert set(fetched("image_folder", root).info.classes) == {nfc(name), "other"}


def masks(root: Path, image: str, mask: str) -> tuple[str, dict[str, Any]]:
    for number in range(12):
        picture(root / "images" / f"{image}{number}.png", seed=number)
        picture(root / "masks" / f"{mask}{number}.png", value=number % 2)
    return "segmentation_folder", {"splits": SHARES, "classes": ["a", "b"]}


def boxes(root: Path, image: str, other: str) -> tuple[str, dict[str, Any]]:
    for number in range(12):
        picture(root / "JPEGImages" / f"{image}{number}.png", seed=number)
        (root / "Annotations").mkdir(parents=True, exist_ok=True)
        (root / f"Annotations/{other}{number}.xml").write_text(annotation(other, "utf-8"), encoding="utf-8")
    (root / "ImageSets/Main").mkdir(parents=True)
    for split, some in (("train", range(6)), ("val", range(6, 9)), ("test", range(9, 12))):
        lines = "".join(f"{spelled(other, 'NFD')}{number}\n" for number in some)
        (root / f"ImageSets/Main/{split}.txt").write_text(lines, encoding="utf-16")
    return "voc", {"classes": [image], "splits": {"reference": 0}}


def instances(root: Path, image: str, other: str) -> tuple[str, dict[str, Any]]:
    for number in range(12):
        picture(root / "images" / image / f"{image}{number}.png", seed=number)
    content = {
        "images": [{"id": n, "file_name": f"{other}/{other}{n}.png"} for n in range(12)],
        "annotations": [{"image_id": n, "category_id": 0, "bbox": [1, 1, 4, 4]} for n in range(12)],
        "categories": [{"id": 0, "name": other}],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances.json").write_text(json.dumps(content), encoding="utf-8-sig")
    return "coco", {"classes": [image], "splits": SHARES}


def table(root: Path, image: str, other: str) -> tuple[str, dict[str, Any]]:
    for number in range(12):
        picture(root / f"{image}{number}.png", seed=number)
    rows = "".join(f"{other}{number}.png,{other}|other\n" for number in range(12))
    (root / "labels.csv").write_text("file,labels\n" + rows, encoding="utf-16")
    return "multilabel_csv", {"labels": [image, "other"], "splits": SHARES}


@each("ways", [("NFC", "NFD"), ("NFD", "NFC")])
@few("make", [masks, boxes, instances, table])
@each("name", ["café", "が한"])
def test_files_and_lists_meet_however_names_are_spelled(
    make: Callable[..., tuple[str, dict[str, Any]]], ways: tuple[str, str], name: str, tmp_path: Path
) -> None:
    root = tmp_path / "mine"
    source, options = make(root, *(spelled(name, way) for way in ways))
    opened = fetched(source, root, **options)
    assert sum(opened.info.sizes.values()) == 12


def test_two_folders_that_differ_in_spelling_alone_are_refused_naming_both(tmp_path: Path) -> None:
    for way in ("NFC", "NFD"):
        for number in range(6):
            picture(tmp_path / "mine" / spelled("café", way) / f"{number}.png")
    with pytest.raises(UserError, match=r"differ in their spelling of accents only; keep one"):
        fetched("image_folder", tmp_path / "mine")


@each("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_coco_is_read_in_every_form_of_unicode(encoding: str, tmp_path: Path) -> None:
    source, options = instances(tmp_path / "mine", "café", "café")
    file = tmp_path / "mine/annotations/instances.json"
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8-sig")), ensure_ascii=False), encoding=encoding
    )
    assert fetched(source, tmp_path / "mine", **options).info.classes == ("café",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_are_read_with_their_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    source, options = table(tmp_path / "mine", "a", "a")
    file = tmp_path / "mine/labels.csv"
    file.write_text(file.read_text(encoding="utf-16"), encoding=encoding)
    assert fetched(source, tmp_path / "mine", **options).info.classes == ("a", "other")


def test_blanks_around_the_names_of_columns_are_no_part_of_them(tmp_path: Path) -> None:
    source, options = table(tmp_path / "mine", "a", "a")
    file = tmp_path / "mine/labels.csv"
    head, *rows = file.read_text(encoding="utf-16").splitlines()
    file.write_text("\n".join([head.replace(",", " , "), *rows]), encoding="utf-8")
    assert fetched(source, tmp_path / "mine", **options).info.classes == ("a", "other")


# -- boxes -------------------------------------------------------------------------------------------------------


def coco(root: Path, boxes: list[list[float]], shape: tuple[int, int] = (24, 32), **image: Any) -> Path:
    for number in range(12):
        picture(root / "images" / f"{number}.png", shape, seed=number)
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", **image} for n in range(12)],
        "annotations": [
            {"id": 100 * n + m, "image_id": n, "category_id": 0, "bbox": box}
            for n in range(12)
            for m, box in enumerate(boxes)
        ],
        "categories": [{"id": 0, "name": "cat"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances.json").write_text(json.dumps(content))
    return root


def result(root: Path, **options: Any) -> tuple[np.ndarray, pd.DataFrame, dict[str, Any]]:
    out = root.parent / "data"
    fetch(dataset("coco", root, splits=SHARES, **options), "mine", out)
    told = json.loads((out / "provenance.json").read_text())["boxes"]
    return np.load(out / "train/targets.npy"), pd.read_parquet(out / "manifest.parquet"), told


def test_two_decimals_beyond_the_edge_are_read_and_counted(tmp_path: Path) -> None:
    targets, table, told = result(coco(tmp_path / "mine", [[20.17, 2, 11.84, 5], [1, 1, 3, 3]]))
    np.testing.assert_allclose(targets[0], [[20.17, 2, 32, 7, 0], [1, 1, 4, 4, 0]], atol=1e-5)
    assert (table["clipped_boxes"] == 1).all()
    assert told == {"beyond": "refuse", "clipped": 12, "dropped": 0, "repeated": 0}


@pytest.mark.parametrize(
    "size", [{}, {"width": -1, "height": -1}, {"width": 0, "height": 0}, {"width": None}, {"width": 32}]
)
def test_a_size_that_is_not_known_is_not_compared(size: dict[str, Any], tmp_path: Path) -> None:
    assert len(result(coco(tmp_path / "mine", [[1, 1, 3, 3]], **size))[1]) == 12


EDGES = st.floats(-10, 45, allow_nan=False).map(lambda one: round(one, 2))


@settings(max_examples=examples(15), deadline=None)
@given(
    boxes=st.lists(st.tuples(EDGES, EDGES, st.floats(0, 50), st.floats(0, 50)), min_size=1, max_size=4),
    beyond=st.sampled_from(["clip", "refuse"]),
)
def test_boxes_are_cut_off_at_the_edge_and_counted_or_refused(
    boxes: list[tuple[float, ...]], beyond: str
) -> None:
    edges = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes])
    outside = np.maximum(-edges[:, :2].min(1), (edges[:, 2:] - [32, 24]).max(1))
    cut = np.clip(edges, 0, [32, 24, 32, 24])
    kept = cut[(cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])]
    with tempfile.TemporaryDirectory() as made:
        root = coco(Path(made) / "mine", [list(one) for one in boxes])
        if beyond == "refuse" and outside.max() > 0.5:
            with pytest.raises(
                UserError,
                match=r"annotations\[\d+\] \('cat'\): .* reaches beyond .*say 'datasets\.mine\.boxes: clip'",
            ):
                result(root, boxes=beyond)
            return
        targets, table, told = result(root, boxes=beyond)
        np.testing.assert_allclose(targets[0][: len(kept), :4], kept, atol=1e-4)
        assert (targets[0][len(kept) :, 4] == -1).all()
        assert told["clipped"] == 12 * (outside > 1e-3).sum() == table["clipped_boxes"].sum()
        assert told["dropped"] == 12 * (len(boxes) - len(kept)) == table["dropped_boxes"].sum()


def spoilt(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        coco(root, [[1, 1, 3, 3]])
        file = root / "annotations/instances.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return root

    return make


TWINS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "names of categories": (
        lambda c: c["categories"].append({"id": 9, "name": "cat"}),
        r"'categories' has two of the name 'cat', ids 0 and 9",
    ),
    "names spelled in two ways": (
        lambda c: c.update(categories=[{"id": 0, "name": "café"}, {"id": 9, "name": "cafe\u0301"}]),
        r"'categories' has two of the name 'café', ids 0 and 9",
    ),
    "ids of categories": (
        lambda c: c["categories"].append({"id": 0, "name": "dog"}),
        r"'categories' has id 0 twice, for 'cat' and 'dog'",
    ),
    "ids of images": (
        lambda c: c["images"].append({"id": 3, "file_name": "4.png"}),
        r"two of 'images' share an id, 3 \('3\.png', '4\.png'\)",
    ),
    "files of images": (
        lambda c: c["images"].append({"id": 99, "file_name": "./4.png"}),
        r"images\[12\]: 4\.png is the image of .*images\[4\] too",
    ),
    "ids of annotations": (
        lambda c: c["annotations"].append(dict(c["annotations"][2])),
        r"annotations\[2\] and annotations\[12\] share the id '200'",
    ),
}


@each("what", TWINS)
def test_what_stands_twice_is_refused_naming_both(what: str, tmp_path: Path) -> None:
    change, says = TWINS[what]
    with pytest.raises(UserError, match=says):
        result(spoilt(change)(tmp_path / "mine"))


def test_a_box_that_stands_twice_is_kept_and_counted(tmp_path: Path) -> None:
    _, table, told = result(coco(tmp_path / "mine", [[1, 1, 3, 3], [1, 1, 3, 3], [2, 2, 3, 3]]))
    assert (table["repeated_boxes"] == 1).all()
    assert told["repeated"] == 12


@pytest.mark.parametrize(("orientation", "doubt"), [(1, 0), (3, 1), (6, 1)])
def test_boxes_of_a_tagged_image_are_in_doubt_unless_its_size_tells(
    orientation: int, doubt: int, tmp_path: Path
) -> None:
    from PIL import Image

    root = coco(tmp_path / "mine", [[1, 1, 3, 3]], (24, 24))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for file in (root / "images").iterdir():
        Image.open(file).save(file, exif=exif)
    assert (result(root)[1]["orientation_in_doubt"] == doubt).all()
    assert (result(root, orientation="apply")[1]["orientation_in_doubt"] == 0).all()


def test_a_size_of_raw_pixels_names_the_tag(tmp_path: Path) -> None:
    from PIL import Image

    root = coco(tmp_path / "mine", [[1, 1, 3, 3]])
    file = root / "annotations/instances.json"
    content = json.loads(file.read_text())
    for one in content["images"]:
        one.update(width=32, height=24)
    file.write_text(json.dumps(content))
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (root / "images").iterdir():
        Image.open(image).save(image, exif=exif)
    with pytest.raises(
        UserError, match=r"is 24×32, turned as its EXIF tag asks .*'datasets\.mine\.orientation: ignore'"
    ):
        result(root)
    assert (result(root, orientation="ignore")[1]["orientation_in_doubt"] == 0).all()


# Names as other systems write them, and tables as spreadsheets save them.

WRITTEN: dict[str, Callable[[str], str]] = {
    "backslashes": lambda name: name.replace("/", "\\"),
    "a backslash before": lambda name: ".\\" + name.replace("/", "\\"),
    "another case": str.upper,
    "case and backslashes": lambda name: name.upper().replace("/", "\\"),
    "as it is": lambda name: name,
}


@each("how", WRITTEN)
@few("source", ["coco", "multilabel_csv", "table"])
def test_files_are_found_as_other_systems_name_them(source: str, how: str, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for number in range(12):
        picture(root / f"images/Train/a{number}.png", seed=number)
    names = [WRITTEN[how](f"Train/a{number}.png") for number in range(12)]
    if source == "coco":
        box = {"category_id": 1, "bbox": [1, 1, 4, 4]}
        content = {
            "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
            "annotations": [{**box, "image_id": number} for number in range(12)],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (root / "annotations").mkdir()
        (root / "annotations/instances.json").write_text(json.dumps(content))
    else:
        head, file, cell = (
            ("file,a,b", "labels.csv", "1,0")
            if source == "multilabel_csv"
            else ("image,label", "samples.csv", "")
        )
        rows = [f"{name},{cell or 'ab'[number % 2]}" for number, name in enumerate(names)]
        (root / "images" / file).write_text("\n".join([head, *rows]))
        root = root / "images"
    opened = fetched(source, root, splits=SHARES)
    assert sum(opened.info.sizes.values()) == 12


def test_of_two_files_that_differ_in_case_alone_neither_is_guessed(tmp_path: Path) -> None:
    for name in ("a.png", "A.png", "b.png"):
        picture(tmp_path / name, seed=len(name))
    assert below(tmp_path, "A.png", "x").name == "A.png"
    assert below(tmp_path, "B.PNG", "x").name == "b.png"
    with pytest.raises(UserError, match=r"'a.PNG' is not in"):
        below(tmp_path, "a.PNG", "x")


@pytest.mark.parametrize("name", ["..\\secret.png", "..\\MINE\\..\\SECRET.PNG", "sub\\..\\..\\secret.png"])
def test_backslashes_lead_out_of_no_folder(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    (tmp_path / "mine/sub").mkdir(parents=True)
    with pytest.raises(UserError, match="leads out of"):
        below(tmp_path / "mine", name, "x")


@given(
    st.lists(
        st.lists(st.text(st.sampled_from("ab1 .é猫|"), min_size=1, max_size=5), min_size=2, max_size=2),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_a_table_is_read_whatever_separates_its_columns(
    rows: list[list[str]], delimiter: str, ending: str, encoding: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.csv"
        lines = [delimiter.join(one) for one in [["file", "label"], *rows]]
        file.write_bytes(ending.join(lines).encode(encoding))
        columns, entries = csv_entries(file)
    assert columns == ["file", "label"]
    assert [list(cells.values()) for _, cells in entries] == rows


@pytest.mark.parametrize("size", ["-1", "0", "8.0", " 8 ", "8"])
def test_a_size_in_an_annotation_may_be_unknown_or_written_as_a_decimal(size: str, tmp_path: Path) -> None:
    content = annotation("cat", None).replace(
        "<annotation>", f"<annotation><size><width>{size}</width><height>8</height></size>"
    )
    opened = fetched("voc", voc(tmp_path / "mine", [content.encode()] * 12), splits=SHARES)
    assert opened.info.classes == ("cat",)


@pytest.mark.parametrize("size", ["8.5", "eight", "nan", "9"])
def test_a_size_that_is_none_or_another_is_refused(size: str, tmp_path: Path) -> None:
    content = annotation("cat", None).replace(
        "<annotation>", f"<annotation><size><width>{size}</width><height>8</height></size>"
    )
    with pytest.raises(UserError, match=r"expected whole numbers of pixels|says that the image is 9×8"):
        fetched("voc", voc(tmp_path / "mine", [content.encode()] * 12), splits=SHARES)
