"""The GPU's path without a GPU: torch's own CUDA dispatch over a runtime that launches nothing (standin.c).

Every loss on every task and every model train a few steps with either engine. A step must not wait for the
device, mix devices, draw from a generator that is not the device's, or run what torch says has no
deterministic form: it raises there, as it would on a GPU. ``steps.json`` holds what a step may cost; with
LOSSBENCH_STEPS=write in the environment the tests write it anew.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from lossbench.training.graphs import WARM

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))  # the modules beside this one, which its processes run

from cases import BATCH, FEW, STEPS, Case, groups  # noqa: E402  # found by the line above

FILE = HERE / "steps.json"
TABLE: dict[str, list[int]] = json.loads(FILE.read_text())
"""Case → how often a step waits for the device, and how many kernels it launches."""
SLACK = 1.25
"""Times as many launches as in the table that another torch may take."""
RECORDED = BATCH * STEPS // FEW - WARM
"""Steps of a training that are taken as graphs where steps are recorded."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the stand-in runtime."""
    if torch.version.cuda is None:
        pytest.skip("this torch is built for the CPU alone: it has no CUDA dispatch to look at")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: benchmarks/gpu.py looks at the real one")
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler is not None, "a C compiler is needed"
    spec = find_spec("nvidia")
    folders = [Path(one) for one in (spec.submodule_search_locations or [])] if spec else []
    headers = [found.parent for one in folders for found in one.rglob("driver_types.h")]
    if not headers:
        pytest.skip("CUDA's headers, which torch's own packages bring along, are not installed")
    library = tmp_path_factory.mktemp("standin") / "standin.so"
    # Torch loads the driver by this name, and finds that it is there already.
    flags = [
        "-std=gnu11",
        "-w",
        "-O1",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        f"-I{HERE}",
        f"-I{headers[0]}",
    ]
    subprocess.run([compiler, *flags, str(HERE / "standin.c"), "-o", str(library)], check=True)
    return library


def run(standin: Path, script: str, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    """Run one of our scripts with the stand-in preloaded; a line of JSON each."""
    inherited = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    ours = {"LD_PRELOAD": str(standin), "PYTHONPATH": f"{ROOT}:{HERE}"}
    made = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        env=inherited | ours | environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-3000:]
    return [json.loads(line) for line in made.stdout.splitlines()]


