"""The time of day, in one place, so that tests can hold it still; and moments as text or as a number."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["microseconds", "moment_of", "utc_now", "utc_text"]

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


def utc_now() -> datetime:
    """Now, as an aware UTC datetime."""
    return datetime.now(UTC)


def utc_text(moment: datetime) -> str:
    """The moment as ISO 8601 with microseconds and ``Z``, e.g. ``2026-11-23T10:15:30.123456Z``."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def microseconds(moment: datetime) -> int:
    """The aware moment in whole microseconds since 1970 began, UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(us: int) -> datetime:
    """The UTC moment so many microseconds after 1970 began."""
    return _EPOCH + timedelta(microseconds=us)
