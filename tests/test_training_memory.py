"""What a step keeps for its backward pass: counted, and told beside the time."""

import pytest
import torch
from training_cases import labels_dataset, masks_dataset, setting

from lossbench.tracking.cost import memory_ratio, memory_said
from lossbench.training.measure import kept_bytes
from lossbench.training.member import Member


def test_more_samples_keep_more_and_a_loss_that_keeps_more_is_seen(tmp_path):
    data = masks_dataset(tmp_path)
    small, large = (kept_bytes(setting(data, batch_size=size), Member(0)) for size in (2, 4))
    assert small < large < 2.2 * small
    one = kept_bytes(setting(data), Member(0))
    several = {"sum": {"cross_entropy": 1.0, "dice": 1.0, "focal": 1.0}}
    assert kept_bytes(setting(data), Member(0, loss=several)) > one


def test_it_draws_nothing_and_changes_nothing(tmp_path):
    made = setting(labels_dataset(tmp_path))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = kept_bytes(made, Member(3))
    assert kept_bytes(made, Member(3)) == first > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kept", "said"),
    [({"a": 150, "b": 100}, "× 1.5 the memory"), ({"a": None, "b": 100}, ""), ({"a": 5, "b": None}, "")],
)
def test_the_ratio_is_said_where_both_are_known(kept, said):
    arms = {name: {"kept_bytes": value} for name, value in kept.items()}
    assert memory_said(["a"], "b", arms) == said
    assert (memory_ratio("a", "b", arms) is None) == (said == "")
    assert memory_said(["b"], "b", arms) == ""
