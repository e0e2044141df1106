"""What the engine does to property bags: floats for numbers, unknowns in previews."""

import pytest
from pulumi.output import UNKNOWN
from pulumi.runtime import rpc

from sync.providers.props import changed_inputs, integer, normal, unknown


def test_a_number_that_became_a_float_is_the_integer_again() -> None:
    assert integer(45.0) == 45
    assert isinstance(integer(45.0), int)


@pytest.mark.parametrize("wrong", [45.5, "45", True, None])
def test_what_is_no_whole_number_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        integer(wrong)


def test_floats_compare_equal_to_the_integers_they_were() -> None:
    assert normal({"a": [1.0, {"b": 2.5}], "__provider": "x"}) == {"a": [1, {"b": 2.5}]}


@pytest.mark.parametrize("value", [UNKNOWN, rpc.UNKNOWN])
def test_an_unknown_is_found_at_any_depth(value: object) -> None:
    assert unknown({"files": [{"content": value}]})
    assert not unknown({"files": [{"content": "known"}]})


def test_an_unknown_input_counts_as_changed_and_a_float_does_not() -> None:
    olds = {"a": 1.0, "b": "x", "c": [2.0]}
    news = {"a": 1, "b": UNKNOWN, "c": [2]}
    assert changed_inputs(("a", "b", "c"), olds, news) == ["b"]
