"""The time of day, in one place, so that tests can hold it still."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["utc_now", "utc_text"]


def utc_now() -> datetime:
    """Now, as an aware UTC datetime."""
    return datetime.now(UTC)


def utc_text(moment: datetime) -> str:
    """The moment as ISO 8601 with microseconds and ``Z``, e.g. ``2026-11-23T10:15:30.123456Z``."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"
