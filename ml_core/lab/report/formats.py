"""Numbers, moments and names as people read them; what is not known is a dash."""

from __future__ import annotations

import math
from datetime import UTC, datetime

__all__ = [
    "UNKNOWN",
    "age",
    "between",
    "code",
    "count",
    "day",
    "moment",
    "number",
    "p_value",
    "per",
    "percent",
    "signed",
    "size",
]

UNKNOWN = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STEPS_S = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def count(value: float | None) -> str:
    """A whole number with its thousands set apart.

    Examples
    --------
    >>> count(1234567)
    '1,234,567'
    """
    return UNKNOWN if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits, without powers of ten from 0.0001 to a million.

    Examples
    --------
    >>> number(0.76543), number(171.26), number(12345.6), number(2e7)
    ('0.765', '171', '12,346', '2e+07')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        text = f"{'-' if value < 0 else ''}∞"
    elif 10**digits <= abs(value) < 1e6:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", _MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    r"""A difference with its sign, to so many decimals.

    Examples
    --------
    >>> signed(0.456), signed(-0.1) == "\N{MINUS SIGN}0.10", signed(0.0)
    ('+0.46', True, '0.00')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", _MINUS)


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent. Neither all nor nothing is claimed by rounding.

    Examples
    --------
    >>> percent(0.9034), percent(0.9), percent(0.00001), percent(0.99999), percent(1.0)
    ('90.3 %', '90 %', '< 0.1 %', '> 99.9 %', '100 %')
    """
    if share is None or math.isnan(share):
        return UNKNOWN
    text = f"{100 * share:.{digits}f}"
    if share > 0 and float(text) == 0:
        return f"< {10**-digits:g} %"
    if share < 1 and float(text) == 100:
        return f"> {100 - 10**-digits:g} %"
    return f"{float(text):g} %"


def p_value(value: float | None) -> str:
    """A p value.

    Examples
    --------
    >>> p_value(0.0341), p_value(1e-9), p_value(1.0)
    ('0.034', '< 0.001', '1.000')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def day(at: datetime | None) -> str:
    """The UTC day, e.g. ``23 Nov 2026``."""
    if at is None:
        return UNKNOWN
    utc = at.astimezone(UTC)
    return f"{utc.day} {_MONTHS[utc.month - 1]} {utc.year}"


def moment(at: datetime | None) -> str:
    """The UTC minute, e.g. ``23 Nov 2026, 10:15 UTC``."""
    return UNKNOWN if at is None else f"{day(at)}, {at.astimezone(UTC):%H:%M} UTC"


def between(since: datetime, until: datetime) -> str:
    """A stretch of time by its UTC days, or, within one day, by its minutes.

    Examples
    --------
    >>> began = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
    >>> between(began, began.replace(day=24)), between(began, began.replace(hour=10))
    ('23 Nov 2026 to 24 Nov 2026', '23 Nov 2026, 09:30 to 10:30 UTC')
    """
    if day(since) != day(until):
        return f"{day(since)} to {day(until)}"
    return f"{day(since)}, {since.astimezone(UTC):%H:%M} to {until.astimezone(UTC):%H:%M} UTC"


def age(seconds: float) -> str:
    """A length of time in its largest whole unit.

    Examples
    --------
    >>> age(59), age(60), age(7300), age(0.2), age(86400)
    ('59 seconds', '1 minute', '2 hours', '0 seconds', '1 day')
    """
    step, unit = next(((s, u) for s, u in _STEPS_S if seconds >= s), _STEPS_S[-1])
    n = int(seconds / step)
    return f"{n} {unit}" + ("" if n == 1 else "s")


def per(seconds: float) -> str:
    """How long a bucket is, to stand behind "per".

    Examples
    --------
    >>> per(86400), per(604800), per(21600), per(5400)
    ('day', '7 days', '6 hours', '90 minutes')
    """
    step, unit = next(((s, u) for s, u in _STEPS_S if seconds >= s and seconds % s == 0), _STEPS_S[-1])
    n = seconds / step
    return unit if n == 1 else f"{n:g} {unit}s"


def size(n_bytes: float) -> str:
    """Bytes in a unit that suits them.

    Examples
    --------
    >>> size(900), size(12_300_000), size(1_000)
    ('900 B', '12.3 MB', '1 kB')
    """
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def code(word: str) -> str:
    """A name made for machines as people write it: ``too_few`` is "too few"."""
    return word.replace("_", " ")
