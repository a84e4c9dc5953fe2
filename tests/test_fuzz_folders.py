"""Folders of any shape and names: fetched or refused in a sentence; nothing is written beside the out."""

import contextlib
import os
import socket
import tempfile
from pathlib import Path

import pytest
from conftest import stage, tiny_params, write_params
from data_cases import class_folder, dataset, mask_folder, picture
from fuzz_cases import fuzzed, nothing_written_outside
from hypothesis import strategies as st
from law_cases import each

from lossbench.data.fetching import fetch
from lossbench.errors import UserError

NAMES = (
    st.sampled_from([
        "train", "val", "test", "images", "masks", "cat", "dog", "1", "10", "02", " ", "a b", "new\nline", "-rf", "~",
        "<script>alert(1)<\\script>", "日本", "e\u0301", "\u202eabc", "\x1b[2J", "a'b\"c", "$(id)", "${x}", "%s", "{0}", "CON",
        ".hidden", "Thumbs.db", "²", "1²", "x" * 200, "\udcff", "a.png", "b.PNG", "c.jpg", "c.png",
    ])
    | st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 240)  # fmt: skip
LEAVES = st.sampled_from(
    ["grey", "grey", "grey", "colour", "large", "text", "empty", "loop", "up", "missing", "fifo", "zero"]
)
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=5), max_leaves=14)


def plant(where: Path, tree: object) -> None:
    """Make files and folders as the tree says."""
    if isinstance(tree, dict):
        where.mkdir(exist_ok=True)
        for name, inner in tree.items():
            plant(where / name, inner)
        return
    match tree:
        case "grey" | "colour" | "large":
            shape = {"grey": (8, 8), "colour": (8, 8, 3), "large": (9, 12)}[tree]
            part = where.with_name("part.png")
            picture(part, shape).rename(where)
        case "text":
            where.write_text("no picture")
        case "empty":
            where.touch()
        case "loop":
            where.symlink_to(where)
        case "up":
            where.symlink_to("..")
        case "missing":
            where.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(where)
        case "zero":
            where.symlink_to("/dev/zero")


@fuzzed(
    quick=30,
    tree=st.dictionaries(NAMES, TREES, max_size=5),
    source=st.sampled_from(["image_folder", "segmentation_folder"]),
    size=st.sampled_from([None, (8, 8)]),
)
def test_a_folder_of_any_shape_is_fetched_or_refused(
    tree: dict[str, object], source: str, size: object
) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        plant(folder / "mine", tree)
        block = dataset(source, folder / "mine", channels=1, **({"size": size} if size else {}))
        with nothing_written_outside(folder / "data"), contextlib.suppress(UserError):
            fetch(block, "mine", folder / "data/mine")
        assert {one.name for one in folder.iterdir()} <= {"mine", "data"}


@each("name", ["new\nline", "a b", "<script>alert(1)", "\x1b[2J", "日本", "-rf", "$(id)", "~"])
def test_classes_and_files_of_odd_names_are_kept_as_they_are(name: str, tmp_path: Path) -> None:
    from lossbench.data.dataset import Dataset

    folder = class_folder(tmp_path / "mine", classes=(name, "other"))
    for number, file in enumerate((folder / name).iterdir()):
        file.rename(file.parent / f"{name.replace('/', ' ')}{number}.png")
    fetch(dataset("image_folder", folder), "mine", tmp_path / "data/mine")
    assert name in Dataset.open(tmp_path / "data/mine").info.classes


def test_a_name_that_is_not_utf8_is_refused_with_its_bytes(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "mine")
    os.rename(os.fsencode(folder / "ant"), os.fsencode(folder) + b"/\xffant")
    with pytest.raises(UserError, match="not UTF-8"):
        fetch(dataset("image_folder", folder), "mine", tmp_path / "data/mine")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "zero", "socket", "loop"])
def test_what_is_no_file_is_refused_and_never_waited_for(kind: str, tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "mine")
    odd = folder / "ant" / "odd.png"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(odd.parent)  # addresses of sockets are short
            listener.bind(odd.name)
            os.chdir(here)
    else:
        plant(odd, kind)
    with pytest.raises(UserError, match=r"odd\.png: no file of an image"):
        fetch(dataset("image_folder", folder), "mine", tmp_path / "data/mine")


def test_a_mask_that_is_a_fifo_is_refused(tmp_path: Path) -> None:
    folder = mask_folder(tmp_path / "mine")
    (folder / "train/masks/train0.png").unlink()
    os.mkfifo(folder / "train/masks/train0.png")
    with pytest.raises(UserError, match="train0"):
        fetch(dataset("segmentation_folder", folder), "mine", tmp_path / "data/mine")


@each("path", ["~nobody-of-this-name/x", "nul\0byte", "x" * 5000, "", "new\nline"])
@each("source", ["image_folder", "segmentation_folder", "text_file"])
def test_a_path_that_cannot_be_is_refused(
    path: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        fetch(dataset(source, path), "mine", tmp_path / "data/mine")


def test_control_characters_of_a_name_reach_no_terminal(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "mine")
    (folder / "ant" / "\x1b[2Jevil\n.png").write_text("no image")
    content = tiny_params()
    content["datasets"]["digits"] = {"source": "image_folder", "path": str(folder)}
    write_params(tmp_path, content)
    done = stage(tmp_path, "fetch", "digits")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert r"\x1b[2Jevil\n.png" in done.stderr
