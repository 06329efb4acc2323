"""What a place for answers must be able to do. One exists: ``LogWriter``, SQLite files on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ml_core.serve.log.entries import Row

__all__ = ["LogCounts", "LogOutcome", "PredictionStore"]

LogOutcome = Literal["stored", "lost", "refused", "unanswered"]
"""What became of an answer: ``refused`` ones were not stored and their callers got an error; ``unanswered`` ones were
stored after a caller in strict mode had got an error."""


@dataclass(frozen=True, slots=True)
class LogCounts:
    """What a store has done, in answers.

    Attributes
    ----------
    stored, lost, refused, unanswered : by outcome
    pending : given, and still to be stored
    problem : why nothing can be stored now, "" where it can
    """

    stored: int = 0
    lost: int = 0
    refused: int = 0
    unanswered: int = 0
    pending: int = 0
    problem: str = ""


class PredictionStore(Protocol):
    """Takes answers before they are given, and accounts for every one."""

    @property
    def counts(self) -> LogCounts:
        """What was done so far."""

    async def store(self, rows: Sequence[Row]) -> None:
        """Return once the rows are stored, or, in standard mode, as soon as waiting for it would hold up the answer.

        Raises
        ------
        LogUnavailable
            Strict mode, and they are not stored.
        """

    def missed(self, answers: int, problem: str) -> None:
        """Count answers whose rows could not even be brought here.

        Raises
        ------
        LogUnavailable
            Strict mode: they must not be given.
        """

    def close(self, timeout_s: float) -> None:
        """Store what waits, within that time, and count the rest as lost."""
