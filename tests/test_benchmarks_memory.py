"""Validation of a split whose outputs would not fit is digested batch by batch; and the benchmark of memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_chain import STAGES

from benchmarks import memory
from benchmarks.memory import NAME
from lossbench.data.dataset import Dataset, DatasetInfo
from lossbench.params import load_params

COUNT, SIDE, CLASSES = 20_000, 64, 11
WATCHED = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from training_cases import setting
from lossbench.data.dataset import Dataset
from lossbench.training.member import Member
from lossbench.training.loop import train_replicate
from lossbench.system import keep_memory

most, over = 0, threading.Event()

def watch():
    global most
    while not over.is_set():
        lines = Path("/proc/self/status").read_text().splitlines()
        most = max(most, next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) // 1024)
        time.sleep(0.01)

keep_memory()  # as every worker does
watcher = threading.Thread(target=watch)
watcher.start()
made = setting(Dataset.open(Path({data!r})), {{"name": "unet", "width": 2, "depth": 1, "convolutions": 1}}, epochs=1)
one = train_replicate(made, Member(0))
over.set()
watcher.join()
print([record.metric for record in one.history if record.split == "validation"], most, sep="|")
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Masks of 11 classes: 32 to train on, 20 000 to validate on."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(1)
    sizes = {"train": 32, "validation": COUNT}
    for split, count in sizes.items():
        targets = rng.integers(0, CLASSES, (count, SIDE // 8, SIDE // 8), dtype=np.uint8)
        targets = targets.repeat(8, axis=1).repeat(8, axis=2)
        (folder / split).mkdir()
        np.save(folder / split / "inputs.npy", targets[:, None] * 20)
        np.save(folder / split / "targets.npy", targets)
    names, counts = tuple(map(str, range(CLASSES))), (1000,) * CLASSES
    DatasetInfo("mask", names, (1, SIDE, SIDE), (SIDE, SIDE), (0.4,), (0.25,), counts, sizes).write(folder)
    return Dataset.open(folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("budget", [None, "64"], ids=["resident", "streamed"])
def test_a_validation_split_with_outputs_of_gigabytes_takes_less_than_two(data, monkeypatch, budget):
    assert COUNT * SIDE**2 * CLASSES * 4 > 3.3 * 2**30
    if budget is not None:
        monkeypatch.setenv("LOSSBENCH_MEMORY", budget)
    script = WATCHED.format(tests=str(Path(__file__).parent), data=str(data.folder))
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    metrics, most = ended.stdout.strip().split("|")
    assert "mean_iou" in metrics
    assert int(most) < 2048, f"{most} MiB of anonymous memory"


def test_the_benchmark_runs_every_stage_of_the_chain_once_a_key(tmp_path):
    params = memory.study(tmp_path / "study", tmp_path / "images", 8, {"name": "unet"})
    found = list(memory.commands(params))
    assert [stage for stage, _ in found] == list(STAGES)
    keys = {NAME, *params["arms"]}
    assert all(len(command) == 3 or command[3] in keys for _, command in found)
    load_params(tmp_path / "study" / "params.yaml")


def test_the_benchmark_sees_the_largest_process_of_a_tree(tmp_path):
    child = f"import time; a = b'x' * {150 * 2**20}; time.sleep(0.5)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    found = memory.measured([sys.executable, "-c", code], tmp_path)
    assert 150 * 2**20 < found["largest"] < 220 * 2**20
    assert 150 * 2**20 < found["together"] < 250 * 2**20
    with pytest.raises(RuntimeError, match="exit code 3"):
        memory.measured([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


@pytest.mark.slow
def test_the_benchmark_sees_a_process_that_nobody_waits_for(tmp_path):
    child = f"import time; a = b'x' * {150 * 2**20}; time.sleep(0.6)"
    code = (
        "import os, subprocess, sys\n"
        f"pid = subprocess.Popen([sys.executable, '-c', {child!r}]).pid\n"
        "os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\nos._exit(0)"
    )
    assert memory.measured([sys.executable, "-c", code], tmp_path)["largest"] > 150 * 2**20


def test_the_benchmarks_images_differ_and_hold_all_classes(tmp_path):
    memory.make_images(tmp_path, 3, 64, 64)
    images = [file.read_bytes() for file in (tmp_path / "images").iterdir()]
    assert len(set(images)) == 3
    for file in (tmp_path / "masks").iterdir():
        with Image.open(file) as mask:
            assert set(np.unique(np.asarray(mask))) == set(range(memory.CLASSES))
