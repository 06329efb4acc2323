from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.lab.report.formats import (
    NOT_KNOWN,
    age,
    between,
    code,
    count,
    day,
    moment,
    number,
    p_value,
    per,
    percent,
    size,
    with_sign,
)

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize("shown", [count, number, with_sign, percent, p_value, day, moment])
def test_what_is_not_known_is_a_dash(shown):
    assert shown(None) == NOT_KNOWN


@pytest.mark.parametrize("shown", [number, with_sign, percent, p_value])
def test_nan_is_not_known(shown):
    assert shown(float("nan")) == NOT_KNOWN


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.76543, "0.765"), (171.26, "171"), (12_345.6, "12,346"), (-0.5, f"{MINUS}0.5"), (2e7, "2e+07"), (0, "0")],
)
def test_numbers_have_three_significant_digits(value, expected):
    assert number(value) == expected


def test_infinite_evidence_has_a_name():
    assert number(float("inf")) == "∞"


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.9034, "90.3 %"),
        (0.9, "90 %"),
        (0.0, "0 %"),
        (1.0, "100 %"),
        (1e-6, "< 0.1 %"),
        (0.99999, "> 99.9 %"),
    ],
)
def test_percent(share, expected):
    assert percent(share) == expected


@given(st.floats(0.0, 1.0))
def test_percent_claims_all_or_nothing_only_where_it_is_so(share):
    assert (percent(share) == "0 %") == (share == 0.0)
    assert (percent(share) == "100 %") == (share == 1.0)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.456, "+0.46"), (-0.1, f"{MINUS}0.10"), (0.0, "0.00"), (-0.001, "0.00")]
)
def test_differences_carry_their_sign(value, expected):
    assert with_sign(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.0341, "0.034"), (1e-9, "< 0.001"), (1.0, "1.000")])
def test_p_values(value, expected):
    assert p_value(value) == expected


def test_moments_are_told_in_utc_wherever_they_come_from():
    at = datetime(2026, 11, 24, 0, 15, tzinfo=timezone(timedelta(hours=2)))
    assert (day(at), moment(at)) == ("23 Nov 2026", "23 Nov 2026, 22:15 UTC")


def test_every_month_has_its_name():
    names = [day(datetime(2026, month, 1, tzinfo=UTC)).split()[1] for month in range(1, 13)]
    assert names == ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, "0 seconds"), (59, "59 seconds"), (60, "1 minute"), (7_300, "2 hours"), (86_400, "1 day"), (2e6, "23 days")],
)
def test_ages_are_whole_units(seconds, expected):
    assert age(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(86_400, "day"), (604_800, "7 days"), (21_600, "6 hours"), (5_400, "90 minutes"), (1, "second")],
)
def test_buckets_are_named_by_their_length(seconds, expected):
    assert per(seconds) == expected


@pytest.mark.parametrize(
    ("n", "expected"), [(900, "900 B"), (1_000, "1 kB"), (12_300_000, "12.3 MB"), (5e15, "5e+03 TB")]
)
def test_sizes(n, expected):
    assert size(n) == expected


def test_names_for_machines_are_read_as_words():
    assert code("consecutive_failures") == "consecutive failures"


def test_a_stretch_within_a_day_is_told_by_its_minutes():
    began = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)
    assert between(began, began + timedelta(minutes=29)) == "23 Nov 2026, 23:30 to 23:59 UTC"
    assert between(began, began + timedelta(minutes=30)) == "23 Nov 2026 to 24 Nov 2026"
