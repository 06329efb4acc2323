"""Texts that are no level of their column are named with their rows, where naming them tells nobody's secret."""

import numpy as np
import pytest

from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.data.schemas import validate_frame

LABEL = "readmission_30d"


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([2, 2, 7], {"2": 2, "7": 1}),
        ([np.nan, np.nan, np.nan], {}),  # a gap is no level that could be named
        ([3, np.nan, None], {"3": 1}),
        (["x" * 41, 0, 1], {}),
        ([*range(2, 13)], {}),
    ],
)
def test_levels_that_nobody_knows_are_named_where_they_are_few_and_short(labels, named):
    frame, _ = make_cohort(20, seed=3)
    frame[LABEL] = frame[LABEL].astype(object)
    frame.loc[: len(labels) - 1, LABEL] = np.array(labels, dtype=object)
    found = validate_frame(frame, "v1")
    assert found.unknown_levels.get(LABEL, {}) == named
    assert not found.good[0]
