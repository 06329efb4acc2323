"""The name that was meant is told, whatever was typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.near_names import meant, plain_name

KNOWN = ["max_depth", "learning_rate", "mean radius"]


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("max_dept", "max_depth"),
        ("LearningRate", "learning_rate"),
        ("Mean_Radius", "mean radius"),
        ("learn_rate", "learning_rate"),
    ],
)
def test_the_nearest_name_is_told(typed, near):
    assert meant(typed, KNOWN) == f"{near} is meant?"


def test_without_a_near_one_the_known_ones_are_listed_and_not_too_many():
    assert meant("x", KNOWN) == "known are learning_rate, max_depth, mean radius"
    assert meant("x", [f"name_{i:02}" for i in range(30)]).endswith("name_11 …")
    assert meant("x", []) == ""


@given(typed=st.text(max_size=300) | st.integers() | st.none(), known=st.lists(st.text(max_size=20), max_size=5))
def test_whatever_is_typed_there_is_an_answer(typed, known):
    assert isinstance(meant(typed, known), str)


@given(name=st.text(max_size=40))
def test_a_known_name_is_its_own_nearest(name):
    assert meant(name, [name]) == f"{name} is meant?"
    assert plain_name(plain_name(name)) == plain_name(name)
