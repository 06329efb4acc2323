"""What a report could not read: each such part says so, and the rest of the report is made all the same."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from ml_core.base.errors import SuretyError

__all__ = ["Gap", "Gaps", "Part"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

Part = Literal[
    "models", "drift", "answers", "coverage", "performance", "shadow", "circuits", "rollout", "log", "lineage"
]
"""Parts of a report, as the page names them."""

_UNREADABLE = (SuretyError, OSError, sqlite3.Error, ValueError, LookupError, TypeError)
"""What reading a damaged file raises, in our code or in a library."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Why a part of the report lacks something that is there and cannot be read."""

    part: Part
    reason: str


class Gaps:
    """The gaps of one report, in the order they were met, each once."""

    def __init__(self) -> None:
        self._found: dict[Gap, None] = {}

    @property
    def found(self) -> tuple[Gap, ...]:
        """All of them."""
        return tuple(self._found)

    def asked(self, parts: Part | tuple[Part, ...], question: Callable[[], _T], otherwise: _T) -> _T:
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