def steps(standin: Path, group: str) -> list[dict[str, Any]]:
    """Train a group's cases.

    Without torch's cache each allocation is the stand-in's, zeroed: nothing depends on what was there before.
    """
    return run(standin, "steps.py", str(standin), group, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def write_table(rows: list[dict[str, Any]]) -> None:
    """Put what was counted in place of what stands in the table; what is gone goes."""
    known = [case.name for cases in groups().values() for case in cases]
    TABLE.update({row["case"]: [row["waits"], row["launches"]] for row in rows})
    lines = [f"{json.dumps(name)}: {json.dumps(TABLE[name])}" for name in known if name in TABLE]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


@pytest.mark.parametrize("group", groups())
def test_a_step_keeps_to_the_device_and_waits_for_nothing(group: str, standin: Path) -> None:
    cases: list[Case] = groups()[group]
    rows = steps(standin, group)
    assert [row["case"] for row in rows] == [case.name for case in cases]
    assert [row for row in rows if "error" in row or row["drawn"]] == []
    recorded = [(row["replays"], row["said"]) for row in rows if "replays" in row]
    assert recorded == [(RECORDED, "") for case in cases if case.graphs]
    assert [(row["case"], row["other"]) for row in rows if row.get("other")] == [], "bits would differ"
    if os.environ.get("LOSSBENCH_STEPS") == "write":
        write_table(rows)
    wrong = [row for row in rows if row["waits"] != TABLE[row["case"]][0]]
    assert wrong == [], "waits for the device that the table does not know"
    assert [row for row in rows if row["kept"] > 0] == [], "memory that every step keeps"
    assert [row for row in rows if row["strays"]] == [], (
        "launched beside a recording, so that no replay has it"
    )
    dear = [row for row in rows if row["launches"] > SLACK * TABLE[row["case"]][1]]
    assert dear == [], "more launches than the table allows"


def test_the_table_holds_zero_waits_and_no_case_that_is_gone() -> None:
    assert set(TABLE) == {case.name for cases in groups().values() for case in cases}
    assert {name: waits for name, (waits, _) in TABLE.items() if waits} == {}


def test_planted_faults_are_found(standin: Path) -> None:
    rows = {row["case"]: row for row in steps(standin, "planted")}
    assert rows["waits"]["waits"] == 1
    assert rows["waits"]["where"] == "planted.py:19: return value * (1.0 if value.item() > 0 else 2.0)"
    assert "two devices" in rows["mixes_devices"]["error"]
    assert "does not have a deterministic implementation" in rows["has_no_deterministic_form"]["error"]
    assert "generator" in rows["draws_from_another_generator"]["error"]
    assert rows["draws_unasked"]["drawn"]
    assert rows["keeps_memory"]["kept"] > 0
    assert rows["copies_from_the_host"]["waits"] == 1
    for name in (
        "waits, recorded",
        "waits in a network that draws, recorded",
        "copies_from_the_host, recorded",
    ):
        assert rows[name]["replays"] == 0
        assert "'compute.graphs' is true, but steps are trained without (" in rows[name]["said"]
    assert rows["works_on_another_stream, recorded"]["strays"] > 0
    assert rows["changes_in_python, recorded"]["other"].endswith(", recorded aten.mul.Tensor")


def test_a_helper_scores_and_takes_nothing_of_the_gpu(standin: Path, tmp_path: Path) -> None:
    """Nor do the driver and the workers' server: one worker has all of its memory, whoever scores."""
    takers = tmp_path / "takers"
    ours = {"STANDIN_TAKERS": str(takers), "CUDA_VISIBLE_DEVICES": "0", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    (found,) = run(standin, "helping.py", str(tmp_path), **ours)
    assert found["scores"] == 2
    (worker,) = takers.read_text().split()
    assert int(worker) != found["driver"]


def test_what_is_said_and_set_where_there_is_a_gpu(standin: Path, tmp_path: Path) -> None:
    (found,) = run(standin, "looks.py", str(tmp_path))
    set_so = {"benchmark": "False", "deterministic": "True"}
    for precision, wanted in {"fp32": "ieee", "tf32": "tf32", "bf16": "ieee"}.items():
        expected = dict.fromkeys(("matmul", "convolutions", "recurrent"), wanted) | set_so
        assert found["precisions"][precision] == expected
    assert found["precisions"]["after"] == found["precisions"]["before"]
    assert found["precisions"]["workspace"] == ":4096:8"
    tried = found["trials"]
    assert tried["fits"] == tried["recurrent with its workspace"] == ""
    assert tried["alexnet"] == (
        "UserError: params.yaml: experiment 'one': model 'torchvision' on samples of 3×64×64 runs "
        "adaptive_avg_pool2d_backward_cuda, which has no deterministic form on a GPU: its results would not "
        "repeat; allowed: a model and a loss without it, or 'compute.device: cpu'"
    )
    assert "CUBLAS_WORKSPACE_CONFIG is :4096:8" in tried["recurrent"]
    assert "does not fit into the GPU's memory (65536.00 GiB more were wanted" in found["memory"]
    assert found["half"] == "torch.float32"
    expected = {"gpu": "Stand-in GPU", "capability": "9.0", "multiprocessors": "132", "driver": "unknown"}
    assert expected.items() <= found["machine"].items()
    assert found["machine"]["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_what_a_step_costs_that_need_not_be_is_said_by_check(standin: Path, tmp_path: Path) -> None:
    (told,) = run(standin, "looks.py", str(tmp_path), "advice", PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    waiting = "waits for the GPU in every step (mine.py:{}), which idles meanwhile"
    for name, line in {"item": 32, "boolean": 36, "one_argument": 40, "constant": 44}.items():
        assert "warning: params.yaml: experiment 'one': loss 'tried' " + waiting.format(line) in told[name]
        assert ("'compute.graphs' records no such step" in told[name]) is (name == "item")
    assert "model 'mine:Waiting' on samples of 3×32×32 " + waiting.format(13) in told["Waiting"]
    for name in ("Plain", "Making"):  # a tensor that is no buffer, and one made on the CPU in each step
        assert (
            f"error: params.yaml: experiment 'one': model 'mine:{name}' on samples of 3×32×32 fails: "
            in told[name]
        )
        assert "two devices, cuda:0 and cpu" in told[name]
    assert "switches torch.use_deterministic_algorithms" in told["Switching"]
    assert "switches torch.backends.cudnn.benchmark" in told["switching"]
    for name in ("Large", "Short"):  # no memory for the weights, and none for an epoch's last batch
        assert "does not fit into the GPU's memory (2.00 GiB more were wanted)" in told[name]
    whose = "params.yaml: experiment 'one': 'recipe.augmentation.own': mine:"
    assert told["draws_elsewhere"].startswith(f"error: {whose}draws_elsewhere fails: Expected a 'cpu' device")
    assert told["on_the_host"].startswith(f"error: {whose}on_the_host fails: can't convert cuda:0")
    assert f"warning: {whose}looks_up waits for the GPU in every step (mine.py:90)" in told["looks_up"]
    assert told["fits"] == told["small"] == told["draws"] == ""
    assert "a step of one member takes 4" in told["large"]
    assert "GFLOP, and a GPU is busy with it" in told["large"]
