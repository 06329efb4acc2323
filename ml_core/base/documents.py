"""Small typed JSON files: read whole or refused, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ml_core.base.errors import ArtefactError
from ml_core.base.files import clear_drafts, write_whole

__all__ = ["Document", "PublishedDocument", "document_bytes", "parsed_document", "read_document", "write_document"]


class Document(BaseModel):
    """Base of every such file's content: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class PublishedDocument(Document):
    """Base of what one process tells the others of what it sees, such as a report; unknown fields are passed over.

    While the software is changed, processes of two releases run side by side, and the older one must still understand
    the newer. An order, such as the rollout, is no such document: who does not know a field of it cannot obey it.
    """

    model_config = ConfigDict(extra="ignore")


_D = TypeVar("_D", bound=Document)


def read_document(path: Path, kind: type[_D]) -> _D | None:
    """The document in that file, or None where there is no file.

    Raises
    ------
    ArtefactError
        The file is there, but cannot be read or holds another kind of document.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtefactError(path.name, "cannot be read") from error
    return parsed_document(raw, path.name, kind)


def parsed_document(raw: bytes, name: str, kind: type[_D]) -> _D:
    """The document that these bytes are.

    Parameters
    ----------
    name : names it in the error

    Raises
    ------
    ArtefactError
        They are another kind of document, or none.
    """
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise ArtefactError(name, f"is no {kind.__name__}") from error


def document_bytes(document: Document) -> bytes:
    """A document as it is stored: indented JSON, UTF-8."""
    return (document.model_dump_json(indent=2) + "\n").encode()


def write_document(path: Path, document: Document, *, durable: bool = True) -> None:
    """Write the file whole; ``durable`` waits for the disk, and removes drafts of processes that were killed."""
    if durable:
        clear_drafts(path.parent, f".{path.name}.*")
    with write_whole(path, durable=durable, mode=0o600) as draft:
        draft.write_bytes(document_bytes(document))
