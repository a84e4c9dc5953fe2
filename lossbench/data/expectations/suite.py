"""What is expected of every dataset, and what a user adds.

An expectation has a name (users change its severity by it in ``expectations.severities``), a table, a
severity and a sentence. Critical ones stop the chain; warnings are reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lossbench.data.dataset import DatasetInfo
from lossbench.errors import UserError, nearest
from lossbench.params import Expectations

COLUMNS = (
    "id",
    "split",
    "index",
    "label",
    "width",
    "height",
    "channels",
    "minimum",
    "maximum",
    "mean",
    "std",
    "sha256",
    "target_sha256",
    "source",
)
MASK_COLUMNS = ("mask_width", "mask_height", "mask_values", "stray", "foreground")


@dataclass(frozen=True)
class Expected:
    """One expectation: a Great Expectations class by name, its arguments, and what it means."""

    name: str
    table: str
    type: str
    arguments: Mapping[str, Any]
    sentence: str
    severity: str = "critical"


def suite(info: DatasetInfo, knobs: Expectations) -> list[Expected]:
    """Collect the built-in expectations of a dataset and the user's own."""
    built_in = [*_shape(info), *_content(), *_targets(info, knobs), *_drift(info, knobs)]
    extra = read_extra(Path(knobs.extra)) if knobs.extra else []
    wanted = [*built_in, *extra]
    names = {one.name for one in wanted}
    for name in knobs.severities:
        if name not in names:
            raise UserError(
                f"params.yaml: 'expectations.severities' names no expectation: '{name}'; {nearest(name, names)}"
            )
    return [replace(one, severity=knobs.severities.get(one.name, one.severity)) for one in wanted]


def _shape(info: DatasetInfo) -> list[Expected]:
    columns = [*COLUMNS, *(MASK_COLUMNS if info.kind == "mask" else ())]
    return [
        Expected("schema", "samples", "ExpectTableColumnsToMatchSet", {"column_set": columns, "exact_match": False},
                 "the manifest has all its columns"),
        Expected("hashes_present", "samples", "ExpectColumnValuesToNotBeNull", {"column": "sha256"},
                 "every sample has a content hash"),
        Expected("unique_ids", "samples", "ExpectColumnValuesToBeUnique", {"column": "id"},
                 "no two samples share an id"),
        Expected("same_width", "samples", "ExpectColumnUniqueValueCountToBeBetween",
                 {"column": "width", "min_value": 1, "max_value": 1}, "all images were equally wide", "warning"),
        Expected("same_height", "samples", "ExpectColumnUniqueValueCountToBeBetween",
                 {"column": "height", "min_value": 1, "max_value": 1}, "all images were equally high", "warning"),
        Expected("same_channels", "samples", "ExpectColumnUniqueValueCountToBeBetween",
                 {"column": "channels", "min_value": 1, "max_value": 1}, "all images have as many channels", "warning"),
    ]  # fmt: skip


def _content() -> list[Expected]:
    return [
        Expected("value_range", "samples", "ExpectColumnValuesToBeBetween",
                 {"column": "maximum", "min_value": 0, "max_value": 255}, "pixel values lie between 0 and 255"),
        Expected("not_constant", "samples", "ExpectColumnValuesToBeBetween",
                 {"column": "std", "min_value": 0, "strict_min": True}, "no image is empty or of one value only",
                 "warning"),
        Expected("no_duplicates_across_splits", "samples", "ExpectColumnValuesToBeBetween",
                 {"column": "splits_of_content", "max_value": 1}, "no image stands in two splits"),
        Expected("no_duplicates_within_split", "samples", "ExpectCompoundColumnsToBeUnique",
                 {"column_list": ["split", "sha256"]}, "no image stands twice in a split", "warning"),
    ]  # fmt: skip


