from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.clock import microseconds, moment_of
from ml_core.lab.report.collect_period import DAY, HOUR, WEEK, Known, Stretch, period_of

NOW = datetime(2026, 11, 23, 10, 15, 30, tzinfo=UTC)  # a Monday
MANY = Known(NOW - 400 * DAY, NOW - 31 * DAY, 1_000_000)
MOMENTS = st.integers(0, 10**16 // 5).map(moment_of)  # from 1970 to 2033


@pytest.mark.parametrize(
    ("asked", "bucket"), [(HOUR, HOUR), (timedelta(days=2.9), HOUR), (3 * DAY, DAY), (400 * DAY, DAY)]
)
def test_answers_come_per_hour_below_three_days(asked, bucket):
    assert period_of(NOW, asked, 30 * DAY).answers.bucket == bucket


@pytest.mark.parametrize(
    ("asked", "known", "bucket"),
    [
        (45 * DAY, MANY, DAY),
        (46 * DAY, MANY, WEEK),
        (14 * DAY, Known(NOW - 60 * DAY, NOW - 31 * DAY, 100), DAY),
        (15 * DAY, Known(NOW - 60 * DAY, NOW - 31 * DAY, 100), WEEK),
    ],
)
def test_outcomes_come_per_week_where_there_are_many_days_or_few_outcomes(asked, known, bucket):
    assert period_of(NOW, asked, 30 * DAY, known=known).outcomes.bucket == bucket


def test_outcomes_of_a_month_are_those_of_answers_a_horizon_before():
    outcomes = period_of(NOW, 30 * DAY, 30 * DAY, known=MANY).outcomes
    assert (outcomes.since, outcomes.until) == (datetime(2026, 9, 24, tzinfo=UTC), NOW - 30 * DAY)


def test_weeks_begin_on_mondays_and_days_at_midnight():
    period = period_of(NOW, 100 * DAY, timedelta(0), known=MANY)
    assert {start.isoweekday() for start in period.outcomes.starts} == {1}
    assert {(start.hour, start.minute, start.second) for start in period.answers.starts} == {(0, 0, 0)}


def test_a_period_does_not_begin_before_there_is_something():
    known = Known(NOW - 41 * DAY, NOW - 31 * DAY, 10)
    period = period_of(NOW, 400 * DAY, 30 * DAY, first_answer=NOW - 2 * DAY, known=known)
    assert period.answers.since == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert period.outcomes.since == datetime(2026, 10, 13, tzinfo=UTC)
    assert period.asked_outcomes == NOW - 430 * DAY


@pytest.mark.parametrize("first", [NOW - 60 * DAY, NOW + DAY])
def test_a_period_is_as_long_as_asked_where_there_is_more_or_nothing(first):
    assert period_of(NOW, 30 * DAY, timedelta(0), first_answer=first).answers.since == datetime(
        2026, 10, 24, tzinfo=UTC
    )


def test_outcomes_are_counted_from_the_first_bucket_on_that_is_told():
    period = period_of(NOW, 100 * DAY, 30 * DAY, known=MANY)
    assert period.asked_outcomes == period.outcomes.since < NOW - 130 * DAY


def test_outcomes_that_counted_under_a_shorter_horizon_are_in_the_period():
    last = NOW - DAY
    period = period_of(NOW, 30 * DAY, 30 * DAY, known=Known(NOW - 50 * DAY, last, 10))
    assert period.outcomes.place(last) == len(period.outcomes.starts) - 1


@given(
    now=MOMENTS,
    asked=st.timedeltas(timedelta(seconds=1), timedelta(days=900)),
    horizon=st.timedeltas(timedelta(0), timedelta(days=400)),
    at=MOMENTS,
)
def test_every_moment_of_a_period_lies_in_the_bucket_that_holds_it(now, asked, horizon, at):
    for stretch in (period_of(now, asked, horizon).answers, period_of(now, asked, horizon).outcomes):
        starts = stretch.starts
        assert starts[0] <= stretch.until - asked < starts[0] + stretch.bucket
        assert starts[-1] < stretch.until <= starts[-1] + stretch.bucket
        place = stretch.place(at)
        assert (place is not None) == (starts[0] <= at < stretch.until)
        if place is not None:
            assert starts[place] <= at < starts[place] + stretch.bucket


def test_an_empty_stretch_has_no_bucket():
    assert Stretch(NOW, NOW, DAY).starts == ()


@given(MOMENTS)
def test_moments_come_back_from_microseconds(at):
    assert moment_of(microseconds(at)) == at
