from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.lab.report.collect_answers import QUANTILES, _quantiles, seen_answers
from ml_core.lab.report.collect_period import DAY, HOUR, Stretch
from ml_core.lab.report.gaps import Gaps
from ml_core.serve.log.reader import PredictionLog
from tests.serve.log.filled import DAY as FIRST
from tests.serve.log.filled import FACTS, NEXT, THIRD, bulk_row, fill, row, settings_in

BEGAN = datetime(2026, 1, 5, tzinfo=UTC)
THREE_DAYS = Stretch(BEGAN, BEGAN + 3 * DAY, DAY)


@pytest.fixture
def settings(tmp_path):
    """Two days with answers, the second with a bulk call as well, and a day without."""
    found = settings_in(tmp_path)
    fill(found, [row(n) for n in range(70)], FIRST)
    fill(found, [row(n, THIRD) for n in range(35)] + [bulk_row(found, 1, THIRD, answers=2_500)], THIRD)
    return found


def seen(settings, period=THREE_DAYS, gaps=None):
    return seen_answers(PredictionLog(settings.log), period, (0, 1), gaps or Gaps())


def test_every_answer_is_counted_in_its_bucket_those_of_bulk_calls_too(settings):
    history = seen(settings)[0]
    assert [(b.start, b.answers) for b in history.buckets] == [
        (BEGAN, 70),
        (BEGAN + DAY, 0),
        (BEGAN + 2 * DAY, 2_535),
    ]
    assert history.score_of == "P(1)"


def test_sets_and_fallbacks_are_counted(settings):
    first, empty, _ = seen(settings)[0].buckets
    assert first.set_sizes == (0, 14, 56)
    assert first.fallbacks == 10
    assert (empty.set_sizes, empty.quantiles) == ((0, 0, 0), None)
    assert seen(settings)[0].fallback_reasons == {"circuit_open": 15}


def test_quantiles_are_of_the_models_own_scores(settings):
    own = [
        answer.probabilities[1]
        for answer in PredictionLog(settings.log).rows(until=BEGAN + DAY)
        if answer.reason is None
    ]
    found = seen(settings)[0].buckets[0].quantiles
    assert found == pytest.approx(np.quantile(own, QUANTILES, method="inverted_cdf"), abs=0.001)


@given(st.lists(st.floats(0.0, 0.9999), min_size=1, max_size=300))
def test_quantiles_from_counts_are_right_to_a_thousandth(scores):
    cells = np.bincount([int(score * 1_000) for score in scores], minlength=1_000).tolist()
    exact = np.quantile(scores, QUANTILES, method="inverted_cdf")
    assert _quantiles(cells) == pytest.approx(exact, abs=0.000_51)


def test_answers_outside_of_the_period_are_left_out(settings):
    nine = BEGAN + timedelta(hours=9)
    half = Stretch(nine, nine + timedelta(seconds=10), HOUR)
    assert [b.answers for b in seen(settings, half)[0].buckets] == [10]


def test_a_period_without_answers_has_no_history(settings):
    later = Stretch(BEGAN + 30 * DAY, BEGAN + 31 * DAY, DAY)
    assert seen(settings, later)[0] is None
    assert seen(settings_in(settings.home / "empty"))[0] is None


def test_answers_tell_of_the_models_that_gave_them(settings):
    (found,) = seen(settings)[1].items()
    assert (found[0], found[1]["classes"]) == (FACTS["model_hash"], [0, 1])


def test_a_file_that_cannot_be_read_leaves_a_gap_and_the_others_are_told(settings):
    damaged = fill(settings, [row(n, NEXT) for n in range(20)], NEXT)
    damaged.path.write_bytes(b"no database at all" * 1_000)
    gaps = Gaps()
    assert [b.answers for b in seen(settings, gaps=gaps)[0].buckets] == [70, 0, 2_535]
    (gap,) = gaps.found
    assert (gap.part, damaged.path.name in gap.reason) == ("answers", True)


def test_a_bulk_call_that_is_gone_leaves_a_gap_and_what_was_read_before_is_told(settings):
    (bulk,) = (settings.log / "bulk" / THIRD).glob("*.arrow")
    bulk.unlink()
    gaps = Gaps()
    assert [b.answers for b in seen(settings, gaps=gaps)[0].buckets] == [70, 0, 35]
    assert "cannot be read" in gaps.found[0].reason


@pytest.mark.parametrize(
    ("classes", "name"), [((0, 1), "P(1)"), (("no", "yes"), "P(yes)"), ("abc", "of the likeliest label")]
)
def test_the_score_is_named_after_the_champions_labels(settings, classes, name):
    assert seen_answers(PredictionLog(settings.log), THREE_DAYS, classes, Gaps())[0].score_of == name
