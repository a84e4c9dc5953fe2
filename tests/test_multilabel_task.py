"""Multi-label: scores against scikit-learn, one rule of decision for all losses, behaviour, and the user's CSV."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples
from PIL import Image
from sklearn import metrics as sk

from lossbench.data.dataset import Dataset, DatasetInfo
from lossbench.data.fetching import fetch
from lossbench.data.sources.multilabel_csv import read_table
from lossbench.errors import UserError
from lossbench.params import Dataset as DatasetParams
from lossbench.params import Splits
from lossbench.recipe import Compute, Network, Recipe
from lossbench.tasks import task_class
from lossbench.tasks.base import Task
from lossbench.tasks.ranking import auroc, average_precision
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.prediction import predict
from lossbench.training.setting import prepare

LOSSES = {
    "binary_cross_entropy": {"name": "binary_cross_entropy"},
    "weighted": {"name": "binary_cross_entropy", "pos_weight": "balanced"},
    "focal": {"name": "focal"},
    "asymmetric": {"name": "asymmetric"},
    "dice": {"name": "dice"},
    "hinge": {"name": "hinge"},
    "softmax": {"name": "softmax_multilabel_cross_entropy"},
}


def task(labels: int = 3, train: int = 100, counts: tuple[int, ...] = (50, 20, 10)) -> Task:
    names = tuple("abcdefgh"[:labels])
    info = DatasetInfo("multilabel", names, (1, 8, 8), (labels,), (0.5,), (0.2,), counts, {"train": train})
    return task_class("multilabel")(info)


def scored(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.integers(4, size=40).astype(float) if ties else rng.normal(size=40)
    positive = rng.random(40) < 0.3
    positive[:2] = True, False
    return scores, positive


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=examples(60))
def test_ranking_scores_equal_scikit_learns_ties_included(seed: int, ties: bool) -> None:
    scores, positive = scored(seed, ties)
    assert auroc(scores, positive) == pytest.approx(sk.roc_auc_score(positive, scores))
    assert average_precision(scores, positive) == pytest.approx(sk.average_precision_score(positive, scores))


@given(st.integers(0, 10_000))
@settings(max_examples=examples(30))
def test_scores_equal_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, outputs = (rng.random((30, 3)) < 0.4).astype(np.uint8), rng.normal(size=(30, 3))
    truth[0], truth[1] = 1, 0
    one = task()
    found, given_labels = one.score(outputs, truth), one.decide(outputs)
    assert found.metrics["map"] == pytest.approx(sk.average_precision_score(truth, outputs, average="macro"))
    assert found.metrics["auroc"] == pytest.approx(sk.roc_auc_score(truth, outputs, average="macro"))
    zero = {"zero_division": np.nan}
    assert found.metrics["macro_f1"] == pytest.approx(
        sk.f1_score(truth, given_labels, average="macro", **zero)
    )
    assert found.metrics["micro_f1"] == pytest.approx(sk.f1_score(truth, given_labels, average="micro"))
    total = found.statistics["macro_f1"].sum(axis=0)
    assert one.from_statistics("macro_f1", total) == pytest.approx(found.metrics["macro_f1"])


@given(st.integers(0, 10_000), st.floats(0.1, 5), st.floats(-3, 3))
@settings(max_examples=examples(30))
def test_no_loss_is_favoured_by_its_scale(seed: int, factor: float, shift: float) -> None:
    """Any increasing change of a label's scores leaves all scores as they are."""
    rng = np.random.default_rng(seed)
    truth, outputs = (rng.random((30, 3)) < 0.4).astype(np.uint8), rng.integers(-50, 50, (30, 3)) / 10
    truth[0], truth[1] = 1, 0
    first, second = task().score(outputs, truth), task().score(outputs * factor + shift, truth)
    assert first.metrics == pytest.approx(second.metrics)


def test_a_label_is_given_as_often_as_it_stands_in_training() -> None:
    given_labels = task().decide(np.random.default_rng(0).normal(size=(200, 3)))
    assert given_labels.sum(axis=0).tolist() == [100, 40, 20]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("labels") / "scenes"
    options = {"target": "labels", "digits": 1, "noise": 5, "background": 20, "contrast": 1.0}
    sizes = {"train": 400, "validation": 40, "test": 60, "reference": 4}
    spec = DatasetParams(source="digit_scenes", path="requirements.lock", **options, **sizes)
    fetch(spec, "scenes", folder)
    return Dataset.open(folder)


@each("loss", LOSSES)
def test_every_loss_of_the_articles_trains(loss: str, scenes: Dataset) -> None:
    recipe = Recipe(epochs=1, batch_size=32, optimizer={"learning_rate": 0.003})
    one = task_class("multilabel")(scenes.info)
    made = prepare(one, scenes, Network(name="simple_cnn", width=4), recipe, LOSSES[loss], Compute())
    replicate = train_replicate(made, Member(0))
    assert not replicate.diverged
    assert {"train/loss", "validation/map"} <= {f"{one.split}/{one.metric}" for one in replicate.history}


