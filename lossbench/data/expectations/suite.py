"""What is expected of every dataset, and what a user adds.

An expectation has a name (users change its severity by it in ``expectations.severities``), a table, a
severity and a sentence. Critical ones stop the chain; warnings are reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lossbench.data.dataset import DatasetInfo, full_scale
from lossbench.data.kinds import KINDS
from lossbench.errors import UserError, nearest
from lossbench.params import Expectations

COLUMNS = (
    "id", "split", "index", "label", "width", "height", "channels", "minimum", "maximum", "mean", "std",
    "sha256", "target_sha256", "source",
)  # fmt: skip
"""Of every manifest."""
MOST_UNKNOWN = 0.2
"""Share of tokens beyond the vocabulary from which on a text is hardly what is modelled."""
LEAST_RANGE = 0.25
"""Share of the values between black and white that an image should use: 12 bits in 16 use a sixteenth."""


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
    wanted = [*built_in(info, knobs), *extra]
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


Check = tuple[str, Mapping[str, Any]]
"""A Great Expectations class, and its arguments beside the column."""
BETWEEN = "ExpectColumnValuesToBeBetween"
PAIR = "ExpectColumnPairValuesToBeEqual"
PRESENT: Check = ("ExpectColumnValuesToNotBeNull", {})
UNIQUE: Check = ("ExpectColumnValuesToBeUnique", {})
ONE_VALUE: Check = ("ExpectColumnUniqueValueCountToBeBetween", {"min_value": 1, "max_value": 1})
NONE: Check = (BETWEEN, {"min_value": 0, "max_value": 0})
ANY: Check = ("ExpectColumnMaxToBeBetween", {"min_value": 1})
POSITIVE: Check = (BETWEEN, {"min_value": 0, "strict_min": True})
ONCE_A_SPLIT: Check = ("ExpectCompoundColumnsToBeUnique", {"column_list": ["split", "sha256"]})


def at_least(bound: float, **further: Any) -> Check:
    """Bound a column's values from below."""
    return BETWEEN, {"min_value": bound, **further}


def at_most(bound: float) -> Check:
    """Bound a column's values from above."""
    return BETWEEN, {"max_value": bound}


def built_in(info: DatasetInfo, knobs: Expectations) -> list[Expected]:
    """Collect the rows of :func:`_rows` that hold for the dataset's kind, in the report's order."""
    found = []
    for kinds, severity, name, place, (kind, arguments), sentence in _rows(info, knobs):
        if info.kind in kinds.split():
            table, _, column = place.partition(".")
            named = {"column": column} if column else {}
            found.append(Expected(name, table, kind, {**named, **arguments}, sentence, severity))
    return found


