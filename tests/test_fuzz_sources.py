"""Annotations and tables of any bytes: VOC, COCO, CSV and text are fetched or refused, and nothing else happens."""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from data_cases import dataset, picture
from fuzz_cases import damaged, fuzzed, nothing_written_outside
from hypothesis import strategies as st
from law_cases import each

from lossbench.data.fetching import fetch
from lossbench.errors import UserError

XML = b"""<annotation><size><width>8</width><height>8</height><depth>1</depth></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object>
<object><name>dog</name><bndbox><xmin>0</xmin><ymin>2</ymin><xmax>8</xmax><ymax>8</ymax></bndbox></object></annotation>"""
BOMB = (
    b'<!DOCTYPE a [<!ENTITY b "' + b"x" * 50 + b'"><!ENTITY c "&b;&b;&b;&b;">]><annotation>&c;</annotation>'
)
OUTSIDE = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'
DEEP = b"<annotation>" + b"<object>" * 100_000
INSTANCES = json.dumps({
    "images": [{"id": n, "file_name": f"{n}.png", "width": 8, "height": 8} for n in range(6)],
    "annotations": [{"image_id": n, "category_id": n % 2, "bbox": [1, 1, 4.5, 3]} for n in range(6)],
    "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
}).encode()  # fmt: skip
TABLE = b"file,cat,dog,split\n" + b"".join(
    b"images/%d.png,%d,%d,%s\n" % (n, n % 2, n > 2, [b"train", b"val", b"test"][n % 3]) for n in range(6)
)
LISTED = b"file,labels\n" + b"".join(b"images/%d.png,cat|dog\n" % n for n in range(6))
TEXT = ("Every loss has its day; no loss has every day.\r\n" * 12 + "Größe, 損失 \U0001f4c9\n").encode()
NAMES = st.sampled_from(
    ["../out.png", "/etc/passwd", "nul\0.png", "x" * 300, "", ".", "images", "loop.png", "fifo.png", "~nobody/x", "\x1b[2J"]
)  # fmt: skip

ODD_XML = st.sampled_from(
    [BOMB, OUTSIDE, DEEP, b"", b"<annotation/>", b'<?xml version="1.0" encoding="x"?><annotation/>']
)
ODD_JSON = st.sampled_from(
    [b"[" * 100_000, b"{}", b"null", b"1e999", b'{"images": [], "annotations": [], "categories": []}']
)
NUMBERS = st.sampled_from(["nan", "inf", "-1", "1e400", "9" * 400, "0x5", "1_0", "٣", "", " ", "5.5"])


def with_number(text: str) -> bytes:
    return XML.replace(b"<xmax>5<", b"<xmax>" + text.encode() + b"<").replace(
        b"<width>8<", b"<width>" + text.encode() + b"<"
    )


def with_name(name: str) -> bytes:
    return INSTANCES.replace(b'"3.png"', json.dumps(name).encode())


def with_cell(name: str) -> bytes:
    return TABLE.replace(b"images/3.png", name.encode())


LAYOUTS: dict[str, tuple[str, st.SearchStrategy[bytes]]] = {
    "voc": ("Annotations/3.xml", damaged(XML) | ODD_XML | NUMBERS.map(with_number) | st.binary(max_size=50)),
    "coco": ("annotations/instances.json", damaged(INSTANCES) | ODD_JSON | NAMES.map(with_name) | st.binary(max_size=50)),
    "multilabel_csv": ("labels.csv", damaged(TABLE, LISTED) | NAMES.map(with_cell) | st.binary(max_size=50)),
    "text_file": ("text.txt", damaged(TEXT) | st.binary(max_size=400) | st.text(max_size=400).map(str.encode)),
}  # fmt: skip


