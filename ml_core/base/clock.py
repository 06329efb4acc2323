"""The time of day, in one place so that tests can fix it, and moments as text or as a number."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["DATE", "FIRST_YEAR", "LAST_YEAR", "TIME", "ZONE", "microseconds", "moment_of", "utc_now", "utc_text"]

FIRST_YEAR, LAST_YEAR = 1900, 2199  # years that every store and library here can hold

_LEAP = "(?:19|21)(?:0[48]|[2468][048]|[13579][26])|20(?:[02468][048]|[13579][26])"
_LONG, _SHORT = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])", "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_DAYS = f"{_LONG}|{_SHORT}|02-(?:0[1-9]|1[0-9]|2[0-8])"
DATE = f"(?:(?:19|20|21)[0-9]{{2}}-(?:{_DAYS})|(?:{_LEAP})-02-29)"
"""Every day of those years and nothing else, as ISO 8601 writes it: a regular expression, fit for a JSON schema."""
_HOUR = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
TIME = f"{_HOUR}(?::[0-5][0-9](?:[.][0-9]{{1,6}})?)?"
ZONE = f"(?:Z|[+-]{_HOUR})"

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
    """The UTC moment ``us`` microseconds after 1970 began."""
    return _EPOCH + timedelta(microseconds=us)