def _targets(info: DatasetInfo, knobs: Expectations) -> list[Expected]:
    found = [
        Expected("min_per_class", "classes", "ExpectColumnValuesToBeBetween",
                 {"column": "train", "min_value": knobs.min_per_class},
                 f"every class has at least {knobs.min_per_class} training targets"),
    ]  # fmt: skip
    if info.kind == "label":
        found.append(
            Expected("label_set", "samples", "ExpectColumnValuesToBeInSet",
                     {"column": "label", "value_set": list(info.classes)}, "every label is a known class")
        )  # fmt: skip
        found.append(
            Expected("labels_present", "samples", "ExpectColumnValuesToNotBeNull", {"column": "label"},
                     "every sample has a label")
        )  # fmt: skip
    if info.kind == "mask":
        found += [
            Expected("mask_values", "samples", "ExpectColumnValuesToBeBetween",
                     {"column": "stray", "min_value": 0, "max_value": 0}, "masks hold known classes only"),
            Expected("mask_width", "samples", "ExpectColumnPairValuesToBeEqual",
                     {"column_A": "width", "column_B": "mask_width"}, "masks are as wide as their images"),
            Expected("mask_height", "samples", "ExpectColumnPairValuesToBeEqual",
                     {"column_A": "height", "column_B": "mask_height"}, "masks are as high as their images"),
            Expected("mask_foreground", "samples", "ExpectColumnValuesToBeBetween",
                     {"column": "foreground", "min_value": 0, "strict_min": True}, "no mask is empty", "warning"),
        ]  # fmt: skip
    return found


def _drift(info: DatasetInfo, knobs: Expectations) -> list[Expected]:
    found = [
        Expected("intensity_drift", "drift", "ExpectColumnValuesToBeBetween",
                 {"column": "intensity_drift", "max_value": knobs.max_intensity_drift},
                 f"mean intensity differs between splits by at most {knobs.max_intensity_drift:g} sd", "warning"),
    ]  # fmt: skip
    if info.kind == "label":
        found.append(
            Expected("label_drift", "drift", "ExpectColumnValuesToBeBetween",
                     {"column": "label_drift", "max_value": knobs.max_share_drift},
                     f"label shares differ between splits by at most {knobs.max_share_drift:g}", "warning")
        )  # fmt: skip
    return found


def read_extra(file: Path) -> list[Expected]:
    """Read a user's expectations: a YAML list of {name, table, type, arguments, sentence, severity}.

    Raises:
        UserError: naming the file, the entry and what is missing or unknown.

    """
    try:
        entries = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file (named by 'expectations.extra')") from None
    except (UnicodeDecodeError, YAMLError) as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list):
        raise UserError(f"{file}: expected a list of expectations, found {type(entries).__name__}")
    return [_read_entry(entry, file, number) for number, entry in enumerate(entries, 1)]


def _read_entry(entry: Any, file: Path, number: int) -> Expected:
    allowed = {"name", "table", "type", "arguments", "sentence", "severity"}
    if not isinstance(entry, dict):
        raise UserError(
            f"{file}: entry {number} is {entry!r}; expected a mapping with name, type and arguments"
        )
    for key in entry:
        if key not in allowed:
            raise UserError(
                f"{file}: entry {number} has an unknown key '{key}'; {nearest(str(key), allowed)}"
            )
    for key in ("name", "type", "arguments"):
        if key not in entry:
            raise UserError(f"{file}: entry {number} has no '{key}'")
    severity = entry.get("severity", "critical")
    if severity not in ("critical", "warning", "info"):
        raise UserError(f"{file}: entry {number}: severity is '{severity}'; allowed: critical, info, warning")
    table = entry.get("table", "samples")
    if table not in ("samples", "classes", "drift"):
        raise UserError(f"{file}: entry {number}: table is '{table}'; allowed: classes, drift, samples")
    return Expected(
        entry["name"],
        table,
        entry["type"],
        entry["arguments"],
        entry.get("sentence", entry["name"]),
        severity,
    )
