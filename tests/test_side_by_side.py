"""How many arms run at a time, and what each of them may use."""

from typing import Any

import pytest
import torch
from conftest import tiny_params

from lossbench.params import Params
from stages import side_by_side
from stages.side_by_side import room


def params(seeds: int = 8, trials: int = 3, **compute: Any) -> Params:
    content = tiny_params()
    content |= {"seeds": list(range(seeds)), "compute": {"device": "cpu", **compute}}
    content["tuning"] = {"trials": trials}
    return Params.model_validate(content)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as far as torch says."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("processors", "seeds", "trials", "expected"),
    [
        (1, 8, 3, 2),  # while one arm starts, the other trains
        (2, 8, 3, 2),
        (4, 8, 3, 3),  # three trials leave one of four processors idle
        (16, 8, 3, 7),
        (16, 8, 0, 3),  # no tuning: eight replicates an arm
        (64, 1, 0, 65),
    ],
)
def test_arms_at_a_time_keep_the_processors_at_work(
    processors: int, seeds: int, trials: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOSSBENCH_WORKERS", str(processors))
    assert room(params(seeds, trials)) == expected


def test_a_gpu_is_for_one_arm(gpus: None) -> None:
    assert room(params(device="cuda")) == 2


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1", "0"]), ("2,3", ["2", "3", "2"]), ("GPU-a1,GPU-b2", ["GPU-a1", "GPU-b2", "GPU-a1"])],
)
def test_arms_get_no_gpu_but_ours(
    visible: str | None, expected: list[str], gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    places = side_by_side._places(params(device="cuda"), 3)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == expected


def test_places_share_slots_and_memory(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("LOSSBENCH_WORKERS", "3")
    monkeypatch.delenv("LOSSBENCH_MEMORY", raising=False)
    one, other = side_by_side._places(params(), 2)
    assert one["LOSSBENCH_SLOTS"] == other["LOSSBENCH_SLOTS"]
    assert len(list((tmp_path / "slots-3").iterdir())) == 3
    alone = side_by_side._places(params(), 1)[0]
    assert int(one["LOSSBENCH_MEMORY"]) <= 0.6 * int(alone["LOSSBENCH_MEMORY"])
    monkeypatch.setenv("LOSSBENCH_MEMORY", "77")
    assert side_by_side._places(params(), 2)[0]["LOSSBENCH_MEMORY"] == "77"
