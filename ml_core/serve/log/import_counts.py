"""How many labels commands have brought in: workers show it, since a command's own counters end with the command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pydantic import Field

from ml_core.base.documents import Document, read_document, write_document
from ml_core.base.files import locked
from ml_core.serve.log.labels import LabelCounts

__all__ = ["ImportedCounts", "add_imported", "read_imported"]


class ImportedCounts(Document):
    """Labels that ``surety labels import`` has ever brought in, by outcome."""

    accepted: int = Field(0, ge=0)
    duplicate: int = Field(0, ge=0)
    conflict: int = Field(0, ge=0)
    unknown: int = Field(0, ge=0)


def read_imported(path: Path) -> ImportedCounts:
    """The counts in that file (``Settings.imported_labels``); zeros where there is none.

    Raises
    ------
    ArtefactError
        The file cannot be read.
    """
    return read_document(path, ImportedCounts) or ImportedCounts()


def add_imported(path: Path, counts: LabelCounts) -> None:
    """Add to the counts in that file. Several commands may do so at a time.

    Raises
    ------
    ArtefactError, OSError
        The file cannot be read or written.
    """
    with locked(path.with_name(f"{path.name}.lock")):
        before = read_imported(path)
        grown = {name: getattr(before, name) + n for name, n in asdict(counts).items()}
        write_document(path, ImportedCounts(**grown), durable=False)
