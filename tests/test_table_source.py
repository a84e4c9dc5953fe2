"""Images as a table lists them: every column means what it says, and groups never cross splits."""

import csv
import io
import json
import tempfile
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples, few
from PIL import Image

from lossbench.data.fetching import fetch
from lossbench.data.sources.listing import csv_entries, nfc
from lossbench.data.sources.table import Row, divide_rows
from lossbench.errors import UserError
from lossbench.params import Dataset as DatasetParams
from lossbench.params import Splits
from lossbench.recognition import recognise

COUNT = 40
XML = (
    "<annotation><size><width>8</width><height>6</height></size><object><name>{name}</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>5</xmax><ymax>4</ymax></bndbox></object></annotation>"
)
SHARES = {"splits": {"validation": 0.2, "test": 0.2, "reference": 0.1}}


def pictures(folder: Path, count: int = COUNT) -> list[str]:
    (folder / "pictures").mkdir(parents=True)
    names = [f"pictures/é{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return names


def fetched(folder: Path, **options: Any) -> tuple[pd.DataFrame, Path]:
    spec = DatasetParams(source="table", path=str(folder), **{**SHARES, **options})
    out = folder.parent / "out"
    fetch(spec, "mine", out)
    return pd.read_parquet(out / "manifest.parquet"), out


def write(folder: Path, table: pd.DataFrame, ending: str = "csv") -> None:
    if ending == "csv":
        table.to_csv(folder / "samples.csv", index=False)
    else:
        table.to_parquet(folder / "samples.parquet", index=False)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_labels_splits_and_further_columns(ending: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    names = pictures(folder)
    splits = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    table = pd.DataFrame(
        {"image": names, "label": [f"{n % 11}" for n in range(COUNT)], "split": splits, "clinic": ["a", "b"] * 20,
         "width": range(COUNT)}
    )  # fmt: skip
    if ending == "parquet":
        table["label"] = table["label"].astype(float)
    write(folder, table, ending)
    found, _ = fetched(folder, table=f"samples.{ending}", splits={"reference": 0.0})
    by_name = found.set_index("source")
    assert set(by_name.index) == set(names)
    for row in table.itertuples():
        own = by_name.loc[row.image]
        assert own["label"] == str(int(row.label))
        assert own["split"] == {"val": "validation"}.get(row.split, row.split)
        assert (own["clinic"], own["width"], own["own_width"]) == (row.clinic, 8, str(row.width))


def test_classes_are_in_natural_order_and_their_numbers_are_those_of_classes(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    names = pictures(folder)
    write(folder, pd.DataFrame({"image": names, "label": [f"class {10 - n % 2 * 8}" for n in range(COUNT)]}))
    _, out = fetched(folder)
    assert '"class 2",\n  "class 10"' in (out / "dataset.json").read_text().replace("   ", " ")


def test_masks_are_found_by_their_column(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    names = pictures(folder)
    (folder / "drawn").mkdir()
    masks = [f"drawn/{COUNT - number}.png" for number in range(COUNT)]
    for number, name in enumerate(masks):
        mask = np.zeros((6, 8), np.uint8)
        mask[: number % 5 + 1] = 255
        Image.fromarray(mask).save(folder / name)
    write(folder, pd.DataFrame({"scan": names, "truth": masks, "patient": [n // 4 for n in range(COUNT)]}))
    found, _ = fetched(folder, image="scan", mask="truth", group="patient")
    assert found.groupby("group")["split"].nunique().max() == 1
    number = found["source"].str.extract(r"é(\d+)")[0].astype(int)
    assert np.allclose(found["foreground"], (number % 5 + 1) / 6)
    assert (found["group"] == (number // 4).astype(str)).all()


def test_boxes_are_read_from_their_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    names = pictures(folder)
    files = [f"{number}.xml" for number in range(COUNT)]
    for number, name in enumerate(files):
        (folder / name).write_text(XML.format(name=["cat", "dog"][number % 2]))
    write(folder, pd.DataFrame({"image": names, "boxes": files, "clinic": ["a", "b"] * 20}))
    found, out = fetched(folder)
    targets = np.load(out / "train" / "targets.npy")
    assert targets.shape[1:] == (1, 5)
    assert set(targets[:, 0, 4]) == {0, 1}
    assert set(found["clinic"]) == {"a", "b"}


@settings(max_examples=examples(60), deadline=None)
@given(
    groups=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    given_split=st.sampled_from(["none", "train", "train and test"]),
)
def test_no_group_is_ever_in_two_splits_and_no_row_is_lost(groups: list[int], given_split: str) -> None:
    def split_of(group: int) -> str:
        if given_split == "none":
            return "pool"
        return "test" if given_split == "train and test" and group % 3 == 1 and 0 in groups else "train"

    rows = [
        Row(f"t, row {n}", Path(f"{n}"), "x", split_of(group), str(group), {})
        for n, group in enumerate(groups)
    ]
    found = divide_rows(rows, Splits(), Path("t"))
    assert set(found) == {"train", "validation", "test", "reference"}
    assert sorted(row.where for some in found.values() for row in some) == sorted(row.where for row in rows)
    where = {(row.group, split) for split, some in found.items() for row in some}
    assert len(where) == len(set(groups))
    more = [*rows, Row("t, row new", Path("new"), "x", split_of(99), "99", {})]
    again = divide_rows(more, Splits(), Path("t"))
    assert all(set(map(id, found[name])) <= set(map(id, again[name])) for name in found)


def said(folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        fetched(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@each(
    ("change", "options", "words"),
    [
        ({}, {"table": "other.csv"}, "other.csv: no such file; there is samples.csv"),
        ({}, {"label": "lable"}, "row 1: no column 'lable'; did you mean 'label'?"),
        ({}, {"group": "patient"}, "row 1: no column 'patient'"),
        ({}, {"image": "imag"}, "row 1: no column 'imag'; did you mean 'image'?"),
        ({}, {"label": "label", "mask": "mask"}, "both 'label' and 'mask' name a target"),
        ({"mask": "x"}, {}, "found both 'label' and 'mask'"),
        ({"label": None}, {}, "expected a column 'label', 'mask' or 'boxes', found none among 'image'"),
        ({("image", 3): "pictures/none.png"}, {}, "row 5: 'image': 'pictures/none.png' is not in"),
        ({("image", 3): "../x.png"}, {}, "row 5: 'image': '../x.png' "),
        ({("image", 3): "pictures"}, {}, "row 5: 'image' is 'pictures', a folder"),
        ({("image", 3): ""}, {}, "row 5: 'image' is empty"),
        ({("label", 3): ""}, {}, "row 5: 'label' is empty"),
        ({("image", 3): "pictures/é0.png"}, {}, "row 5: 'é0.png' stands in row 2 already"),
        ({"split": "training!"}, {}, "row 2: 'split' is 'training!'; allowed: train,"),
        ({"split": "test"}, {}, "no row of the train split; found test"),
        ({"split": "train", ("split", 4): ""}, {}, "row 6: no split, but other rows have one"),
        ({"group": "a", ("group", 4): ""}, {}, "row 6: 'group' is empty"),
        ({"group": "a", "split": "train", ("split", 4): "test"}, {}, "row 6: group 'a' is in the test split, but in row 2"),
        ({"group": "a"}, {}, "no group of 1 fell into the "),
        ({"label": "same"}, {}, "one class alone, 'same'"),
        ({}, {"classes": ["0", "2"]}, "label '1': 'datasets.mine.classes' has it not; allowed: 0, 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_a_sentence(
    change: dict[Any, Any], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    table = pd.DataFrame({"image": pictures(folder, 12), "label": [str(n % 2) for n in range(12)]})
    for key, value in change.items():
        if isinstance(key, tuple):
            table.loc[key[1], key[0]] = value
        elif value is None:
            table = table.drop(columns=key)
        else:
            table[key] = value
    write(folder, table)
    assert words in said(folder, **options)


@each(
    ("name", "content", "words"),
    [
        ("samples.csv", b'image,label\n"a"b,c\n', "cannot be read as CSV"),
        ("samples.csv", b"image,label\na,b,c\n", "row 2: more or fewer fields"),
        ("samples.csv", b"image,image\n", "row 1: column 'image' stands twice"),
        ("samples.csv", b"", "no row below its header"),
        ("samples.csv", b"image,label\n\xff\xfe,x\n", "not UTF-8 text"),
        ("samples.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_damaged_table_is_said(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_bytes(content)
    assert words in said(folder, table=name)


@pytest.mark.parametrize("kind", ["label", "mask"])
def test_a_table_is_recognised_by_the_usual_names_of_its_columns(kind: str, tmp_path: Path) -> None:
    names = pictures(tmp_path / "mine", 8)
    targets = [str(n % 2) for n in range(8)]
    if kind == "mask":
        for number in range(8):
            Image.fromarray(np.eye(6, 8, dtype=np.uint8) * 255).save(tmp_path / "mine" / f"{number}.png")
        targets = [f"{number}.png" for number in range(8)]
    write(
        tmp_path / "mine", pd.DataFrame({"image": names, kind: targets, "group": [n // 2 for n in range(8)]})
    )
    found = recognise(tmp_path / "mine")
    assert (found.source, dict(found.options)) == ("table", {"table": "samples.csv"})
    assert found.task == {"label": "classification", "mask": "segmentation"}[kind]
    classes = ("classes (images to train on): 0 4, 1 4",) if kind == "label" else ()
    rows = f"8 rows of samples.csv, with a {kind} each"
    assert found.said == (rows, "4 groups, which are kept together", *classes)
    assert len(found.images["pool"]) == len(found.masks.get("pool", found.images["pool"])) == 8


def _empty(kind: str) -> pd.DataFrame:
    return pd.DataFrame({"more": pd.array([None] * COUNT, dtype=kind)})


@few("kind", ["Int64", "Float64", "boolean", "string", "datetime64[ns]", "category", "object"])
def test_an_empty_cell_of_parquet_is_empty_whatever_its_type(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    made = pd.DataFrame({"image": pictures(folder), "label": ["cat", "dog"] * (COUNT // 2)})
    write(folder, made.assign(split=_empty(kind)["more"], site=_empty(kind)["more"]), "parquet")
    manifest, _ = fetched(folder, table="samples.parquet")
    assert set(manifest["site"]) == {""}
    assert manifest["split"].nunique() == 4


def test_lists_and_bytes_of_parquet_are_text(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    labels = ["café".encode(), b"dog"] * (COUNT // 2)
    made = pd.DataFrame({"image": pictures(folder), "label": labels, "at": [[1.5, 2.0]] * COUNT})
    write(folder, made, "parquet")
    manifest, _ = fetched(folder, table="samples.parquet")
    assert set(manifest["label"]) == {"café", "dog"}
    assert set(manifest["at"]) == {"[1.5, 2.0]"}


@each("column", ["image", "label"])
@each("value", [{"bytes": b"\x89PNG\0", "path": "a.png"}, [1, 2], b"\x89PNG\0"])
def test_a_picture_within_the_table_is_refused(column: str, value: Any, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    made = pd.DataFrame({"image": pictures(folder), "label": ["cat", "dog"] * (COUNT // 2)})
    write(folder, made.assign(**{column: [value] * COUNT}), "parquet")
    with pytest.raises(
        UserError, match=rf"row 1: '{column}' is a .*expected text, for a picture the name of"
    ):
        fetched(folder, table="samples.parquet")


@pytest.mark.parametrize(
    "names", [("train.csv", "test.csv"), ("metadata.csv", "other.parquet"), ("a.csv", "train/a.csv")]
)
def test_two_tables_of_samples_are_never_read_as_one(names: tuple[str, str], tmp_path: Path) -> None:
    """One alone would be read, in silence: of train.csv and test.csv the latter."""
    folder = tmp_path / "mine"
    made = pd.DataFrame({"image": pictures(folder), "label": ["cat", "dog"] * (COUNT // 2)})
    for name in names:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        made.to_parquet(file) if file.suffix == ".parquet" else made.to_csv(file, index=False)
    with pytest.raises(UserError) as refused:
        recognise(folder)
    assert all(str(folder / name) in str(refused.value) for name in names)


def test_what_a_table_does_not_name_and_its_classes_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    made = pd.DataFrame({"image": pictures(folder), "label": ["cat", "dog"] * (COUNT // 2)})
    write(folder, made.iloc[:30])
    said = recognise(folder).said
    assert "classes (images to train on): cat 15, dog 15" in said
    assert "10 files beside the images that samples.csv names are not read" in said
    write(folder, made.assign(label="cat"))
    with pytest.raises(UserError, match="one class alone, 'cat'"):
        recognise(folder)


TOLD = ["sep={}\n", "SEP={}\r\n", '"sep={}"\n', "\nsep={}\n", "sep={0}{0}{0}\n"]
"""How a table tells Excel what separates."""


@each("separator", [",", ";", "\t", "|", ":"])
@each("told", TOLD)
def test_a_line_that_tells_the_separator_is_no_row(told: str, separator: str, tmp_path: Path) -> None:
    file = tmp_path / "samples.csv"
    rows = ["image,label,,", "a.png,x,,", "b.png,y,,"]
    text = "\n".join(rows).replace(",", separator)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes((told.format(separator) + text).encode(encoding))
        columns, entries = csv_entries(file)
        first = 1 + told.count("\n")
        assert columns == ["image", "label"]  # what spreadsheets add on the right holds nothing
        assert entries == [
            (first + 1, {"image": "a.png", "label": "x"}),
            (first + 2, {"image": "b.png", "label": "y"}),
        ]


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), min_size=1, max_size=5), st.booleans())
def test_what_csv_can_write_is_read_back(cells: list[tuple[str, str]], told: bool) -> None:
    cells = [tuple(one.replace("\0", "").replace("\r", "") for one in row) for row in cells]  # type: ignore[misc]  # of two
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=";")
    writer.writerows([("image", "label"), *cells])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.csv"
        file.write_bytes((("sep=;\r\n" if told else "") + written.getvalue()).encode())
        _, entries = csv_entries(file)
    assert [(row["image"], row["label"]) for _, row in entries] == [tuple(map(nfc, row)) for row in cells]


def lines(folder: Path, rows: list[dict[str, Any]], name: str = "metadata.jsonl") -> None:
    (folder / name).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")


def test_json_lines_are_a_table_as_csv_is(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    names = pictures(folder)
    rows = [
        {"file_name": name, "label": n % 2, "clinic": "a\u2028b" if n else None}
        for n, name in enumerate(names)
    ]
    lines(folder, rows)
    assert recognise(folder).options == {"table": "metadata.jsonl", "image": "file_name"}
    found, _ = fetched(folder, table="metadata.jsonl", image="file_name")
    by_name = found.set_index("source")
    assert list(by_name.loc[names, "label"]) == [str(n % 2) for n in range(COUNT)]
    assert set(by_name["clinic"]) == {"", "a\u2028b"}


def test_json_lines_lie_in_train_and_test_as_csv_does(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        names = pictures(tmp_path / "mine" / split, 12 * (number + 1))[12 * number :]
        lines(tmp_path / "mine" / split, [{"file_name": one, "label": n % 2} for n, one in enumerate(names)])
    found, _ = fetched(
        tmp_path / "mine", table="metadata.jsonl", image="file_name", splits={"reference": 0.0}
    )
    assert found["split"].value_counts().to_dict() == {"train": 12, "validation": 12, "test": 12}


@each(
    ("content", "words"),
    [
        (b'{"image": "a.png", "label": ', "row 1: no JSON"),
        (b'\n["a.png", 1]', "row 2: ['a.png', 1]; expected an object"),
        (b'{"image": "a.png", "image": "b.png"}', "row 1: no JSON: 'a key stands twice'"),
        (b"\n\n", "no row; expected one per image"),
        (b"[" * 100000, "row 1: no JSON"),
        (b'{"image": "\xff"}', "not UTF-8 text"),
    ],
)
def test_damaged_json_lines_are_said(content: bytes, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "samples.jsonl").write_bytes(content)
    assert words in said(folder, table="samples.jsonl")


COLUMNS = ("image", "label", "split", "group")


@each("ending", ["csv", "parquet", "jsonl"])
@few("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_columns_and_tables_are_found_however_their_accents_are_spelled(
    forms: tuple[str, str], ending: str, tmp_path: Path
) -> None:
    disk, params = (partial(unicodedata.normalize, form) for form in forms)
    folder = tmp_path / "mine"
    splits = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    cells = zip(pictures(folder), ["x", "y"] * 20, splits, range(COUNT), strict=True)
    rows = [dict(zip((disk(f"é{one}") for one in COLUMNS), row, strict=True)) for row in cells]
    name = f"données.{ending}"
    if ending == "jsonl":
        lines(folder, rows, disk(name))
    else:
        table = pd.DataFrame(rows)
        write(folder, table, ending)
        (folder / f"samples.{ending}").rename(folder / disk(name))
    named = {one: params(f"é{one}") for one in COLUMNS}
    found, _ = fetched(folder, table=params(name), **named, splits={"reference": 0.0})
    assert found["split"].value_counts().to_dict() == {"train": 20, "validation": 10, "test": 10}


def test_a_division_in_another_case_is_no_mere_column(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    table = pd.DataFrame(
        {"Image": pictures(folder), "LABEL": ["x", "y"] * 20, "Split": ["train"] * 20 + ["val"] * 10 + ["test"] * 10,
         "Weight": range(COUNT)}
    )  # fmt: skip
    write(folder, table)
    assert "column 'weight'" not in " ".join(recognise(folder).said)
    found, _ = fetched(folder, splits={"reference": 0.0})
    assert found["split"].value_counts().to_dict() == {"train": 20, "validation": 10, "test": 10}
    assert set(found["Weight"]) == {str(one) for one in range(COUNT)}  # kilograms, perhaps
