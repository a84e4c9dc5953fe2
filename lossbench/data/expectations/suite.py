"""What is expected of every dataset, and what a user adds.

An expectation has a name (users change its severity by it in ``expectations.severities``), a table, a
severity and a sentence. Critical ones stop the chain; warnings are reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lossbench.data.dataset import DatasetInfo, full_scale
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
TOKEN_COLUMNS = ("unknown", "stray")
MOST_UNKNOWN = 0.2
"""Share of tokens beyond the vocabulary from which on a text is hardly what is modelled."""
BOX_COLUMNS = ("boxes", "stray_boxes", "dropped_boxes")
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


def suite(info: DatasetInfo, knobs: Expectations, extra: Sequence[Expected] = ()) -> list[Expected]:
    """Collect the built-in expectations of a dataset and the user's own.

    Raises:
        UserError: if a severity is set for an expectation that does not exist, or a name stands twice.

    """
    if info.kind == "tokens":
        built_in = _tokens(info, knobs)
    else:
        built_in = [*_shape(info), *_content(info), *_targets(info, knobs), *_drift(info, knobs)]
    wanted = [*built_in, *extra]
    names = {one.name for one in wanted}
    for one in extra:
        if sum(other.name == one.name for other in wanted) > 1:
            raise UserError(f"{knobs.extra}: the name '{one.name}' is taken; give the expectation another")
    for name in knobs.severities:
        if name not in names:
            raise UserError(
                f"params.yaml: 'expectations.severities' names no expectation: '{name}'; "
                f"{nearest(name, names)}"
            )
    return [replace(one, severity=knobs.severities.get(one.name, one.severity)) for one in wanted]


def _tokens(info: DatasetInfo, knobs: Expectations) -> list[Expected]:
    """What is expected of windows of text: much of what is said of images makes no sense for them."""
    kept = ("schema", "hashes_present", "unique_ids")
    return [
        *(one for one in _shape(info) if one.name in kept),
        Expected(
            "same_width",
            "samples",
            "ExpectColumnUniqueValueCountToBeBetween",
            {"column": "width", "min_value": 1, "max_value": 1},
            "all windows are equally long",
        ),
        Expected(
            "tokens_known",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "stray", "min_value": 0, "max_value": 0},
            "every token is one of the vocabulary",
        ),
        Expected(
            "not_constant",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "std", "min_value": 0, "strict_min": True},
            "no window repeats one token only",
            "warning",
        ),
        Expected(
            "no_duplicates_across_splits",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "splits_of_content", "max_value": 1},
            "no window stands in two splits",
            "warning",
        ),
        Expected(
            "no_duplicates_within_split",
            "samples",
            "ExpectCompoundColumnsToBeUnique",
            {"column_list": ["split", "sha256"]},
            "no window stands twice in a split",
            "warning",
        ),
        Expected(
            "few_unknown",
            "samples",
            "ExpectColumnMeanToBeBetween",
            {"column": "unknown", "max_value": MOST_UNKNOWN},
            f"at most {MOST_UNKNOWN:.0%} of all tokens lie outside the vocabulary",
            "warning",
        ),
        Expected(
            "unknown_drift",
            "drift",
            "ExpectColumnValuesToBeBetween",
            {"column": "unknown_drift", "max_value": knobs.max_share_drift},
            f"the share of unknown tokens differs between splits by at most {knobs.max_share_drift:g}",
            "warning",
        ),
    ]


def _shape(info: DatasetInfo) -> list[Expected]:
    further = {"mask": MASK_COLUMNS, "tokens": TOKEN_COLUMNS, "boxes": BOX_COLUMNS}
    columns = [*COLUMNS, *further.get(info.kind, ())]
    return [
        Expected(
            "schema",
            "samples",
            "ExpectTableColumnsToMatchSet",
            {"column_set": columns, "exact_match": False},
            "the manifest has all its columns",
        ),
        Expected(
            "hashes_present",
            "samples",
            "ExpectColumnValuesToNotBeNull",
            {"column": "sha256"},
            "every sample has a content hash",
        ),
        Expected(
            "unique_ids",
            "samples",
            "ExpectColumnValuesToBeUnique",
            {"column": "id"},
            "no two samples share an id",
        ),
        Expected(
            "same_width",
            "samples",
            "ExpectColumnUniqueValueCountToBeBetween",
            {"column": "width", "min_value": 1, "max_value": 1},
            "all images were equally wide",
            "warning",
        ),
        Expected(
            "same_height",
            "samples",
            "ExpectColumnUniqueValueCountToBeBetween",
            {"column": "height", "min_value": 1, "max_value": 1},
            "all images were equally high",
            "warning",
        ),
        Expected(
            "same_channels",
            "samples",
            "ExpectColumnUniqueValueCountToBeBetween",
            {"column": "channels", "min_value": 1, "max_value": 1},
            "all images have as many channels",
            "warning",
        ),
    ]


LEAST_RANGE = 0.25
"""Share of the values between black and white that most images should use: 12 bits in 16 use a sixteenth."""


def _content(info: DatasetInfo) -> list[Expected]:
    white = full_scale(info.dtype)
    return [
        Expected(
            "lowest_value",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "minimum", "min_value": 0},
            "no pixel value lies below 0",
        ),
        Expected(
            "highest_value",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "maximum", "max_value": white},
            f"no pixel value lies above {white}",
        ),
        Expected(
            "range_used",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "range_used", "min_value": LEAST_RANGE, "mostly": 0.5},
            f"most images use at least {LEAST_RANGE:g} of the range of their values (fewer bits than stored? say "
            "'range: [lowest, highest]')",
            "warning",
        ),
        Expected(
            "not_constant",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "std", "min_value": 0, "strict_min": True},
            "no image is empty or of one value only",
            "warning",
        ),
        Expected(
            "no_duplicates_across_splits",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "splits_of_content", "max_value": 1},
            "no image stands in two splits",
        ),
        Expected(
            "no_duplicates_within_split",
            "samples",
            "ExpectCompoundColumnsToBeUnique",
            {"column_list": ["split", "sha256"]},
            "no image stands twice in a split",
            "warning",
        ),
    ]


def _targets(info: DatasetInfo, knobs: Expectations) -> list[Expected]:
    found = [
        Expected(
            "min_per_class",
            "classes",
            "ExpectColumnValuesToBeBetween",
            {"column": "train", "min_value": knobs.min_per_class},
            f"every class has at least {knobs.min_per_class} training targets",
        ),
    ]
    if info.kind == "label":
        found.append(
            Expected(
                "label_set",
                "samples",
                "ExpectColumnValuesToBeInSet",
                {"column": "label", "value_set": list(info.classes)},
                "every label is a known class",
            )
        )
        found.append(
            Expected(
                "labels_present",
                "samples",
                "ExpectColumnValuesToNotBeNull",
                {"column": "label"},
                "every sample has a label",
            )
        )
        found += [
            Expected(
                f"classes_in_{split}",
                "classes",
                "ExpectColumnValuesToBeBetween",
                {"column": split, "min_value": 1},
                f"every class stands in the {split} split",
                "warning",
            )
            for split in ("validation", "test")
        ]
    if info.kind == "mask":
        found += [
            Expected(
                "mask_values",
                "samples",
                "ExpectColumnValuesToBeBetween",
                {"column": "stray", "min_value": 0, "max_value": 0},
                "masks hold known classes only",
            ),
            Expected(
                "mask_width",
                "samples",
                "ExpectColumnPairValuesToBeEqual",
                {"column_A": "width", "column_B": "mask_width"},
                "masks are as wide as their images",
            ),
            Expected(
                "mask_height",
                "samples",
                "ExpectColumnPairValuesToBeEqual",
                {"column_A": "height", "column_B": "mask_height"},
                "masks are as high as their images",
            ),
            Expected(
                "mask_foreground",
                "samples",
                "ExpectColumnValuesToBeBetween",
                {"column": "foreground", "min_value": 0, "strict_min": True},
                "no mask is empty",
                "warning",
            ),
        ]
    if info.kind == "boxes":
        found += _boxes()
    if info.kind in ("mask", "boxes"):
        found.append(
            Expected(
                "orientation_agrees",
                "samples",
                "ExpectColumnValuesToBeBetween",
                {"column": "orientation_in_doubt", "max_value": 0},
                "an image is tagged to be turned (EXIF orientation) only if its mask is too, and none with boxes, "
                "unless 'orientation: apply' or 'ignore' is declared",
                "warning",
            )
        )
    return found


def _boxes() -> list[Expected]:
    return [
        Expected(
            "boxes_inside",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "stray_boxes", "min_value": 0, "max_value": 0},
            "boxes lie inside their images, have an area and a known class",
        ),
        Expected(
            "boxes_have_area",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "dropped_boxes", "min_value": 0, "max_value": 0},
            "every annotated box has an area (those without were left out)",
            "warning",
        ),
        Expected(
            "boxes_within",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "clipped_boxes", "max_value": 0},
            "no annotated box reaches beyond its image (those that did were cut off at its edge)",
            "warning",
        ),
        Expected(
            "boxes_once",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "repeated_boxes", "max_value": 0},
            "no box stands twice in an image",
            "warning",
        ),
        Expected(
            "boxes_present",
            "samples",
            "ExpectColumnValuesToBeBetween",
            {"column": "boxes", "min_value": 1},
            "every image has a box",
            "warning",
        ),
    ]


def _drift(info: DatasetInfo, knobs: Expectations) -> list[Expected]:
    found = [
        Expected(
            "intensity_drift",
            "drift",
            "ExpectColumnValuesToBeBetween",
            {"column": "intensity_drift", "max_value": knobs.max_intensity_drift},
            f"mean intensity differs between splits by at most {knobs.max_intensity_drift:g} sd",
            "warning",
        ),
    ]
    if info.kind == "mask":
        found.append(
            Expected(
                "foreground_drift",
                "drift",
                "ExpectColumnValuesToBeBetween",
                {"column": "foreground_drift", "max_value": knobs.max_intensity_drift},
                f"mean foreground differs between splits by at most {knobs.max_intensity_drift:g} sd",
                "warning",
            )
        )
    if info.kind == "label":
        found.append(
            Expected(
                "label_drift",
                "drift",
                "ExpectColumnValuesToBeBetween",
                {"column": "label_drift", "max_value": knobs.max_share_drift},
                f"label shares differ between splits by at most {knobs.max_share_drift:g}",
                "warning",
            )
        )
    if info.kind == "boxes":
        found.append(
            Expected(
                "boxes_drift",
                "drift",
                "ExpectColumnValuesToBeBetween",
                {"column": "boxes_drift", "max_value": knobs.max_intensity_drift},
                f"mean boxes per image differ between splits by at most {knobs.max_intensity_drift:g} sd",
                "warning",
            )
        )
    return found
