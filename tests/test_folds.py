"""Folds: every sample is tested once a round, groups stay whole, and all arms have the same fold on a seed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_params, train_study
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_scripts_study import content as script_content
from test_scripts_study import write_script

from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.data.folds import dealt
from lossbench.errors import UserError
from lossbench.execution import work
from lossbench.execution.declared import compared_digest
from lossbench.execution.fill import Arm
from lossbench.execution.identity import data_hash
from lossbench.execution.jobs import SCORES, Train, Where
from lossbench.execution.validation import collect_validation
from lossbench.folds import fold_folder, fold_of
from lossbench.outs import Outs
from lossbench.params import Dataset as DatasetParams
from lossbench.params import load_params, parse_params
from lossbench.recipe import Compute
from lossbench.reporting.write import write_report
from lossbench.retraining.choice import experiment_of
from lossbench.serving.source import load_model
from lossbench.store import Store, opened
from lossbench.training.fitting import train
from lossbench.training.replicate import Replicate
from lossbench.training.setting import Setting

COUNT, FOLDS = 48, 3
GROUPS = st.lists(st.integers(0, 12).map(str), min_size=20, max_size=80).filter(lambda one: len(set(one)) > 4)


@given(GROUPS, st.integers(3, 5), st.text(max_size=4))
def test_groups_stay_whole_no_fold_is_empty_and_order_does_not_matter(
    groups: list[str], folds: int, salt: str
) -> None:
    place = dealt(groups, folds, salt)
    where = dict(zip(groups, place, strict=True))
    assert [where[group] for group in groups] == list(place)
    assert set(place) == set(range(folds))
    assert list(dealt(groups[::-1], folds, salt)) == list(place[::-1])


@given(GROUPS, st.integers(3, 5))
def test_folds_differ_by_no_more_than_the_largest_group(groups: list[str], folds: int) -> None:
    sizes = np.bincount(dealt(groups, folds, ""))
    assert sizes.max() - sizes.min() <= max(groups.count(group) for group in groups)


def table(folder: Path, **columns: Any) -> Path:
    (folder / "pictures").mkdir(parents=True)
    names = [f"pictures/{number}.png" for number in range(COUNT)]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
        pixels[:, : 4 * (number % 2)] = 0
        Image.fromarray(pixels).save(folder / name)
    rows = {"image": names, "label": ["left", "right"] * (COUNT // 2), **columns}
    pd.DataFrame(rows).to_csv(folder / "samples.csv", index=False)
    return folder


def patients(each: int = 4) -> list[str]:
    return [f"patient {number // each}" for number in range(COUNT)]


def spec(folder: Path, **options: Any) -> DatasetParams:
    return DatasetParams(source="table", path=str(folder), folds=FOLDS, **options)


def manifests(out: Path) -> list[pd.DataFrame]:
    return [pd.read_parquet(fold_folder(out, fold) / "manifest.parquet") for fold in range(FOLDS)]


@pytest.mark.parametrize("grouped", [True, False])
def test_each_sample_is_tested_once_validates_once_and_trains_otherwise(
    grouped: bool, tmp_path: Path
) -> None:
    folder = table(tmp_path / "mine", **({"group": patients()} if grouped else {}))
    fetch(spec(folder), "mine", tmp_path / "out")
    found = manifests(tmp_path / "out")
    for split, times in {"test": 1, "validation": 1, "train": FOLDS - 2, "reference": 0}.items():
        names = [name for one in found for name in one.loc[one["split"] == split, "source"]]
        assert sorted(names) == sorted(name for name in found[0]["source"] for _ in range(times))
    if grouped:
        assert all((one.groupby("group")["split"].nunique() == 1).all() for one in found)
    assert len({data_hash(fold_folder(tmp_path / "out", fold)) for fold in range(FOLDS)}) == FOLDS
    for fold, one in enumerate(found):
        data = Dataset.open(fold_folder(tmp_path / "out", fold))
        assert data.info.sizes["test"] == len(data.split("test")) == int((one["split"] == "test").sum())
    fetch(spec(folder), "mine", tmp_path / "out")  # what the chain wrote makes room for itself
    assert [one.to_json() for one in manifests(tmp_path / "out")] == [one.to_json() for one in found]


def test_copies_of_one_picture_stay_together(tmp_path: Path) -> None:
    folder = table(tmp_path / "mine")
    for number in range(0, COUNT, 2):
        (folder / f"pictures/{number}.png").write_bytes((folder / f"pictures/{number % 8}.png").read_bytes())
    fetch(spec(folder), "mine", tmp_path / "out")
    for one in manifests(tmp_path / "out"):
        assert (one.groupby("sha256")["split"].nunique() == 1).all()


def test_weights_go_with_their_samples(tmp_path: Path) -> None:
    folder = table(tmp_path / "mine", weight=[0.5 + number for number in range(COUNT)])
    fetch(spec(folder), "mine", tmp_path / "out")
    for fold, one in enumerate(manifests(tmp_path / "out")):
        split = Dataset.open(fold_folder(tmp_path / "out", fold)).split("train")
        names = one[one["split"] == "train"].sort_values("index")["source"]
        assert split.weights is not None
        assert list(split.weights) == [0.5 + int(Path(name).stem) for name in names]


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        (
            {"split": ["train", "val", "test"] * 16},
            {},
            "the split is 'train', but 'datasets.mine.folds' divides",
        ),
        ({"group": ["a", "b"] * 24}, {}, "datasets.mine.folds is 3, but there are 2 groups; allowed"),
    ],
)
def test_rows_that_cannot_be_folded(
    columns: dict[str, Any], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = table(tmp_path / "mine", **columns)
    with pytest.raises(UserError, match=said):
        fetch(spec(folder, **options), "mine", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_that_are_divided_already_have_no_folds(tmp_path: Path) -> None:
    scenes = DatasetParams(
        source="digit_scenes", path="x", folds=3, train=8, validation=4, test=4, reference=4  # type: ignore[call-arg]  # of the source
    )  # fmt: skip
    with pytest.raises(UserError, match="the data are divided already"):
        fetch(scenes, "mine", tmp_path / "out")


def content(folder: Path, **dataset: Any) -> dict[str, Any]:
    made = tiny_params()
    made["datasets"] = {"mine": {"source": "table", "path": str(folder), "folds": FOLDS, **dataset}}
    experiment = made["experiments"]["digits"] | {"dataset": "mine"}
    made["experiments"] = {"mine": experiment}
    made["arms"] = {
        f"mine-{loss}": {"experiment": "mine", "dataset": "mine", "loss": loss} for loss in made["losses"]
    }
    made["hypotheses"] = {}
    made["seeds"] = list(range(2 * FOLDS))
    experiment["recipe"] = experiment["recipe"] | {"epochs": 1}
    return made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": [0, 1, 2, 3]}, "'seeds' has 4, but 'datasets.mine.folds' is 3.*multiples of 3"),
        ({"comparison": {"baseline": "cross_entropy", "looks": [3, 5]}}, "'comparison.looks' has 5"),
        ({"tuning": {"trials": 2, "learning_rate": {"low": 0.1, "high": 1}}}, "'tuning.scope' is 'arm'"),
        ({"retraining": {"experiment": "mine"}}, "'retraining.experiment' is 'mine', whose data"),
        ({"retraining": {"experiment": "none"}}, "names no experiment: 'none'"),
    ],
)
def test_what_does_not_go_with_folds_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_params(content(Path("x")) | change)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ({"folds": 2}, "'datasets.mine.folds' is 2"),
        ({"folds": "five"}, "'datasets.mine.folds' is 'five'"),
        ({"splits": {"test": 0.2}}, "splits.test; keep one"),
        ({"anomaly": {"normal": ["left"]}}, "folds beside anomaly"),
    ],
)
def test_folds_that_are_none(dataset: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_params(content(Path("x"), **dataset))


def test_a_study_of_folds_has_no_champion() -> None:
    with pytest.raises(UserError, match=r"the only experiment is 'mine', whose data 'datasets\.mine\.folds'"):
        experiment_of(parse_params(content(Path("x"))))


def test_looks_that_were_taken_before_there_were_folds_still_hold() -> None:
    params = parse_params(tiny_params())
    block = params.datasets["digits"].model_dump(mode="json", exclude={"path", "expectations", "folds"})

    class Before(DatasetParams):
        def model_dump(self, **_: Any) -> dict[str, Any]:
            return {**block, "folds": None}

    before = params.model_copy(update={"datasets": {**params.datasets, "digits": Before(source="", path="")}})
    assert compared_digest(before, "digits") == compared_digest(params, "digits")
    assert "folds" not in block


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three folds, six seeds and two losses, from the table to the report."""
    around = tmp_path_factory.mktemp("folds")
    folder = table(around / "mine", group=patients())
    root = around / "study"
    train_study(root, content(folder))
    write_report(load_params(root / "params.yaml"), root, root / ".lossbench")
    return root


