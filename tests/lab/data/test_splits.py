"""Splits by patient that hold for ever."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.lab.config import SplitConfig
from ml_core.lab.data.splits import PARTS, place_of, split_of

# printf 'surety-split-1:135' | sha256sum begins with 5ed0d2f8e84fd765, so place = 0x5ed0... / 2^64 = 0.3704, and so on.
BY_HAND = {
    135: ("5ed0d2f8e84fd765", "train"),
    3069: ("9689d7cbf7a87e88", "validation"),
    1152: ("9c38c3b0d8d7af95", "calibration"),
    774: ("cbf0a2d2c6f925ac", "calibration"),
    378: ("e271d52d47a5ee7e", "test"),
    927: ("e8d32f5f149f7d3a", "test"),
}


def test_places_and_parts_are_those_worked_out_by_hand():
    for group, (digest, _) in BY_HAND.items():
        assert place_of(group, "surety-split-1") == pytest.approx(int(digest, 16) / 2**64, abs=2**-52)
    assert split_of(list(BY_HAND), SplitConfig()).tolist() == [part for _, part in BY_HAND.values()]


def test_a_number_and_its_text_are_the_same_patient():
    numbers = np.arange(1, 500)
    for same in (numbers.astype(str), numbers.astype(float), numbers.astype(object)):
        assert (split_of(numbers, SplitConfig()) == split_of(same, SplitConfig())).all()


@given(groups=st.lists(st.integers(1, 50), min_size=1, max_size=60), data=st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_patient_stays_whole_and_stays_put_whatever_else_is_there(groups, data):
    parts = split_of(groups, SplitConfig())
    order = data.draw(st.permutations(range(len(groups))))
    assert parts[order].tolist() == split_of([groups[i] for i in order], SplitConfig()).tolist()
    some = data.draw(st.integers(1, len(groups)))
    assert split_of(groups[:some], SplitConfig()).tolist() == parts[:some].tolist()


def test_parts_have_their_shares():
    parts = split_of(np.arange(100_000), SplitConfig())
    share = {part: float((parts == part).mean()) for part in PARTS}
    # five standard deviations of a binomial share at n = 100,000
    assert share == pytest.approx({"train": 0.5, "validation": 0.1, "calibration": 0.2, "test": 0.2}, abs=0.008)


def test_another_salt_is_another_split():
    groups = np.arange(10_000)
    a, b = (split_of(groups, SplitConfig(salt=salt)) for salt in ("surety-split-1", "surety-split-2"))
    assert 0.30 < float((a == b).mean()) < 0.38  # independent: 0.5^2 + 0.1^2 + 0.2^2 + 0.2^2 = 0.34
