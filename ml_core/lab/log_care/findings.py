"""One thing that is not as it was written, as ``surety log verify`` tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "FindingKind"]

FindingKind = Literal[
    "row", "chain", "file", "key", "unkeyed", "missing", "sealed-day", "sealed-copy", "erasure", "labels", "journal",
    "heads",
]  # fmt: skip
"""What is wrong: a stored row; rows that are not those of their commit; the file itself; a key that is not here; a file
without a key that nothing vouches for; a file that is gone; what came into, or left, a sealed day; the Parquet copy of
one; an erasure that nobody asked for; labels; the journal's entries on the log; what differs from a published head."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes
    ----------
    where : name of the file
    row : number of the row, or of the line; None where it is about the file
    problem : in words; no value of an answer is quoted
    """

    kind: FindingKind
    where: str
    problem: str
    row: int | None = None

    def __str__(self) -> str:
        return f"{self.where}{'' if self.row is None else f', row {self.row}'}: {self.problem}"
