from __future__ import annotations

import numpy as np
import pytest

from ml_core.base.errors import BadModelOutput
from ml_core.serve.model.conformity_scores import checked_probabilities, lac_scores, true_label_scores


def test_score_is_one_minus_probability_in_float64_whatever_the_input_type():
    p = np.array([[0.9, 0.1], [0.3, 0.7]], dtype=np.float32)

    scores = lac_scores(p)

    assert scores.dtype == np.float64
    assert np.array_equal(scores, 1.0 - p.astype(np.float64))
    assert not np.array_equal(scores, (np.float32(1.0) - p).astype(np.float64))  # the float32 way differs


def test_true_label_score_belongs_to_the_rows_own_label():
    assert true_label_scores([[0.75, 0.25], [0.5, 0.5]], [1, 0]).tolist() == [0.75, 0.5]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.0000001])
def test_values_that_are_no_probabilities_are_refused(bad):
    with pytest.raises(BadModelOutput):
        checked_probabilities([[0.5, 0.5], [bad, 0.5]])


@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 2, 1)])
def test_another_shape_is_refused(shape):
    with pytest.raises(BadModelOutput):
        checked_probabilities(np.full(shape, 0.5), 2)


def test_no_rows_are_fine():
    assert lac_scores(np.empty((0, 3))).shape == (0, 3)
