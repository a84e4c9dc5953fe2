"""How many samples go through a model at once where no gradient ties them together."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each
from training_cases import labels_dataset, masks_dataset, setting

from lossbench.data.dataset import Dataset, DatasetInfo, Split
from lossbench.evaluation.replicates import Positions, predict_replicate, score_predicted
from lossbench.recipe import Compute
from lossbench.tasks import task_class
from lossbench.tasks.classification import Classification
from lossbench.tasks.segmentation import Segmentation
from lossbench.training import portions
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.population import train_population
from lossbench.training.portions import OUTPUTS_AT_ONCE, POSITIONS_AT_ONCE, SAMPLES_AT_ONCE, at_once
from lossbench.training.prediction import Predictor

SHAPES = st.one_of(
    st.tuples(st.integers(1, 100_000)),  # a window of tokens
    st.tuples(st.integers(1, 4), st.integers(1, 2048), st.integers(1, 2048)),
    st.tuples(st.integers(1, 4), st.integers(1, 200), st.integers(1, 200), st.integers(1, 200)),  # a volume
)


def task_of(shape: tuple[int, ...], classes: int = 3):
    names = tuple(map(str, range(classes)))
    channels = (0.5,) * shape[0]
    info = DatasetInfo("label", names, shape, (), channels, channels, (1,) * classes, {"train": 1})
    return task_class("classification")(info)


@given(shape=SHAPES, classes=st.integers(2, 3000))
def test_samples_at_once_have_few_positions_and_outputs_together_and_none_is_refused(shape, classes):
    positions = int(np.prod(shape[1:] or shape))
    found = at_once(task_of(shape, classes))
    assert 1 <= found <= SAMPLES_AT_ONCE
    assert found == 1 or found * positions <= POSITIONS_AT_ONCE
    assert found == 1 or found * positions * classes <= OUTPUTS_AT_ONCE
    # No fewer than there is room for.
    more = (found + 1) * positions
    assert found == SAMPLES_AT_ONCE or more > POSITIONS_AT_ONCE or more * classes > OUTPUTS_AT_ONCE


@each(
    ("shape", "expected"),
    [((1, 8, 8), 512), ((1, 28, 28), 83), ((3, 32, 32), 64), ((3, 360, 480), 1), ((35,), 512), ((128,), 512)],
)
def test_samples_at_once_are_those_of_the_formula(shape, expected):
    assert at_once(task_of(shape)) == expected


@each("make", [labels_dataset, masks_dataset])
@each("engine", ["loop", "population"])
@each("budget", [None, "0"])
def test_no_more_are_checked_or_validated_at_once(make, engine, budget, tmp_path, monkeypatch):
    if budget is not None:
        monkeypatch.setenv("LOSSBENCH_MEMORY", budget)
    monkeypatch.setattr(portions, "POSITIONS_AT_ONCE", 3 * 64)  # three images of 8×8
    data = make(tmp_path)
    seen: dict[str, list[int]] = {"check_targets": [], "score_digest": []}
    for name, sizes in seen.items():
        for kind in (Classification, Segmentation):
            real = getattr(kind, name)
            monkeypatch.setattr(
                kind,
                name,
                lambda self, first, *rest, real=real, sizes=sizes: (
                    sizes.append(len(first)) or real(self, first, *rest)
                ),
            )
    made = setting(data, epochs=1)
    members = [Member(0), Member(1)]
    if engine == "loop":
        for member in members:
            train_replicate(made, member)
    else:
        train_population(made, members)
    splits = [len(data.split(name)) for name in ("train", "validation")]
    assert sum(seen["check_targets"]) == sum(splits)
    assert sum(seen["score_digest"]) == 2 * splits[1]
    assert max(map(max, seen.values())) == 3


@pytest.mark.parametrize("make", [labels_dataset, masks_dataset])
def test_the_states_of_training_do_not_depend_on_it(make, tmp_path, monkeypatch):
    made = setting(make(tmp_path), epochs=3)
    expected = train_replicate(made, Member(0))
    monkeypatch.setattr(portions, "SAMPLES_AT_ONCE", 5)
    found = train_replicate(made, Member(0))
    assert all(torch.equal(expected.state[name], found.state[name]) for name in expected.state)
    for one, other in zip(expected.history, found.history, strict=True):
        assert other.value == pytest.approx(one.value, abs=1e-6)


def with_test(data: Dataset) -> Dataset:
    for name in ("inputs", "targets"):  # a test split: the validation samples, in another order
        (data.folder / "test").mkdir(exist_ok=True)
        array = np.load(data.folder / "validation" / f"{name}.npy")
        np.save(data.folder / "test" / f"{name}.npy", array[::-1])
    return data


@pytest.mark.parametrize("make", [labels_dataset, masks_dataset])
def test_an_evaluation_predicts_no_sample_twice_and_keeps_decisions_of_the_shown_seed_alone(
    make, tmp_path, monkeypatch
):
    data = with_test(make(tmp_path / "data"))
    made = setting(data, epochs=1)
    state = train_replicate(made, Member(0)).state
    predicted: list[torch.Tensor] = []
    real = Predictor.forward
    monkeypatch.setattr(Predictor, "forward", lambda self, x: predicted.extend(x) or real(self, x))
    metric = made.task.metrics[0].name
    shown, hidden = (
        score_predicted(
            predict_replicate(state, made.network, 0, made.task, metric, data, Compute(), write=write),
            made.task,
            metric,
            data,
            write=write,
        )
        for write in (True, False)
    )
    sizes = [len(data.split(name)) for name in ("test", "validation")]
    assert len(predicted) == 2 * (sum(sizes) + min(len(data.split("train")), sizes[0]))
    assert len(shown.decisions) == sizes[0]
    assert hidden.decisions.size == 0
    assert shown.scores.metrics == hidden.scores.metrics
    assert shown.calibration == hidden.calibration


@given(
    samples=st.integers(1, 12),
    side=st.integers(1, 5),
    most=st.integers(1, 40),
    batch=st.integers(1, 5),
    ignored=st.sampled_from([None, 1]),
)
def test_positions_looked_at_on_the_way_are_those_of_all_outputs_together(
    samples, side, most, batch, ignored
):
    random = np.random.default_rng(samples * side)
    outputs = torch.from_numpy(random.random((samples, 3, side, side)))
    targets = random.integers(0, 3, (samples, side, side))
    targets.flat[0] = 0
    info = DatasetInfo(
        "mask", ("a", "b", "c"), (1, side, side), (side, side), (0.5,), (0.5,), (1, 1, 1), {}, ignored
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lossbench.evaluation.replicates.POSITIONS", most)
        split = Split(np.zeros((samples, 1, side, side)), targets)
        one = Positions(task_class("segmentation")(info), split)
    for start in range(0, samples, batch):
        which = slice(start, min(start + batch, samples))
        one.look(which, outputs[which])
    found, classes = one.found()
    assert len(found) == len(classes) <= most
    known = targets if ignored is None else np.where(targets == ignored, -1, targets)
    everything = {
        (tuple(outputs[n, :, y, x].tolist()), int(known[n, y, x]))
        for n in range(samples)
        for y in range(side)
        for x in range(side)
    }
    assert {(tuple(row), int(label)) for row, label in zip(found, classes, strict=True)} <= everything
    assert -1 not in classes
