"""Keeps what could not be read while a report is collected, so that the rest of it is told all the same."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from ml_core.base.errors import SuretyError
from ml_core.lab.report.facts import Gap, Part

__all__ = ["Gaps"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_UNREADABLE = (SuretyError, OSError, sqlite3.Error, ValueError, LookupError, TypeError)
"""What files that are not what they should be come to, read by us or by a library."""


class Gaps:
    """The gaps of one report, in the order they were met, each once."""

    def __init__(self) -> None:
        self._found: dict[Gap, None] = {}

    @property
    def found(self) -> tuple[Gap, ...]:
        """All of them."""
        return tuple(self._found)

    def asked(self, parts: Part | tuple[Part, ...], question: Callable[[], T], otherwise: T) -> T:
        """The answer, or ``otherwise`` and a gap in each of those parts where something cannot be read."""
        try:
            return question()
        except _UNREADABLE as error:
            self.add(parts, error)
            return otherwise

    def add(self, parts: Part | tuple[Part, ...], error: Exception, what: str = "") -> None:
        """Keep why something is missing from those parts; ``what`` names it where the error does not."""
        said = str(error) if isinstance(error, SuretyError) else f"{type(error).__name__}: {error}"
        sentence = f"{what}{': ' if what else ''}{said}".rstrip(". ")
        for part in (parts,) if isinstance(parts, str) else parts:
            self._found[Gap(part, f"{sentence}.")] = None
        logger.warning("report.gap", extra={"part": parts, "reason": said})