def plant(root: Path) -> None:
    """Six small images, sound annotations of all four kinds, and traps that annotations may name."""
    for folder in ("images", "JPEGImages"):
        for number in range(6):
            picture(root / folder / f"{number}.png", seed=number)
    (root / "images/loop.png").symlink_to("loop.png")
    os.mkfifo(root / "images/fifo.png")
    os.mkfifo(root / "fifo.png")
    for number in range(6):
        (root / "Annotations").mkdir(exist_ok=True)
        (root / f"Annotations/{number}.xml").write_bytes(XML)
    (root / "annotations").mkdir()
    (root / "annotations/instances.json").write_bytes(INSTANCES)
    (root / "labels.csv").write_bytes(TABLE)
    (root / "text.txt").write_bytes(TEXT)


def block(source: str, root: Path) -> Any:
    if source == "text_file":
        return dataset(source, root / "text.txt", length=4)
    return dataset(source, root, splits={"validation": 0.3, "test": 0.3, "reference": 0.0})


def attempt(source: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made, "mine")
        plant(root)
        (root / LAYOUTS[source][0]).write_bytes(content)
        with nothing_written_outside(Path(made, "data")):
            try:
                fetch(block(source, root), "mine", Path(made, "data/mine"))
            except UserError as refusal:
                assert len(str(refusal)) < 1500


@fuzzed(quick=20, content=LAYOUTS["voc"][1])
def test_a_voc_annotation_of_any_bytes_is_read_or_refused(content: bytes) -> None:
    attempt("voc", content)


@fuzzed(quick=20, content=LAYOUTS["coco"][1])
def test_coco_instances_of_any_bytes_are_read_or_refused(content: bytes) -> None:
    attempt("coco", content)


@fuzzed(quick=20, content=LAYOUTS["multilabel_csv"][1])
def test_a_table_of_labels_of_any_bytes_is_read_or_refused(content: bytes) -> None:
    attempt("multilabel_csv", content)


@fuzzed(quick=20, content=LAYOUTS["text_file"][1])
def test_a_text_of_any_bytes_is_read_or_refused(content: bytes) -> None:
    attempt("text_file", content)


@pytest.mark.parametrize("content", [BOMB, OUTSIDE])
def test_an_annotation_with_entities_is_refused(content: bytes, tmp_path: Path) -> None:
    plant(tmp_path / "mine")
    (tmp_path / "mine/Annotations/3.xml").write_bytes(content)
    with pytest.raises(UserError, match="declares entities"):
        fetch(block("voc", tmp_path / "mine"), "mine", tmp_path / "data/mine")


@pytest.mark.timeout(20)
@each("name", ["fifo.png", "loop.png", "nul\0.png", "../../out.png", "/etc/passwd"])
@each("source", ["coco", "multilabel_csv"])
def test_an_image_that_is_no_file_in_the_folder_is_refused(source: str, name: str, tmp_path: Path) -> None:
    plant(tmp_path / "mine")
    inside = f"images/{name}" if source == "multilabel_csv" and not name.startswith("/") else name
    content = with_name(name) if source == "coco" else with_cell(inside)
    (tmp_path / "mine" / LAYOUTS[source][0]).write_bytes(content)
    with pytest.raises(UserError, match=r"labels\.csv, row 5|images\[3\]"):
        fetch(block(source, tmp_path / "mine"), "mine", tmp_path / "data/mine")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("source", ["voc", "coco", "multilabel_csv", "text_file"])
def test_annotations_that_are_a_pipe_are_refused_and_never_waited_for(source: str, tmp_path: Path) -> None:
    plant(tmp_path / "mine")
    file = tmp_path / "mine" / LAYOUTS[source][0]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError):
        fetch(block(source, tmp_path / "mine"), "mine", tmp_path / "data/mine")


@pytest.mark.parametrize("source", list(LAYOUTS))
def test_the_sound_files_are_fetched(source: str, tmp_path: Path) -> None:
    plant(tmp_path / "mine")
    with contextlib.chdir(tmp_path):
        fetch(block(source, tmp_path / "mine"), "mine", tmp_path / "data/mine")
    assert (tmp_path / "data/mine/dataset.json").exists()
