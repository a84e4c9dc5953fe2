"""Weights and soft labels in the user's own files and arrays: what is read, and what is refused in a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from law_cases import each, few
from PIL import Image
from test_table_source import fetched, pictures, said, write

import lossbench
from lossbench.api.arrays import Notes
from lossbench.api.given import Given, wanted_of
from lossbench.api.given import fetched as handed_over
from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.data.fetching import write as write_dataset
from lossbench.data.sources.weighing import beside
from lossbench.errors import UserError
from lossbench.params import Dataset as DatasetParams
from lossbench.params import Splits
from lossbench.recognition import recognise

COUNT = 40


def samples_hash(out: Path) -> str:
    return str(json.loads((out / "provenance.json").read_bytes())["samples_sha256"])


def table(folder: Path, **columns: Any) -> pd.DataFrame:
    made = pd.DataFrame({"image": pictures(folder, COUNT), "label": ["cat", "dog"] * (COUNT // 2)})
    return made.assign(**columns)


def test_a_column_of_weights_comes_to_lie_beside_what_is_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    plain = table(folder)
    write(folder, plain)
    before = samples_hash(fetched(folder)[1])
    weights = [number / 8 for number in range(COUNT)]
    write(folder, plain.assign(weight=weights))
    manifest, out = fetched(folder)
    data = Dataset.open(out)
    assert data.info.weights == "sample"
    assert samples_hash(out) != before
    known = dict(zip(plain["image"], weights, strict=True))
    for split in ("train", "validation"):
        rows = manifest[manifest["split"] == split].sort_values("index")
        assert data.split(split).weights.tolist() == [known[name] for name in rows["source"]]
    assert data.split("test").weights is None
    assert not (out / "test/weights.npy").exists()
    assert (manifest["weights_sha256"].isna() == ~manifest["split"].isin(["train", "validation"])).all()
    _, out = fetched(folder, weight=None)
    assert (samples_hash(out), Dataset.open(out).info.weights) == (before, None)


def test_a_weight_of_what_is_only_scored_changes_no_data(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    splits = ["train"] * 20 + ["validation"] * 10 + ["test"] * 10
    made = table(folder, split=splits, weight=[1.0] * 30 + [2.0] * 10)
    write(folder, made)
    before = samples_hash(fetched(folder)[1])
    write(folder, made.assign(weight=[1.0] * 30 + [None] * 10))
    assert samples_hash(fetched(folder)[1]) == before
    write(folder, made.assign(weight=[1.0] * 29 + [3.0] + [2.0] * 10))
    assert samples_hash(fetched(folder)[1]) != before


@pytest.mark.parametrize("labelled", [False, True])
def test_probabilities_are_trained_on_and_labels_are_scored(labelled: bool, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    chances = np.random.default_rng(0).dirichlet([1, 1], COUNT).round(2)
    made = table(folder, cat=chances[:, 0], dog=chances[:, 1])
    write(folder, made if labelled else made.drop(columns="label"))
    manifest, out = fetched(folder, probabilities=["cat", "dog"])
    data = Dataset.open(out)
    assert (data.info.classes, data.info.soft, data.info.weights) == (("cat", "dog"), True, None)
    split = data.split("train")
    assert split.soft.sum(axis=1) == pytest.approx(1)
    if labelled:
        known = dict(zip(made["image"], made["label"], strict=True))
        assert (manifest["label"] == manifest["source"].map(known)).all()
    else:
        assert (split.soft.argmax(axis=1) == split.targets).all()


def masks(folder: Path, maps: str, suffix: str = ".png") -> None:
    """Images, masks, and a weight map of each whose numbers are those of the mask, plus one."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks", maps):
        (folder / name).mkdir(parents=True)
    for number in range(COUNT):
        mask = rng.integers(0, 2, (6, 8), np.uint8)
        Image.fromarray(rng.integers(0, 255, (6, 8), np.uint8)).save(folder / f"images/{number}.png")
        Image.fromarray(mask).save(folder / f"masks/{number}.png")
        file = folder / maps / f"{number}{suffix}"
        if suffix == ".npy":
            np.save(file, mask + 1.0)
        else:
            Image.fromarray(mask + 1).save(file)


