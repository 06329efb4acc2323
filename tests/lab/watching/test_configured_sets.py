"""Sets of stored answers at the configured level, of answers of several calibrations in one go."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from ml_core.lab.measuring.live_coverage import sets_of
from ml_core.lab.watching.configured_sets import configured_sets
from ml_core.serve.log.logged_answers import LoggedAnswer
from tests.lab.watching.answered import Answered, facts_of


@pytest.fixture
def place(tmp_path: Path) -> Answered:
    return Answered(tmp_path)


def stored(place: Answered) -> list[LoggedAnswer]:
    """In the order in which they were given."""
    return list(place.log.rows())


def test_each_answer_is_read_by_its_own_calibration_whatever_level_was_asked_for(place: Answered) -> None:
    coarse, fine = facts_of(), facts_of(calibration_id="d" * 64, sizes=(99, 99))
    sure = facts_of(calibration_id="e" * 64, sizes=(99, 99), training_conditional="0.95")
    for facts in (coarse, fine, sure, coarse):
        place.answer([(0.1, 0.2), (0.5, 0.1)], facts)
        place.now += timedelta(seconds=1)
    answers = stored(place)
    found = configured_sets(answers)
    one = [[False, True], [True, False]]
    assert [held.tolist() for held in found if held is not None] == [*one, *one, [True, True], [True, True], *one]
    asked = [replace(answer, level="0.6", prediction_set=()) for answer in answers]
    np.testing.assert_array_equal(np.array(configured_sets(asked)), np.array(found))


def test_what_has_no_calibration_or_another_one_cannot_be_told(place: Answered) -> None:
    place.answer([(1.0, 1.0)], facts_of(slot="prior"))
    place.now += timedelta(seconds=1)
    place.answer([(0.5, 0.5), (0.55, 0.5)])  # 0.55 is no rank among nine
    found = configured_sets(stored(place))
    assert [None if held is None else held.tolist() for held in found] == [None, [True, True], None]
    assert configured_sets([]) == []


def test_weighted_p_values_are_no_ranks(place: Answered) -> None:
    place.answer([(0.123, 0.05)], facts_of(guarantee="weighted"))
    (held,) = configured_sets(stored(place))
    assert held is not None
    assert held.tolist() == sets_of([(0.123, 0.05)], (9, 9), Decimal("0.9"), None, "weighted")[0].tolist()
    assert held.tolist() == [True, False]
