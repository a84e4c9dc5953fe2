"""Samples are decoded one by one, looked at once, and written where they will lie."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_cases import class_folder, dataset, mask_folder, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from law_cases import examples

from lossbench.data import facts as facts_module
from lossbench.data import rows as rows_module
from lossbench.data.facts import content_hashes, histogram, input_facts, mask_facts, pooled_moments
from lossbench.data.fetching import fetch
from lossbench.data.rows import FromFiles, Keeper, in_order, save
from lossbench.data.samples import Fetched, Samples, kept, looked_at
from lossbench.errors import UserError

DTYPES = (np.uint8, np.uint16, np.float32, np.float64)
BLOCKS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
        elements=st.integers(0, 255)
        if dtype == np.uint8
        else st.integers(0, 65535)
        if dtype == np.uint16
        else st.floats(-1000, 1000, width=32),
    )
)


@pytest.mark.parametrize("large", [1, 2**16], ids=["counted", "in floats"])
@settings(max_examples=examples(60), deadline=None)
@given(block=BLOCKS, at_once=st.sampled_from([1, 7, 2**20]))
def test_moments_are_those_of_numpy_in_float64_whatever_the_type_and_however_many_at_a_time(
    large, block, at_once
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts_module, "LARGE", large)
        patch.setattr(facts_module, "FLOATS_AT_ONCE", at_once)
        found = input_facts(block)
    wide, close = block.astype(np.float64), {"rtol": 1e-12, "atol": 1e-12 * max(1.0, float(abs(block).max()))}
    np.testing.assert_allclose(found["mean"], wide.mean(axis=(1, 2, 3)), **close)
    np.testing.assert_allclose(found["std"], wide.std(axis=(1, 2, 3)), **close)
    np.testing.assert_array_equal(found["minimum"], block.min(axis=(1, 2, 3)))
    np.testing.assert_array_equal(found["maximum"], block.max(axis=(1, 2, 3)))
    mean, variance = pooled_moments(found["channel_mean"], found["channel_variance"])
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 2, 3)), **close)
    np.testing.assert_allclose(np.sqrt(variance), wide.std(axis=(0, 2, 3)), **close)
    assert list(found["sha256"]) == content_hashes(block)


@settings(max_examples=examples(60), deadline=None)
@given(
    values=arrays.arrays(np.uint8, st.integers(1, 400)),
    dtype=st.sampled_from([np.uint8, np.int64]),
    classes=st.integers(2, 255),
    ignore=st.sampled_from([None, 255]),
)
def test_what_is_found_in_a_mask_is_what_counting_each_position_finds(values, dtype, classes, ignore):
    mask = values.astype(dtype)
    found = mask_facts(mask[None], classes, ignore)
    known = mask != (-1 if ignore is None else ignore)
    assert found["mask_values"][0] == ",".join(map(str, np.unique(mask)))
    assert found["stray"][0] == ((mask >= classes) & known).sum()
    assert found["foreground"][0] == ((mask != 0) & known).mean()
    assert list(found["counts"][0]) == [int((mask == one).sum()) for one in range(classes)]


@settings(max_examples=examples(30), deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_bytes_are_counted(values):
    np.testing.assert_array_equal(histogram(values), np.bincount(values.ravel(), minlength=256))


@settings(max_examples=examples(40), deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    each=st.lists(st.integers(1, 3), max_size=3).map(tuple),
    sides=st.lists(st.sampled_from(["train", "test", "other"]), min_size=1, max_size=12),
    data=st.data(),
)
def test_what_is_kept_and_chosen_is_saved_byte_for_byte_as_numpy_does(
    tmp_path_factory, dtype, each, sides, data
):
    folder = tmp_path_factory.mktemp("kept")
    random = np.random.default_rng(len(sides))
    array = (random.random((len(sides), *each)) * 200).astype(dtype)
    chosen = np.array(data.draw(st.lists(st.integers(0, len(sides) - 1), max_size=12)), np.int64)
    whole = np.flatnonzero(np.array(sides) == sides[0])
    for name, index in (("chosen", chosen), ("moved", whole)):
        with Keeper(folder / name, each, dtype) as keeper:
            for start in range(0, len(sides), 5):
                keeper.append(array[start : start + 5], sides[start : start + 5])
            rows = keeper.stored()
        np.testing.assert_array_equal(np.asarray(rows[index]), array[index])
        save(rows[index], folder / f"{name}.npy")
        np.save(folder / "expected.npy", array[index])
        assert (folder / f"{name}.npy").read_bytes() == (folder / "expected.npy").read_bytes()
    assert not (folder / "moved" / f"{sides[0]}.npy").exists()


def test_each_file_is_decoded_once_and_its_bytes_are_written_once(tmp_path, monkeypatch):
    from lossbench.data.sources import reading

    read: list[Path] = []
    real = reading.read_image
    monkeypatch.setattr(
        reading, "read_image", lambda file, *given, **more: read.append(file) or real(file, *given, **more)
    )
    root = class_folder(tmp_path / "pets")
    fetch(dataset("image_folder", root), "pets", tmp_path / "out")
    assert len(read) == len(set(read)) == 60
    assert not (tmp_path / "out" / "decoded").exists()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_order_of_results_does_not_depend_on_threads(tmp_path, monkeypatch, threads):
    root = mask_folder(tmp_path / "scenes")
    monkeypatch.setattr(rows_module, "processors", lambda: threads)
    fetch(dataset("segmentation_folder", root), "scenes", tmp_path / "out")
    monkeypatch.setattr(rows_module, "processors", lambda: 1)
    fetch(dataset("segmentation_folder", root), "scenes", tmp_path / "alone")
    for file in (tmp_path / "alone").rglob("*.*"):
        assert (tmp_path / "out" / file.relative_to(tmp_path / "alone")).read_bytes() == file.read_bytes()


def test_results_wait_in_bounds_where_the_reader_is_slow(monkeypatch):
    monkeypatch.setattr(rows_module, "processors", lambda: 2)
    started: list[int] = []
    results = in_order(lambda one: started.append(one) or one, range(100))
    assert next(results) == 0
    assert len(started) <= 6
    monkeypatch.setattr(rows_module, "BYTES_AHEAD", 10)
    started.clear()
    assert list(in_order(lambda one: one, range(7), size=100)) == list(range(7))


def test_an_image_that_breaks_on_the_way_leaves_nothing_behind(tmp_path):
    root = class_folder(tmp_path / "pets")
    file = sorted(root.rglob("*.png"))[30]
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UserError, match=file.name):
        fetch(dataset("image_folder", root), "pets", tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["pets"]


def test_the_classes_of_masks_that_params_do_not_name_come_out_alike(tmp_path):
    root = mask_folder(tmp_path / "scenes")
    fetch(dataset("segmentation_folder", root), "scenes", tmp_path / "found")
    named = dataset("segmentation_folder", root, classes=["background", "foreground"])
    fetch(named, "scenes", tmp_path / "named")
    one, two = (pd.read_parquet(tmp_path / name / "manifest.parquet") for name in ("found", "named"))
    pd.testing.assert_frame_equal(one, two)


SIDE, COUNT = 256, 300
PEAK = """
import sys
sys.path.insert(0, {tests!r})
import resource
from pathlib import Path
from data_cases import dataset
from lossbench.data.fetching import fetch

