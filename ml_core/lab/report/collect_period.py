"""The period of a report, and the buckets of its histories."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

__all__ = ["Known", "Period", "Stretch", "period_of"]

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
_HOURS_BELOW, _DAYS_BELOW = 3 * DAY, 45 * DAY
_DAYS_ANYWAY, _FEWEST_A_DAY = 14 * DAY, 300
"""Outcomes come per day up to 14 days, and further only where a day has so many that its numbers mean something."""
_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time and its buckets.

    Attributes
    ----------
    since : when the first bucket begins, UTC: a whole hour, midnight, or the midnight before a Monday
    until : the end; the last bucket holds the moment before it
    bucket : length of a bucket
    """

    since: datetime
    until: datetime
    bucket: timedelta

    @property
    def starts(self) -> tuple[datetime, ...]:
        """When each bucket begins, oldest first."""
        n = -((self.since - self.until) // self.bucket)  # rounded up
        return tuple(self.since + k * self.bucket for k in range(n))

    def place(self, at: datetime) -> int | None:
        """Position of the bucket that holds a moment; None where none does."""
        return (at - self.since) // self.bucket if self.since <= at < self.until else None


@dataclass(frozen=True, slots=True)
class Period:
    """The times that a report shows.

    Attributes
    ----------
    now : when the report is written
    answers : the time whose answers it shows
    outcomes : the time whose labelled answers it shows; earlier than ``answers``, since labels come a horizon later
    expected : the time whose answers' labels are expected: that of ``outcomes`` and all since; without any, ``answers``
    asked_outcomes : where ``outcomes`` would begin if it were not cut to the first labelled answer
    horizon : time from an answer to the moment its label counts
    """

    now: datetime
    answers: Stretch
    outcomes: Stretch
    expected: Stretch
    asked_outcomes: datetime
    horizon: timedelta


@dataclass(frozen=True, slots=True)
class Known:
    """Answers of a model whose outcome counts: when the first and the last was given, and how many they are."""

    first: datetime
    last: datetime
    count: int

    @property
    def per_day(self) -> float:
        """How many on average."""
        return self.count / max(1.0, (self.last - self.first) / DAY)


def period_of(
    now: datetime,
    asked: timedelta,
    horizon: timedelta,
    *,
    first_answer: datetime | None = None,
    known: Known | None = None,
) -> Period:
    """The period that ends now and goes back as far as asked, but not beyond what there is.

    Answers come per hour below three days, else per day; outcomes per day up to 45 days, and where they are few up to
    14, else per week. Buckets are whole: the first begins at or before the moment asked for.

    Parameters
    ----------
    first_answer : when the log begins
    known : answers whose outcome counts; None without any
    """
    soonest, ripe = now - asked - horizon, now - horizon
    since = _later(now - asked, first_answer, now)
    began = _later(soonest, None if known is None else known.first, ripe)
    ended = ripe if known is None else max(ripe, min(known.last + timedelta(microseconds=1), now))
    few = known is None or known.per_day < _FEWEST_A_DAY
    outcomes = _stretch(began, ended, DAY if ended - began <= (_DAYS_ANYWAY if few else _DAYS_BELOW) else WEEK)
    expected = _stretch(since if known is None else began, now, outcomes.bucket)
    return Period(
        now=now,
        answers=_stretch(since, now, HOUR if now - since < _HOURS_BELOW else DAY),
        outcomes=outcomes,
        expected=expected,
        asked_outcomes=min(soonest, outcomes.since),
        horizon=horizon,
    )


def _later(asked: datetime, first: datetime | None, until: datetime) -> datetime:
    """The moment asked for, or, where that is before the first answer, the moment of the first answer."""
    return asked if first is None or not asked < first < until else first


def _stretch(since: datetime, until: datetime, bucket: timedelta) -> Stretch:
    return Stretch(since - (since - _MONDAY) % bucket, until, bucket)
