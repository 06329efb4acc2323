"""The name that was meant, where one was mistyped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["meant", "nearest", "plain_name"]

_LONGEST = 60
_SHOWN = 12


def meant(name: object, known: Iterable[str]) -> str:
    """What to add to a message about an unknown name: the nearest known one, or all where they are few.

    Examples
    --------
    >>> meant("max_dept", ["max_depth", "eta"]), meant("x", ["max_depth", "eta"]), meant("x", [])
    ('max_depth is meant?', 'known are eta, max_depth', '')
    """
    names = sorted(set(known))
    near = nearest(name, names)
    if near is not None:
        return f"{near} is meant?"
    return f"known are {', '.join(names[:_SHOWN])}{' …' if len(names) > _SHOWN else ''}" if names else ""


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that is nearest to this one; None where none is near.

    Examples
    --------
    >>> nearest("max_dept", ["max_depth", "eta"]), nearest("x", ["max_depth", "eta"])
    ('max_depth', None)
    """
    names = sorted(set(known))
    near = get_close_matches(str(name)[:_LONGEST], names, n=1) or _same_but_for_marks(name, names)
    return near[0] if near else None


def plain_name(name: str) -> str:
    """The name in small letters and digits alone, so that ``Mean radius`` and ``mean_radius`` are the same."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _same_but_for_marks(name: object, names: list[str]) -> list[str]:
    return [known for known in names if plain_name(known) == plain_name(str(name))][:1]