wanted = dataset({source!r}, {path!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fetch(wanted, "x", Path({out!r}))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["image_folder", "segmentation_folder"])
def test_fetching_takes_a_part_of_the_decoded_size(tmp_path, source):
    for index in range(COUNT):
        name = f"{index % 2}" if source == "image_folder" else "images"
        picture(tmp_path / "in" / name / f"{index}.bmp", (SIDE, SIDE, 3), value=None, seed=index)
        if source == "segmentation_folder":
            picture(tmp_path / "in" / "masks" / f"{index}.png", (SIDE, SIDE), value=index % 2)
    script = PEAK.format(
        tests=str(Path(__file__).parent), source=source, path=str(tmp_path / "in"), out=str(tmp_path / "out")
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    decoded = COUNT * SIDE**2 * 3
    assert int(ended.stdout) < decoded / 2  # it was eight times as much


def test_a_look_holds_no_floats_of_all_samples():
    array = np.random.default_rng(0).integers(0, 256, (2000, 3, 64, 64), dtype=np.uint8)
    groups = {"train": Samples(array, np.zeros(2000, np.int64), [str(one) for one in range(2000)])}
    tracemalloc.start()
    looked_at(groups["train"], Fetched("label", ("a", "b"), groups, {}))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < array.nbytes  # in float64 it is eight times as much


def test_targets_go_where_their_inputs_go(tmp_path):
    inputs = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    masks = np.arange(20 * 16, dtype=np.uint8).reshape(20, 4, 4) % 3
    rows = [
        FromFiles.of(lambda one, array=array: array[one], range(20), array.shape[1:], np.uint8, "reading")
        for array in (inputs, masks)
    ]
    samples = Samples(rows[0], rows[1], [str(one) for one in range(20)])
    fetched = Fetched("mask", ("a", "b", "c"), {"pool": samples}, {})
    done = kept(samples, fetched, tmp_path, lambda content: "low" if content < "8" else "high")
    low = np.flatnonzero([content < "8" for content in content_hashes(inputs)])
    for name, array in (("inputs", inputs), ("targets", masks)):
        np.testing.assert_array_equal(np.load(tmp_path / name / "low.npy"), array[low])
    np.testing.assert_array_equal(np.asarray(done.targets), masks)