@pytest.mark.slow
def test_painting_a_digit_over_takes_its_label_away(scenes: Dataset) -> None:
    """Behaviour, direction: the scene's digit vanishes under background."""
    recipe = Recipe(epochs=15, batch_size=16, optimizer={"learning_rate": 0.005})
    one = task_class("multilabel")(scenes.info)
    network = Network(name="simple_cnn", width=8, layers=3)
    made = prepare(one, scenes, network, recipe, LOSSES["binary_cross_entropy"], Compute())
    state = train_replicate(made, Member(0)).state
    split = scenes.split("train")
    before = np.asarray(split.inputs)
    painted = np.where(before > 60, 20, before).astype(np.uint8)
    there = np.asarray(split.targets).astype(bool)
    first, second = (predict(one, network, state, images, Compute()).numpy() for images in (before, painted))
    assert (second[there] < first[there]).mean() > 0.8


def write_csv(folder: Path, text: str, images: int = 3) -> Path:
    for index in range(images):
        Image.fromarray(np.full((8, 8), 40 * index, np.uint8)).save(folder / f"{index}.png")
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder / "labels.csv"


@each(
    ("text", "words"),
    [
        ("file,cat\n9.png,1\n", "row 2: '9.png' is not in"),
        ("file,cat\n0.png,yes\n", "row 2: 'cat' is 'yes'; allowed: 0 and 1"),
        ("file,cat\n0.png,1\n1.png\n", "row 3: more or fewer fields"),
        ("file,cat\n0.png,1\n0.png,0\n", "row 3: '0.png' stands in row 2 already"),
        ("image,cat\n0.png,1\n", "row 1: no column 'file'"),
        ("file,labels\n0.png,cat|dgo\n", "row 2: unknown label 'dgo'.*'dog'"),
        ("file,cat\n../x.png,1\n", "row 2: '../x.png' leads out of"),
        ("file,cat,split\n0.png,1,tset\n", "row 2: split is 'tset'"),
        ("file,cat\n", "no row below its header"),
        ("file,cat,labels\n0.png,1,cat\n", "both a column 'labels' and columns per label"),
        ("file,cat,weight\n0.png,1,-2\n", "row 2: 'weight' is '-2'; allowed: a finite number"),
        ("file,cat,weight\n0.png,1,\n", "row 2: 'weight' is empty; allowed: a finite number"),
    ],
)
def test_a_bad_table_is_refused_with_file_and_row(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        read_table(write_csv(tmp_path, text), ("cat", "dog") if "labels" in text else None)
    assert str(refusal.value).startswith(f"{tmp_path / 'labels.csv'}")


def test_a_column_of_weights_weighs_and_is_no_label(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,{n % 2},{split},{weight}\n" for n, (split, weight) in enumerate(
        [("train", 2), ("train", 0.5), ("val", 1), ("test", "")]
    ))  # fmt: skip
    write_csv(tmp_path, "file,cat,split,weight\n" + rows, images=4)
    spec = DatasetParams(source="multilabel_csv", path=str(tmp_path), splits=Splits(reference=0))
    fetch(spec, "mine", tmp_path / "out")
    data = Dataset.open(tmp_path / "out")
    assert (data.info.classes, data.info.weights) == (("cat",), "sample")
    weights = data.split("train").weights
    assert weights is not None
    assert weights.tolist() == [2, 0.5]


def test_a_label_may_be_called_weight(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "file,cat,weight\n0.png,1,1\n")
    assert read_table(file, None)[0] == ("cat",)
    assert read_table(file, None, None)[0] == ("cat", "weight")
    assert read_table(file, ("cat", "weight"))[0] == ("cat", "weight")
    with pytest.raises(UserError, match="row 1: no column 'heavy'"):
        read_table(file, None, "heavy", named=True)
    with pytest.raises(UserError, match="'weight: file', but that column is read for something else"):
        read_table(file, None, "file", named=True)


def test_a_table_that_is_not_utf_8_or_an_image_that_is_a_video_is_refused(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "file,cat\n0.png,1\n")
    file.write_bytes(b"file,cat\n0.png,\xff\n")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_table(file, None)
    write_csv(tmp_path, "file,cat\n0.png,1\n1.png,0\n")
    (tmp_path / "1.png").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(200))
    spec = DatasetParams(source="multilabel_csv", path=str(tmp_path))
    with pytest.raises(UserError, match=r"1\.png: not an image"):
        fetch(spec, "mine", tmp_path / "out")


def test_a_table_becomes_a_dataset(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["file,cat,dog,split"]
    for index in range(12):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / f"{index}.png")
        rows.append(f"{index}.png,{index % 2},{int(index % 3 == 0)},{('train', 'val', 'test')[index % 3]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    fetch(DatasetParams(source="multilabel_csv", path=str(tmp_path)), "mine", tmp_path / "out")
    data = Dataset.open(tmp_path / "out")
    assert data.info.classes == ("cat", "dog")
    train = data.split("train")
    assert np.asarray(train.targets)[:, 1].all()  # rows 0, 3, 6, 9 are all dogs
    assert torch.from_numpy(np.array(train.inputs)).shape[1:] == (1, 8, 8)
