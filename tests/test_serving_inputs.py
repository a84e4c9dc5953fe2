"""What goes into a model is what was stored: everything else is refused and named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples

from lossbench.data.dataset import DatasetInfo
from lossbench.errors import UserError
from lossbench.serving.inputs import checked_inputs
from lossbench.serving.logged import _span

IMAGES = DatasetInfo("label", ("a", "b"), (1, 2, 2), (), (0.5,), (0.2,), (1, 1), {"train": 2})
TOKENS = DatasetInfo("tokens", ("<unk>", "x", "y"), (4,), (4,), (0.0,), (1.0,), (1, 1, 1), {"train": 2})
VALUES = st.one_of(
    st.integers(-300, 600),
    st.booleans(),
    st.floats(allow_nan=True),
    st.sampled_from(["12", "", "NaN", None, {}, [], [1], 10**30]),
)


def right(value, high):
    return type(value) is int and 0 <= value <= high


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(VALUES, min_size=4, max_size=4))
def test_images_are_taken_if_and_only_if_every_value_is_a_whole_number_from_0_to_255(values):
    given_ = [[[values[:2], values[2:]]]]
    if all(right(one, 255) for one in values):
        found = checked_inputs(given_, IMAGES, "uint8")
        assert found.dtype == np.uint8
        assert found.tolist() == given_
        return
    with pytest.raises(
        UserError, match=r"inputs.*this model takes \(N, 1, 2, 2\) of uint8: whole numbers from 0 to 255"
    ):
        checked_inputs(given_, IMAGES, "uint8")


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.integers(-2, 6), min_size=4, max_size=4))
def test_tokens_are_numbers_of_the_vocabulary(values):
    if all(0 <= one <= 2 for one in values):
        assert checked_inputs([values], TOKENS, "int64").tolist() == [values]
    else:
        with pytest.raises(UserError, match="from 0 to 2"):
            checked_inputs([values], TOKENS, "int64")


@each(
    ("sent", "named"),
    [
        ((np.arange(4) / 255).reshape(1, 1, 2, 2), "dtype float64"),
        ((np.arange(4) / 255).reshape(1, 1, 2, 2).tolist(), "a fraction"),
        ([[[[0.0, 1.0], [1.0, 0.0]]]], "a fraction"),  # black and white, divided by 255
        (np.ones((1, 1, 2, 2), dtype=bool), "dtype bool"),
        ([[[[True, 5], [6, 7]]]], "a truth value"),
        ([[[["1", 5], [6, 7]]]], "text"),
        ([[[[None, 5], [6, 7]]]], "null"),
        ([[[[1], [6, 7]]]], "differ in length"),
        ([[1, 2, 3]], "shape"),
        ([], "shape"),
        ("text", "text"),
        (7, "a number"),
        ([[[[256, 5], [6, 7]]]], "from 5 to 256"),
        (np.full((1, 1, 2, 2), -1), "from -1 to -1"),
        (np.full((1, 2, 2), 1, dtype=np.uint8), "shape"),
    ],
)
def test_a_refusal_names_what_was_found(sent, named):
    with pytest.raises(UserError, match=named):
        checked_inputs(sent, IMAGES, "uint8")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_whole_numbers_of_any_width_are_the_same_image(dtype):
    sent = np.arange(4, dtype=dtype).reshape(1, 1, 2, 2)
    assert checked_inputs(sent, IMAGES, "uint8").tolist() == sent.tolist()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 10**400])
def test_a_model_of_fractions_takes_finite_ones(wrong):
    assert checked_inputs([[[[0.5, 1], [2, 3]]]], IMAGES, "float32").dtype == np.float32
    with pytest.raises(UserError, match="finite numbers"):
        checked_inputs([[[[wrong, 1], [2, 3]]]], IMAGES, "float32")


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.floats(-0.5, 2, width=32), min_size=4, max_size=4))
def test_images_of_fractions_are_taken_within_the_range_that_was_stored(values):
    """Nobody is told a class of an image that was not divided by 255."""
    sent = [[[values[:2], values[2:]]]]
    assert checked_inputs(sent, IMAGES, "float32").shape == (
        1,
        1,
        2,
        2,
    )  # of a source with a range of its own
    if all(0 <= one <= 1 for one in values):
        assert checked_inputs(sent, IMAGES, "float32", (0, 1)).ravel().tolist() == values
    else:
        with pytest.raises(UserError, match="numbers from 0 to 1, as stored"):
            checked_inputs(sent, IMAGES, "float32", (0, 1))


@each("dtype", ["uint8", "float32"])
@each("depth", [1, 4, 31, 33, 63, 64, 65, 400])
@each("innermost", [1, True, "x", None, [], [[], []], [1, [2]], 10**400])
def test_nested_lists_of_any_depth_are_refused_in_a_sentence(dtype, depth, innermost):
    sent = innermost
    for _ in range(depth):
        sent = [sent]
    with pytest.raises(UserError, match="this model takes") as refused:
        checked_inputs(sent, IMAGES, dtype)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("stored", "span"),
    [
        (np.zeros((3, 1, 2, 2), np.uint8), None),
        (np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 1, 2, 2), (0.0, 1.0)),
        (np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 1, 2, 2), None),
        (np.linspace(0, 1.01, 1200, dtype=np.float32).reshape(300, 1, 2, 2), None),
    ],
)
def test_the_range_is_known_where_stored_images_keep_to_it(stored, span):
    assert _span(stored) == span