def _rows(info: DatasetInfo, knobs: Expectations) -> list[tuple[str, str, str, str, Check, str]]:
    """Return all rows: kinds, severity, name, table and column, what is expected there, and the sentence."""
    images = " ".join(kind for kind in KINDS if kind != "tokens")
    every, stop, warn = f"{images} tokens", "critical", "warning"
    several, named = "mask multilabel boxes", "label mask multilabel boxes"
    few, shares, means = knobs.min_per_class, knobs.max_share_drift, knobs.max_intensity_drift
    white, columns = full_scale(info.dtype), [*COLUMNS, *KINDS[info.kind].always]
    return [
        (every, stop, "schema", "samples",
         ("ExpectTableColumnsToMatchSet", {"column_set": columns, "exact_match": False}),
         "the manifest has all its columns"),
        (every, stop, "hashes_present", "samples.sha256", PRESENT, "every sample has a content hash"),
        (every, stop, "unique_ids", "samples.id", UNIQUE, "no two samples share an id"),
        ("tokens", stop, "same_width", "samples.width", ONE_VALUE, "all windows are equally long"),
        ("tokens", stop, "tokens_known", "samples.stray", NONE, "every token is one of the vocabulary"),
        ("tokens", warn, "not_constant", "samples.std", POSITIVE, "no window repeats one token only"),
        ("tokens", warn, "no_duplicates_across_splits", "samples.splits_of_content", at_most(1),
         "no window stands in two splits"),
        ("tokens", warn, "no_duplicates_within_split", "samples", ONCE_A_SPLIT,
         "no window stands twice in a split"),
        ("tokens", warn, "few_unknown", "samples.unknown",
         ("ExpectColumnMeanToBeBetween", {"max_value": MOST_UNKNOWN}),
         f"at most {MOST_UNKNOWN:.0%} of all tokens lie outside the vocabulary"),
        ("tokens", warn, "unknown_drift", "drift.unknown_drift", at_most(shares),
         f"the share of unknown tokens differs between splits by at most {shares:g}"),
        (images, warn, "same_width", "samples.width", ONE_VALUE, "all images were equally wide"),
        (images, warn, "same_height", "samples.height", ONE_VALUE, "all images were equally high"),
        (images, warn, "same_channels", "samples.channels", ONE_VALUE, "all images have as many channels"),
        (images, stop, "lowest_value", "samples.minimum", at_least(0), "no pixel value lies below 0"),
        (images, stop, "highest_value", "samples.maximum", at_most(white),
         f"no pixel value lies above {white}"),
        (images, warn, "range_used", "samples.range_used", at_least(LEAST_RANGE),
         f"every image uses at least {LEAST_RANGE:g} of the range of its values (fewer bits than "
         "stored? say 'range: [lowest, highest]')"),
        (images, warn, "values_within", "samples.clipped_values", at_most(0),
         "no pixel value lies beyond the declared 'range' (those that did were clipped)"),
        (images, warn, "not_constant", "samples.std", POSITIVE, "no image is empty or of one value only"),
        (images, stop, "no_duplicates_across_splits", "samples.splits_of_content", at_most(1),
         "no image stands in two splits"),
        (images, warn, "no_duplicates_within_split", "samples", ONCE_A_SPLIT,
         "no image stands twice in a split"),
        (images, stop, "min_per_class", "classes.train", at_least(few),
         f"every class has at least {few} training targets"),
        ("label", stop, "label_set", "samples.label",
         ("ExpectColumnValuesToBeInSet", {"value_set": list(info.classes)}),
         "every label is a known class"),
        ("label", stop, "labels_present", "samples.label", PRESENT, "every sample has a label"),
        (named, warn, "classes_in_validation", "classes.validation", at_least(1),
         "every class stands in the validation split"),
        (named, warn, "classes_in_test", "classes.test", at_least(1),
         "every class stands in the test split (means over classes leave it out, or count it as 0)"),
        ("anomaly", stop, "classes_in_test", "classes.test", at_least(1),
         "the test split has both normal samples and anomalies (else all losses score alike)"),
        (several, stop, "targets_in_validation", "classes.validation", ANY,
         "some class stands in the validation split (else no metric says anything)"),
        (several, stop, "targets_in_test", "classes.test", ANY,
         "some class stands in the test split (else no metric says anything)"),
        ("mask", stop, "mask_values", "samples.stray", NONE, "masks hold known classes only"),
        ("mask", stop, "mask_width", "samples", (PAIR, {"column_A": "width", "column_B": "mask_width"}),
         "masks are as wide as their images"),
        ("mask", stop, "mask_height", "samples", (PAIR, {"column_A": "height", "column_B": "mask_height"}),
         "masks are as high as their images"),
        ("mask", warn, "mask_foreground", "samples.foreground", POSITIVE, "no mask is empty"),
        ("mask", warn, "white_is_zero", "samples.white_in_doubt", at_most(0),
         "no mask is a TIFF that calls 0 white (it is read as viewers show it, black as 0), unless "
         "'white_is_zero: apply' or 'ignore' is declared"),
        ("boxes", stop, "boxes_inside", "samples.stray_boxes", NONE,
         "boxes lie inside their images, have an area and a known class"),
        ("boxes", warn, "boxes_have_area", "samples.dropped_boxes", NONE,
         "every annotated box has an area (those without were left out)"),
        ("boxes", warn, "boxes_within", "samples.clipped_boxes", at_most(0),
         "no annotated box reaches beyond its image (those that did were cut off at its edge)"),
        ("boxes", warn, "boxes_once", "samples.repeated_boxes", at_most(0),
         "no box stands twice in an image"),
        ("boxes", warn, "boxes_present", "samples.boxes", at_least(1), "every image has a box"),
        ("mask boxes", warn, "orientation_agrees", "samples.orientation_in_doubt", at_most(0),
         "an image is tagged to be turned (EXIF orientation) only if its mask is too, and none with "
         "boxes, unless 'orientation: apply' or 'ignore' is declared"),
        (images, warn, "intensity_drift", "drift.intensity_drift", at_most(means),
         f"mean intensity differs between splits by at most {means:g} sd"),
        ("mask", warn, "foreground_drift", "drift.foreground_drift", at_most(means),
         f"mean foreground differs between splits by at most {means:g} sd"),
        ("label", warn, "label_drift", "drift.label_drift", at_most(shares),
         f"label shares differ between splits by at most {shares:g}"),
        ("boxes", warn, "boxes_drift", "drift.boxes_drift", at_most(means),
         f"mean boxes per image differ between splits by at most {means:g} sd"),
    ]  # fmt: skip
