"""Numbers, moments and names as people read them; what is not known is a dash."""

from __future__ import annotations

import math
from datetime import UTC, datetime

__all__ = [
    "NOT_KNOWN",
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
    "with_sign",
    "size",
]

NOT_KNOWN = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STEPS_S = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def count(value: float | None) -> str:
    """A whole number with its thousands set apart: ``1,234,567``."""
    return NOT_KNOWN if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits, without powers of ten from 0.0001 to a million: ``0.765``, ``12,346``."""
    if value is None or math.isnan(value):
        return NOT_KNOWN
    if math.isinf(value):
        text = f"{'-' if value < 0 else ''}∞"
    elif 10**digits <= abs(value) < 1e6:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", _MINUS)


def with_sign(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, to so many decimals: ``+0.46``."""
    if value is None or math.isnan(value):
        return NOT_KNOWN
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", _MINUS)


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent, never rounded to all or nothing: ``90.3 %``, ``< 0.1 %``, ``> 99.9 %``."""
    if share is None or math.isnan(share):
        return NOT_KNOWN
    text = f"{100 * share:.{digits}f}"
    if share > 0 and float(text) == 0:
        return f"< {10**-digits:g} %"
    if share < 1 and float(text) == 100:
        return f"> {100 - 10**-digits:g} %"
    return f"{float(text):g} %"


def p_value(value: float | None) -> str:
    """A p value: ``0.034``, ``< 0.001``."""
    if value is None or math.isnan(value):
        return NOT_KNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def day(at: datetime | None) -> str:
    """The UTC day, e.g. ``23 Nov 2026``."""
    if at is None:
        return NOT_KNOWN
    utc = at.astimezone(UTC)
    return f"{utc.day} {_MONTHS[utc.month - 1]} {utc.year}"


def moment(at: datetime | None) -> str:
    """The UTC minute, e.g. ``23 Nov 2026, 10:15 UTC``."""
    return NOT_KNOWN if at is None else f"{day(at)}, {at.astimezone(UTC):%H:%M} UTC"


def between(since: datetime, until: datetime) -> str:
    """A period by its UTC days, ``23 Nov 2026 to 24 Nov 2026``, or, within one day, by its minutes."""
    if day(since) != day(until):
        return f"{day(since)} to {day(until)}"
    return f"{day(since)}, {since.astimezone(UTC):%H:%M} to {until.astimezone(UTC):%H:%M} UTC"


def age(seconds: float) -> str:
    """A length of time in its largest whole unit: 7,300 s are ``2 hours``."""
    step, unit = next(((s, u) for s, u in _STEPS_S if seconds >= s), _STEPS_S[-1])
    n = int(seconds / step)
    return f"{n} {unit}" + ("" if n == 1 else "s")


def per(seconds: float) -> str:
    """The length of a bucket, to be written after "per": ``day``, ``6 hours``."""
    step, unit = next(((s, u) for s, u in _STEPS_S if seconds >= s and seconds % s == 0), _STEPS_S[-1])
    n = seconds / step
    return unit if n == 1 else f"{n:g} {unit}s"


def size(n_bytes: float) -> str:
    """Bytes in a unit that suits them: ``900 B``, ``12.3 MB``."""
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def code(word: str) -> str:
    """A name made for machines as people write it: ``too_few`` is "too few"."""
    return word.replace("_", " ")