def check_maps(out: Path) -> None:
    data = Dataset.open(out)
    assert data.info.weights == "position"
    for split in ("train", "validation"):
        one = data.split(split)
        assert one.weights.dtype == np.float32
        assert np.array_equal(one.weights, one.targets + 1.0)


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_a_folder_of_weight_maps_beside_the_masks_is_read(suffix: str, tmp_path: Path) -> None:
    masks(tmp_path / "mine", "weights", suffix)
    spec = DatasetParams(source="segmentation_folder", path=str(tmp_path / "mine"))
    fetch(spec, "mine", tmp_path / "out")
    check_maps(tmp_path / "out")


def test_pictures_of_weights_are_resized_with_their_masks(tmp_path: Path) -> None:
    masks(tmp_path / "mine", "weight_maps")
    spec = DatasetParams(source="segmentation_folder", path=str(tmp_path / "mine"), size=[12, 4])
    fetch(spec, "mine", tmp_path / "out")
    check_maps(tmp_path / "out")


TIFFS: list[dict[str, Any]] = [
    {"dtype": "float32"}, {"dtype": "float16"}, {"dtype": "float64"}, {"dtype": "float32", "compression": "lzw"},
    {"dtype": "float32", "compression": "zlib", "predictor": True}, {"dtype": "float32", "byteorder": ">"},
    {"dtype": "float32", "bigtiff": True}, {"dtype": "float32", "photometric": "miniswhite"}, {"dtype": "int32"},
]  # fmt: skip


@pytest.mark.parametrize("size", [None, [12, 4]])
def test_a_tiff_of_weights_may_hold_any_number(size: list[int] | None, tmp_path: Path) -> None:
    """Each picture's is written in another way than the one before."""
    masks(tmp_path / "mine", "weights", ".npy")
    share: dict[str, float] = {}
    for number in range(COUNT):
        file = tmp_path / f"mine/weights/{number}.npy"
        options = dict(TIFFS[number % len(TIFFS)])
        kind = np.dtype(options.pop("dtype"))
        share[str(number)] = 0.25 if kind.kind == "f" else 1.0
        tifffile.imwrite(
            file.with_suffix(".tif"), (np.load(file) * share[str(number)]).astype(kind), **options
        )
        file.unlink()
    spec = DatasetParams(
        source="segmentation_folder", path=str(tmp_path / "mine"), **({"size": size} if size else {})
    )
    fetch(spec, "mine", tmp_path / "out")
    one = Dataset.open(tmp_path / "out").split("train")
    manifest = (
        pd.read_parquet(tmp_path / "out/manifest.parquet").query("split == 'train'").sort_values("index")
    )
    numbers = [Path(source).stem for source in manifest["source"]]
    assert {int(number) % len(TIFFS) for number in numbers} == set(range(len(TIFFS)))
    for number, weights, targets in zip(numbers, one.weights, one.targets, strict=True):
        np.testing.assert_array_equal(
            weights, (targets + 1) * share[number], err_msg=str(TIFFS[int(number) % 9])
        )


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (np.full((6, 8), -0.5), "weights/3.tif: a weight of -0.5; allowed: finite numbers ≥ 0"),
        (np.full((6, 8), np.nan), "weights/3.tif: a weight of nan"),
        (np.full((6, 8), 1e300), "weights/3.tif: a weight of 1e+300"),
        (np.ones((3, 8)), "weights/3.tif: weights of 8×3, but its image has 8×6 pixels"),
        (np.arange(144.0).reshape(6, 8, 3), "weights/3.tif: weights of mode"),
    ],
)
def test_a_tiff_of_weights_that_does_not_fit_is_said_resized_or_not(
    numbers: np.ndarray, words: str, tmp_path: Path
) -> None:
    masks(tmp_path / "mine", "weights")
    (tmp_path / "mine/weights/3.png").unlink()
    photometric = "rgb" if numbers.ndim == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "mine/weights/3.tif", numbers, photometric=photometric)
    for size in ({}, {"size": [12, 4]}):
        spec = DatasetParams(source="segmentation_folder", path=str(tmp_path / "mine"), **size)
        with pytest.raises(UserError) as error:
            fetch(spec, "mine", tmp_path / "out")
        assert words in str(error.value)


