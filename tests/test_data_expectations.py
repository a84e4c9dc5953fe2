"""Each expectation is met by sound data, and fails alone when its defect is planted."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from law_cases import each

from lossbench.checking import check as check_params
from lossbench.data.dataset import Dataset, Kind
from lossbench.data.expectations import validate
from lossbench.data.expectations.extra import read_extra
from lossbench.data.expectations.run import fresh_context, great_expectations, run_tables
from lossbench.data.expectations.suite import suite
from lossbench.data.expectations.tables import drift_table, name_boxes, tables
from lossbench.data.fetching import write as write_dataset
from lossbench.data.samples import Fetched, Samples
from lossbench.errors import GateError, UserError
from lossbench.params import Expectations, parse_params
from tests.conftest import tiny_params
from tests.data_cases import CLASSES, SIZES, dataset, sound

Defect = Callable[[pd.DataFrame], pd.DataFrame]
KNOBS = Expectations(min_per_class=20)


def put(column: str, value: object, row: int = 0) -> Defect:
    """Plant a value in a row."""

    def plant(table: pd.DataFrame) -> pd.DataFrame:
        if isinstance(value, float) or value is None:
            table[column] = table[column].astype(object if value is None else "float64")
        table.loc[row, column] = value
        return table

    return plant


def copy(column: str, source: int, row: int) -> Defect:
    """Plant the value that stands in another row."""
    return lambda table: put(column, table.loc[source, column], row)(table)


def relabel(table: pd.DataFrame, split: str, few: str, many: str, left: int) -> pd.DataFrame:
    """Leave only some labels of one class in a split."""
    rows = table.index[(table["split"] == split) & (table["label"] == few)]
    table.loc[rows[left:], "label"] = many
    return table


def shift(table: pd.DataFrame, column: str, by: float) -> pd.DataFrame:
    table.loc[table["split"] == "test", column] += by * table[column].std()
    return table


LABEL_DEFECTS: dict[str, Defect] = {
    "schema": lambda table: table.drop(columns="source"),
    "hashes_present": put("sha256", None),
    "unique_ids": copy("id", 1, 2),
    "same_width": put("width", 9),
    "same_height": put("height", 9),
    "same_channels": put("channels", 3),
    "lowest_value": put("minimum", -1),
    "highest_value": put("maximum", 256),
    "range_used": lambda table: put("maximum", 160)(put("minimum", 100)(table)),  # one image is enough
    "values_within": put("clipped_values", 3),
    "not_constant": put("std", 0.0),
    "no_duplicates_across_splits": copy("sha256", 0, SIZES["train"]),
    "no_duplicates_within_split": copy("sha256", 0, 1),
    "min_per_class": lambda table: relabel(table, "train", "bee", "ant", 19),
    "label_set": put("label", "wasp"),
    "labels_present": put("label", None),
    "classes_in_validation": lambda table: relabel(table, "validation", "bee", "ant", 0),
    "classes_in_test": lambda table: relabel(table, "test", "bee", "ant", 0),
    "intensity_drift": lambda table: shift(table, "mean", 1.0),
    "label_drift": lambda table: relabel(relabel(table, "test", "bee", "ant", 1), "test", "cat", "ant", 1),
}


def without(table: pd.DataFrame, split: str, values: str) -> pd.DataFrame:
    """Leave only some classes in the masks of a split."""
    table.loc[table["split"] == split, "mask_values"] = values
    return table


MASK_DEFECTS: dict[str, Defect] = {
    "mask_values": put("stray", 2),
    "mask_width": put("mask_width", 9),
    "mask_height": put("mask_height", 9),
    "mask_foreground": put("foreground", 0.0),
    "orientation_agrees": put("orientation_in_doubt", 1),
    "white_is_zero": put("white_in_doubt", 1),
    "foreground_drift": lambda table: shift(table, "foreground", 1.0),
    "classes_in_validation": lambda table: without(table, "validation", "0,2"),
    "classes_in_test": lambda table: without(table, "test", "0,1"),
    "targets_in_validation": lambda table: without(table, "validation", "255"),
    "targets_in_test": lambda table: without(table, "test", ""),
}
NO_TARGETS = {"targets_in_validation": ["classes_in_validation"], "targets_in_test": ["classes_in_test"]}
"""Where no class stands, none of each does."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fresh_context(great_expectations(), tmp_path_factory.mktemp("gx") / "gx")


