"""Small typed JSON files that decide something: read whole or refused, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ml_core.base.errors import ArtefactError

__all__ = ["Document", "clear_drafts", "read_document", "write_document"]


class Document(BaseModel):
    """Base of every such file's content: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


_D = TypeVar("_D", bound=Document)


def read_document(path: Path, kind: type[_D]) -> _D | None:
    """The document in that file, or None where there is no file.

    Raises
    ------
    ArtefactError
        There is one, but it is not what it should be.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtefactError(path.name, "cannot be read") from error
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise ArtefactError(path.name, f"is no {kind.__name__}") from error


def write_document(path: Path, document: Document, *, durable: bool = True) -> None:
    """Write it beside the place, then rename it over; ``durable`` also waits for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if durable:
        clear_drafts(path.parent, f".{path.name}.*")
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(document.model_dump_json(indent=2) + "\n")
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def clear_drafts(folder: Path, pattern: str = ".*.json.*") -> None:
    """Remove what writers that were killed have left: drafts that nobody has touched for a minute."""
    for draft in folder.glob(pattern):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _DRAFT_S:
                draft.unlink()


_DRAFT_S = 60.0