def test_a_column_of_weight_maps_is_read(tmp_path: Path) -> None:
    masks(tmp_path / "mine", "w")
    rows = [
        {"image": f"images/{n}.png", "mask": f"masks/{n}.png", "weights": f"w/{n}.png"} for n in range(COUNT)
    ]
    write(tmp_path / "mine", pd.DataFrame(rows))
    check_maps(fetched(tmp_path / "mine")[1])


@each(
    ("columns", "options", "words"),
    [
        ({"weight": [-1.0] * COUNT}, {}, "row 2: 'weight' is '-1.0'; allowed: a finite number ≥ 0"),
        ({"weight": [1.0] * 3 + [None] + [1.0] * 36}, {}, "row 5: 'weight' is empty; allowed: a finite number"),
        ({"weight": ["inf"] * COUNT}, {}, "row 2: 'weight' is 'inf'; allowed"),
        ({"weight": ["heavy"] * COUNT}, {}, "row 2: 'weight' is 'heavy'; allowed"),
        ({"weight": [0] * COUNT}, {}, "datasets.mine: all weights of the train split's"),
        ({}, {"weight": "importance"}, "row 1: no column 'importance'"),
        ({}, {"weights": "maps"}, "row 1: no column 'maps'"),
        ({"weights": "a"}, {"weights": "weights"}, "row 1: 'weights: weights' beside targets of kind label; allowed"),
        ({"weights": "a"}, {}, "allowed beside: mask; 'weights: null' if it weighs nothing"),
        ({"a": 0.5, "b": 0.2}, {"probabilities": ["a", "b"]}, "row 2: a, b sum to 0.7; allowed: probabilities"),
        ({"a": 1.5, "b": -0.5}, {"probabilities": ["a", "b"]}, "row 2: 'a' is '1.5'; allowed: a probability, 0 to 1"),
        ({"a": 0.5, "b": None}, {"probabilities": ["a", "b"]}, "row 2: 'b' is empty; allowed: a probability"),
        ({"a": 0.5}, {"probabilities": ["a", "b"]}, "row 1: no column 'b'"),
        ({"a": 0.5, "b": 0.5}, {"probabilities": ["a", "b"]}, "label 'cat': 'datasets.mine.probabilities' has it not"),
        ({}, {"probabilities": ["a", "b"], "classes": ["x", "y", "z"]}, "probabilities has 2 entries, classes 3"),
        ({}, {"probabilities": ["a", "b"], "mask": "m"}, "probabilities beside mask; they go with labels"),
        ({"cat": 0.5, "dog": 0.5}, {"probabilities": ["cat", "dog"], "corruption": {"label_noise": 0.1}},
         "corruption.label_noise: needs one label per sample; this dataset has soft labels"),
        ({"cat": 0.5, "dog": 0.5}, {"probabilities": ["cat", "dog"], "anomaly": {"normal": ["cat"]}},
         "anomaly: needs one label per sample; this dataset has soft labels"),
    ],
)  # fmt: skip
def test_what_does_not_fit_in_a_table_is_said(
    columns: dict[str, Any], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    write(folder, table(folder, **columns))
    assert words in said(folder, **options)


def test_both_kinds_of_weights_are_one_too_many(tmp_path: Path) -> None:
    masks(tmp_path / "mine", "w")
    rows = [
        {"image": f"images/{n}.png", "mask": f"masks/{n}.png", "weights": f"w/{n}.png", "weight": 1}
        for n in range(COUNT)
    ]
    write(tmp_path / "mine", pd.DataFrame(rows))
    assert "both 'weight' and 'weights' weigh; say 'weight: null' or" in said(tmp_path / "mine")
    check_maps(fetched(tmp_path / "mine", weight=None)[1])


def broken(folder: Path, how: str) -> None:
    file = folder / "weights/3.npy"
    match how:
        case "missing":
            file.unlink()
        case "text":
            file.write_bytes(b"no array")
        case "objects":
            np.save(file, np.array([{}], object))
        case "size":
            np.save(file, np.ones((8, 6)))
        case "negative":
            np.save(file, np.full((6, 8), -0.5))
        case "nan":
            np.save(file, np.full((6, 8), np.nan))
        case "beyond float32":
            np.save(file, np.full((6, 8), 1e39))


@few(
    ("how", "words"),
    [
        ("missing", "masks/3.png: no weight map of this name in"),
        ("text", "weights/3.npy: cannot be read as an array of NumPy"),
        ("objects", "weights/3.npy: cannot be read as an array of NumPy"),
        ("size", "weights/3.npy: weights of 6×8, but its image has 8×6 pixels"),
        ("negative", "weights/3.npy: a weight of -0.5; allowed: finite numbers ≥ 0"),
        ("nan", "weights/3.npy: a weight of nan; allowed: finite numbers ≥ 0"),
        ("beyond float32", "weights/3.npy: a weight of 1e+39; allowed: finite numbers ≥ 0, ≤ 3.4e+38"),
    ],
)
def test_a_weight_map_that_does_not_fit_is_said(how: str, words: str, tmp_path: Path) -> None:
    masks(tmp_path / "mine", "weights", ".npy")
    broken(tmp_path / "mine", how)
    spec = DatasetParams(source="segmentation_folder", path=str(tmp_path / "mine"))
    with pytest.raises(UserError) as told:
        fetch(spec, "mine", tmp_path / "out")
    assert words in str(told.value)
    assert "\n" not in str(told.value)


# --- from Python ---

X = np.random.default_rng(0).integers(0, 256, (48, 1, 8, 8), np.uint8)
Y = np.arange(48) % 3
CHANCES = np.random.default_rng(1).dirichlet([1, 1, 1], 48)


def python(folder: Path, kind: str = "label", weights: Any = None, **splits: Any) -> Dataset:
    given = {"train": None, "validation": None, "test": None, **splits}
    shares = Splits(reference=0.0)
    made = handed_over(
        Given(given, wanted_of(kind, None, None), {}, folder / "read", weights), shares, Notes()
    )
    write_dataset(made, DatasetParams(source="python", path="data", splits=shares), "d", folder / "data")
    return Dataset.open(folder / "data")


def test_weights_handed_over_stay_with_their_samples(tmp_path: Path) -> None:
    values = X.reshape(48, -1).mean(axis=1)
    data = python(tmp_path, train=(X, Y), weights=values)
    for split in ("train", "validation"):
        one = data.split(split)
        assert one.weights == pytest.approx(one.inputs.reshape(len(one), -1).mean(axis=1))
    both = python(tmp_path / "b", train=(X, Y), validation=(X[:9], Y[:9]), weights={"train": values})
    assert (both.split("validation").weights == 1).all()
    pixels = python(tmp_path / "c", "mask", train=(X, (X[:, 0] > 99).astype(int)), weights=X[:, 0])
    assert pixels.info.weights == "position"


def test_soft_labels_handed_over_are_trained_on(tmp_path: Path) -> None:
    data = python(tmp_path, train=(X, CHANCES), test=(X[:9], Y[:9]))
    one = data.split("train")
    assert data.info.soft
    assert (one.soft.argmax(axis=1) == one.targets).all()
    assert data.split("test").targets.tolist() == Y[:9].tolist()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"weights": np.ones(47)}, r"weights of train: shape \(47,\); expected \(48,\), as there are samples"),
        ({"weights": np.ones((48, 8, 8))}, r"weights of train: shape \(48, 8, 8\); expected \(48,\)"),
        ({"weights": -np.ones(48)}, "weights of train: -1 in sample 0; allowed: finite numbers ≥ 0"),
        ({"weights": np.full(48, np.nan)}, "weights of train: nan in sample 0"),
        ({"weights": np.array(["a"] * 48)}, "weights of train: dtype <U1; expected numbers"),
        ({"weights": np.zeros(48)}, "all weights of the train split's .* are 0; allowed: one above 0"),
        ({"weights": {"test": np.ones(9)}}, r"weights: test; .*\(scores are never weighted\)"),
        ({"weights": {"validation": np.ones(9)}, "validation": (X[:9], Y[:9])}, "weights: none of train"),
        ({"train": (X, CHANCES * 2)}, "train targets: sample 0 holds .* sum to 2; allowed: probabilities"),
        ({"train": (X, CHANCES), "validation": (X, CHANCES[:, :2] / CHANCES[:, :2].sum(1, keepdims=True))},
         "validation: 2 probabilities a sample, but train has 3"),
        ({"test": (X, CHANCES)}, "test: soft labels, but those of train are class numbers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_in_arrays_is_said(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        python(tmp_path, **{"train": (X, Y), **given})


def test_compare_takes_weights_and_says_its_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lossbench.UserError, match=r"^lossbench.compare: weights of train: shape \(3,\)"):
        lossbench.compare(
            model="lenet", losses=["cross_entropy"], train=(X, Y), task="classification", metric="accuracy",
            margin=0.01, weights=[1, 2, 3],
        )  # fmt: skip