def failed(table: pd.DataFrame, kind: str, context: Any) -> list[str]:
    info = sound(kind)[1]
    results = run_tables(great_expectations(), context, tables(table, info), suite(info, KNOBS), "planted")
    assert all(one["evaluated"] for one in results)
    return [one["name"] for one in results if not one["success"]]


@pytest.mark.parametrize("kind", ["label", "mask"])
def test_sound_data_meet_every_expectation(kind: str, context: Any) -> None:
    assert failed(sound(kind)[0], kind, context) == []


@pytest.mark.parametrize(
    ("kind", "share"),
    [("label", 0), *(pytest.param("label", one, marks=pytest.mark.slow) for one in (1, 2)), ("mask", 0)],
)
def test_defects_planted_together_fail_just_their_expectations(kind: str, share: int, context: Any) -> None:
    """Every third one, or those of masks: none of them hides another. Each alone is among the slow tests."""
    names = [*LABEL_DEFECTS][share::3] if kind == "label" else [*MASK_DEFECTS]
    table = sound(kind)[0]
    for name in names:
        table = (LABEL_DEFECTS if kind == "label" else MASK_DEFECTS)[name](table)
    assert sorted(failed(table, kind, context)) == sorted(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", LABEL_DEFECTS)
def test_a_planted_defect_of_labelled_images_fails_just_its_expectation(name: str, context: Any) -> None:
    table = LABEL_DEFECTS[name](sound("label")[0])
    assert failed(table, "label", context) == [name]


@pytest.mark.slow
@pytest.mark.parametrize("name", MASK_DEFECTS)
def test_a_planted_defect_of_masks_fails_just_its_expectation(name: str, context: Any) -> None:
    found = failed(MASK_DEFECTS[name](sound("mask")[0]), "mask", context)
    assert found == [*NO_TARGETS.get(name, ()), name]


@pytest.mark.parametrize("kind", ["multilabel", "boxes", "anomaly"])
def test_samples_to_hold_out_are_counted_by_class_whatever_the_kind(kind: Kind, tmp_path: Path) -> None:
    classes = CLASSES[:2] if kind == "anomaly" else CLASSES
    data = held_out(tmp_path, kind, classes, known=len(classes) - 1)
    table = pd.read_parquet(tmp_path / "manifest.parquet")
    if kind == "boxes":
        name_boxes(table, data)
    found = tables(table, data.info)["classes"]
    each = 12 // len(classes)
    assert list(found["test"]) == [each] * (len(classes) - 1) + [0]
    assert list(found["validation"]) == ([12, 0] if kind == "anomaly" else [each] * len(classes))
    severities = {one.name: one.severity for one in suite(data.info, Expectations())}
    assert severities["classes_in_test"] == ("critical" if kind == "anomaly" else "warning")
    assert severities.get("targets_in_test") == (None if kind == "anomaly" else "critical")


def held_out(folder: Path, kind: Kind, classes: tuple[str, ...], known: int) -> Dataset:
    """Write data of a kind whose test split has the first classes only."""
    groups = {}
    for split in ("train", "validation", "test", "reference"):
        some = 1 if kind == "anomaly" and split in ("train", "validation") else len(classes)
        labels = np.arange(12) % some
        if split == "test":
            labels[labels >= known] = -1
        if kind == "multilabel":
            targets = (labels[:, None] == np.arange(len(classes))).astype(np.uint8)
        elif kind == "boxes":
            targets = np.zeros((12, 2, 5), np.float32) + np.array([1, 1, 5, 5, -1], np.float32)
            targets[:, 0, 4] = labels
        else:
            targets = labels
        images = np.random.default_rng(len(groups)).integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
        groups[split] = Samples(images, targets, [f"{split}{index}" for index in range(12)])
    write_dataset(Fetched(kind, classes, groups, {}), dataset("digits"), "mine", folder)
    return Dataset.open(folder)


def test_every_built_in_expectation_has_a_planted_defect() -> None:
    built_in = {one.name for kind in ("label", "mask") for one in suite(sound(kind)[1], KNOBS)}
    assert built_in == {*LABEL_DEFECTS, *MASK_DEFECTS}


def write(folder: Path, table: pd.DataFrame, kind: str = "label") -> Path:
    folder.mkdir()
    sound(kind)[1].write(folder)
    table.to_parquet(folder / "manifest.parquet", index=False)
    (folder / "provenance.json").write_text('{"content_sha256": "of these"}', encoding="utf-8")
    return folder


def check(tmp_path: Path, table: pd.DataFrame, knobs: Expectations) -> dict[str, object]:
    folder = write(tmp_path / "data", table)
    report = tmp_path / "report.json"
    try:
        validate(folder, knobs, "mine", report, tmp_path / "gx")
    finally:
        found: dict[str, object] = json.loads(report.read_text(encoding="utf-8"))
    return found


def test_every_critical_failure_stops_with_a_sentence_and_example_rows(tmp_path: Path) -> None:
    with pytest.raises(GateError) as stop:
        check(tmp_path, put("minimum", -5)(put("maximum", 300)(sound("label")[0])), KNOBS)
    assert str(stop.value) == (
        "dataset 'mine': expected that no pixel value lies below 0 (lowest_value), but found 1 of 225 rows "
        "otherwise (-5); for example train/0.png\n"
        "dataset 'mine': expected that no pixel value lies above 255 (highest_value), but found 1 of 225 rows "
        "otherwise (300); for example train/0.png"
    )


@pytest.mark.slow
def test_a_warning_is_reported_and_does_not_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = check(tmp_path, put("std", 0.0)(sound("label")[0]), KNOBS)
    assert report["success"] is True
    assert (
        "warning: expected that no image is empty or of one value only (not_constant)"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_severities_can_be_raised_and_lowered_in_params(tmp_path: Path) -> None:
    strict = Expectations(min_per_class=20, severities={"not_constant": "critical"})
    with pytest.raises(GateError, match="not_constant"):
        check(tmp_path, put("std", 0.0)(sound("label")[0]), strict)
    lenient = Expectations(min_per_class=20, severities={"highest_value": "info"})
    (tmp_path / "second").mkdir()
    assert check(tmp_path / "second", put("maximum", 300)(sound("label")[0]), lenient)["success"] is True


def test_a_severity_of_an_unknown_expectation_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no expectation: 'not_constnat'; did you mean 'not_constant'"):
        suite(sound("label")[1], Expectations(severities={"not_constnat": "info"}))


def test_zero_expectations_evaluated_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lossbench.data.expectations.run.suite", lambda *_: [])
    with pytest.raises(GateError, match="no expectation was evaluated"):
        check(tmp_path, sound("label")[0], KNOBS)


EXTRA = """
- name: bright_enough
  type: ExpectColumnMeanToBeBetween
  arguments: {column: mean, min_value: 200}
  sentence: images are bright
  severity: %s
"""


def test_a_user_adds_expectations_in_yaml(tmp_path: Path) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text(EXTRA % "critical", encoding="utf-8")
    with pytest.raises(GateError, match=r"images are bright \(bright_enough\), but found 12"):
        check(tmp_path, sound("label")[0], Expectations(extra=str(extra)))


@pytest.mark.slow
def test_an_expectation_of_a_missing_column_counts_as_failed_not_as_met(tmp_path: Path) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text((EXTRA % "critical").replace("column: mean", "column: meen"), encoding="utf-8")
    with pytest.raises(GateError, match=r"bright_enough\), but found an error: .*meen"):
        check(tmp_path, sound("label")[0], Expectations(extra=str(extra)))


@each(
    ("text", "says"),
    [
        ("a: 1", "expected a list of expectations, found dict"),
        ("- 5", "entry 1 is 5; expected a mapping"),
        ("- {name: a, type: b}", "entry 1 has no 'arguments'"),
        ("- {name: a, type: b, arguments: 3}", "entry 1: arguments are 3; expected a mapping"),
        ("- {name: a, typ: b, arguments: {}}", "unknown key 'typ'; did you mean 'type'"),
        ("- {name: a, type: b, arguments: {}, severity: bad}", "severity is 'bad'"),
        ("- {name: a, type: b, arguments: {}, table: bad}", "table is 'bad'"),
        ("- [", "not valid YAML"),
    ],
)
def test_a_malformed_file_of_expectations_is_refused_in_a_sentence(
    text: str, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "extra.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_extra(file)
    assert says in str(refused.value)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("- {name: a, type: ExpectColumnMeanToBeBetwen, arguments: {column: mean}}",
         "no type 'ExpectColumnMeanToBeBetwen'; did you mean 'ExpectColumnMeanToBeBetween'"),
        ("- {name: a, type: ExpectColumnMeanToBeBetween, arguments: {colum: mean}}", "expectation 'a'"),
        ("- {name: schema, type: ExpectColumnMeanToBeBetween, arguments: {column: mean}}", "the name 'schema' is taken"),
    ],
)  # fmt: skip
def test_an_impossible_expectation_is_refused_in_a_sentence(entry: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "extra.yaml"
    file.write_text(entry, encoding="utf-8")
    folder = write(tmp_path / "data", sound("label")[0])
    with pytest.raises(UserError) as refused:
        validate(folder, Expectations(extra=str(file)), "mine", tmp_path / "r.json", tmp_path / "gx")
    assert says in str(refused.value)


@pytest.mark.slow
def test_the_report_is_the_same_in_two_runs_and_the_data_docs_are_built(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", sound("label")[0])
    for run in ("a", "b"):
        validate(folder, KNOBS, "mine", tmp_path / f"{run}.json", tmp_path / "gx")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert str(tmp_path) not in (tmp_path / "a.json").read_text(encoding="utf-8")
    site = tmp_path / "gx/gx/uncommitted/data_docs/local_site"
    assert (site / "index.html").is_file()
    assert list((site / "validations").rglob("*.html"))


@pytest.mark.slow
def test_the_stage_exits_with_1_for_bad_data_and_writes_passed_only_for_good(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    (tmp_path / "params.yaml").write_text(
        (root / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/digits", put("maximum", 300)(sound("label")[0]))
    ran = subprocess.run(
        [sys.executable, "-m", "lossbench.stages.validate", "digits"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert "refused: dataset 'digits': expected that no pixel value lies above 255" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert (tmp_path / "reports/validation/digits.json").is_file()
    assert not (tmp_path / "reports/validation/digits.passed").exists()


@pytest.mark.parametrize(
    ("text", "content", "said"),
    [
        ("~/own.yaml", EXTRA % "warning", None),
        ("own.yaml", EXTRA % "warning", None),
        ("~/none.yaml", None, "none.yaml: no such file"),
        ("~nobody-here/own.yaml", None, "expectations.extra' is '~nobody-here/own.yaml'"),
        ("own.yaml", "- 1", "entry 1 is 1"),
    ],
)
def test_a_users_own_expectations_are_found_and_read_by_check(
    text: str, content: str | None, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, home = tmp_path / "study", tmp_path / "home"
    for folder in (study, home):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    if content is not None:
        (home if text.startswith("~") else study).joinpath("own.yaml").write_text(content, encoding="utf-8")
    made = tiny_params()
    made["datasets"]["digits"]["expectations"] = {"extra": text}
    with nullcontext() if said is None else pytest.raises(UserError, match=said):
        check_params(parse_params(made), study=study)


@pytest.mark.parametrize(
    ("train", "other", "expected"),
    [([1] * 90, [0] * 30, 1.9), ([1] * 90, [1] * 30, 0.0), ([1] * 90, [1] * 29 + [2], 0.0), ([1], [1], 0.0)],
)
def test_a_column_that_is_constant_in_training_drifts_by_a_number_one_can_read(
    train: list[int], other: list[int], expected: float
) -> None:
    """One box in every image of it, say, and a test split without any."""
    splits = ["train"] * len(train) + ["test"] * len(other)
    columns = {"split": splits, "label": "a", "mean": 0.5, "boxes": [*train, *other]}
    (row,) = drift_table(pd.DataFrame(columns)).to_dict("records")
    assert row["boxes_drift"] == pytest.approx(expected, abs=0.1)
    assert row["intensity_drift"] == 0
