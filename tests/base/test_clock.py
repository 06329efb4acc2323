"""The grammar of dates and times says what a calendar says."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.clock import DATE, FIRST_YEAR, LAST_YEAR, TIME, ZONE

YEARS = datetime(FIRST_YEAR, 1, 1), datetime(LAST_YEAR, 12, 31)  # noqa: DTZ001 - the zone is drawn beside it


def test_date_is_every_day_of_the_years_and_no_other_text_of_its_form() -> None:
    day, last = date(FIRST_YEAR, 1, 1), date(LAST_YEAR, 12, 31)
    days = {(day + timedelta(days=i)).isoformat() for i in range((last - day).days + 1)}
    written = (f"{y}-{m:02}-{d:02}" for y in range(FIRST_YEAR - 2, LAST_YEAR + 3) for m in range(14) for d in range(33))
    assert {text for text in written if re.fullmatch(DATE, text)} == days


@given(st.datetimes(*YEARS), st.integers(-1439, 1439))
def test_times_and_zones_that_python_writes_are_in_the_grammar(moment: datetime, offset: int) -> None:
    text = moment.replace(tzinfo=timezone(timedelta(minutes=offset))).isoformat()
    assert re.fullmatch(f"{DATE}T{TIME}{ZONE}", text)


@given(
    st.from_regex(re.compile(f"{TIME}", re.ASCII), fullmatch=True),
    st.from_regex(re.compile(ZONE, re.ASCII), fullmatch=True),
)
def test_python_reads_everything_in_the_grammar(clock: str, zone: str) -> None:
    assert time.fromisoformat(clock + zone).tzinfo is not None