@few("form", ["{}", "p_{}", "prob-{}", "{} probability"])
@each("names", [("cat", "dog"), ("Cat", "Dog")])
def test_probabilities_in_another_order_than_the_classes_are_refused(
    form: str, names: tuple[str, str], tmp_path: Path
) -> None:
    """They would teach the opposite."""
    folder = tmp_path / "mine"
    columns = [form.format(one) for one in names]
    made = table(folder, **{columns[0]: [0.9, 0.2] * (COUNT // 2), columns[1]: [0.1, 0.8] * (COUNT // 2)})
    write(folder, made)
    _, out = fetched(folder, probabilities=columns, classes=["cat", "dog"])
    assert sorted(set(Dataset.open(out).split("train").soft[:, 0].round(1).tolist())) == pytest.approx(
        [0.2, 0.9]
    )
    with pytest.raises(UserError, match=f"'probabilities' has '{columns[1]}' where 'classes' has 'cat'"):
        fetched(folder, probabilities=columns[::-1], classes=["cat", "dog"])


def test_columns_with_names_of_their_own_are_in_the_order_given(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write(folder, table(folder, first=0.25, second=0.75))
    _, out = fetched(folder, probabilities=["first", "second"], classes=["cat", "dog"])
    assert (Dataset.open(out).split("train").soft == [0.25, 0.75]).all()


def test_a_class_called_weight_weighs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write(folder, table(folder, weight=0.25, height=0.75).drop(columns="label"))
    _, out = fetched(folder, probabilities=["weight", "height"])
    assert Dataset.open(out).info.weights is None
    with pytest.raises(UserError, match="'weight' and 'probabilities' both name the column 'weight'"):
        fetched(folder, probabilities=["weight", "height"], weight="weight")


def test_a_column_that_weighs_is_said_when_a_study_is_proposed(tmp_path: Path) -> None:
    """In somebody's table it may mean kilograms."""
    folder = tmp_path / "mine"
    made = table(folder)
    write(folder, made)
    assert not any("weigh" in one for one in recognise(folder).said)
    write(folder, made.assign(weight=range(COUNT)))
    assert any(
        "column 'weight' (0 to 39) says how much each row counts" in one for one in recognise(folder).said
    )


def test_a_folder_of_a_networks_weights_is_no_folder_of_maps(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    masks(folder, "elsewhere")
    (folder / "weights/epochs").mkdir(parents=True)
    (folder / "weights/best.pt").write_bytes(b"x")
    (folder / "weights/epochs/1.h5").write_bytes(b"x")
    assert beside(sorted((folder / "masks").iterdir()), folder) is None


@pytest.mark.parametrize("twin", ["weights/{}.npy", "weights/{}_w.png", "weight-maps/{}.png"])
def test_of_two_weight_maps_none_is_chosen_in_silence(twin: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    masks(folder, "weights")
    for mask in sorted((folder / "masks").iterdir()):
        file = folder / twin.format(mask.stem)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(mask.read_bytes())
    with pytest.raises(UserError, match=r" and .* may both"):
        beside(sorted((folder / "masks").iterdir()), folder)