def test_all_arms_have_the_same_fold_on_a_seed_and_every_fold_as_many_seeds(trained: Path) -> None:
    params = load_params(trained / "params.yaml")
    folds = [fold_of(params, "mine", seed) for seed in params.seeds]
    assert folds == [0, 1, 2, 0, 1, 2]
    for name in params.arms:
        arm = Arm(params, name, trained)
        assert [arm.identity_of(seed).data.name for seed in arm.seeds] == ["mine", "fold-1", "fold-2"] * 2


def test_the_search_of_a_replicate_sees_its_own_fold_alone(trained: Path) -> None:
    content: dict[str, Any] = load_params(trained / "params.yaml").model_dump(mode="json")
    rates = {"low": 0.001, "high": 0.01}
    content["tuning"] = {"scope": "replicate", "trials": 2, "seeds": [1001], "learning_rate": rates}
    searched = parse_params(content)
    arm = Arm(searched, "mine-focal", trained)
    assert arm.trials.folds == (0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2)
    population = searched.model_copy(update={"compute": Compute(engine="population")})
    for wanted in (Arm(population, "mine-focal", trained).trials, arm.trials):
        assert all(len({wanted.folds[number] for number in numbers}) == 1 for numbers in wanted.together)


def test_several_processes_keep_scores_under_the_key_of_the_replicates_fold(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their code and data are looked at once more when they have ended: those of the same fold."""
    params = load_params(trained / "params.yaml")
    params = params.model_copy(update={"compute": Compute(processes=2), "seeds": (0, 1)})
    store = Store(str(tmp_path))
    arm, place = Arm(params, "mine-focal", trained), Where(trained, trained / ".lossbench", store.address)
    wanted = arm.replicates({"best": {}})
    jobs = arm.jobs(wanted, wanted.keys, place, trial=False)

    def alone(setting: Setting, *rest: Any) -> list[Replicate]:
        return train(replace(setting, compute=Compute()), *rest)

    monkeypatch.setattr(work, "train", alone)
    monkeypatch.chdir(trained)
    for job in jobs:
        work.work(job, lambda _: None)
    assert [job.fold for job in jobs if isinstance(job, Train)] == [0, 1]
    assert [kind for kind, _ in store.entries()].count(SCORES) == 2


def test_scores_are_those_of_the_replicates_own_fold(trained: Path) -> None:
    params, outs = load_params(trained / "params.yaml"), Outs(trained)
    scores = pd.read_csv(outs.evaluation("mine") / "scores.csv")
    accuracy = scores[scores["metric"] == "accuracy"].set_index(["arm", "seed"])["value"]
    for name in params.arms:
        for seed in params.seeds:
            model = load_model(trained, None, name, seed)
            data = Dataset.open(fold_folder(outs.data("mine"), fold_of(params, "mine", seed)))
            assert model.info == data.info
            test = data.split("test")
            said = [one["class"] for one in model.predict(np.asarray(test.inputs))]
            right = [data.info.classes[target] == one for target, one in zip(test.targets, said, strict=True)]
            assert accuracy[name, seed] == pytest.approx(np.mean(right))


def test_verdicts_count_seeds_and_examples_are_all_samples(trained: Path) -> None:
    verdicts = pd.read_csv(trained / "reports/verdicts.csv")
    assert list(verdicts["n"]) == [6]
    assert verdicts["examples_low"].notna().all()
    statistics = np.load(trained / "reports/evaluation/mine/statistics/mine-focal.npy")
    assert statistics.shape[:2] == (2, COUNT)
    page = (trained / "reports/index.html").read_text()
    assert "3 folds: every sample is tested, by 2 of 6 declared seeds" in page


@pytest.mark.slow
def test_a_script_is_given_its_own_fold_and_tests_as_many_examples_as_are_there(tmp_path: Path) -> None:
    root = tmp_path / "s"
    body = (
        "sizes = json.loads((pathlib.Path(told.data) / 'dataset.json').read_text())['sizes']\n"
        "metrics = {'test': {'accuracy': sizes['test'] / 100, 'cost': 1.0}, 'validation': {'accuracy': 0.5}}\n"
        "metrics['per_example'] = {'accuracy': [sizes['test'] / 100] * sizes['test']}"
    )
    write_script(root, body)
    folder = table(tmp_path / "mine", group=[f"patient {number // 9}" for number in range(COUNT)])
    made = script_content(dataset="mine") | {"seeds": [0, 1, 2]}
    made["datasets"] = content(folder)["datasets"]
    made["arms"] = {name: {**arm, "dataset": "mine"} for name, arm in made["arms"].items()}
    train_study(root, made)
    scores = pd.read_csv(root / "reports/evaluation/own/scores.csv")
    found = scores[(scores["metric"] == "accuracy") & (scores["loss"] == "plain")]["value"]
    sizes = [Dataset.open(fold_folder(root / "data/mine", fold)).info.sizes["test"] for fold in range(FOLDS)]
    assert len(set(sizes)) > 1
    assert list(found) == [size / 100 for size in sizes]
    assert np.load(root / "reports/evaluation/own/statistics/own-plain.npy").shape[:2] == (1, COUNT)


@pytest.mark.slow
def test_every_fold_is_validated(trained: Path) -> None:
    root = trained / "data/mine/fold-2/manifest.parquet"
    kept = root.read_bytes()
    params, outs = load_params(trained / "params.yaml"), Outs(trained)
    manifest = pd.read_parquet(root)
    manifest["minimum"] = -1
    try:
        manifest.to_parquet(root)
        with opened(outs.home) as store, pytest.raises(Exception, match="mine-fold-2") as error:
            collect_validation(params, "mine", outs, store)
        assert "lowest_value" in str(error.value)
    finally:
        root.write_bytes(kept)
