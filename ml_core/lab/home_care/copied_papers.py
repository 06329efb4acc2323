"""The small state of a home, from one to another: documents, API keys, and the journal with its times and authors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ml_core.base.documents import Document
from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import Home, open_home
from ml_core.serve.http.api_keys import KeyPlace

__all__ = [
    "COPIED",
    "COPIED_FILES",
    "HOME_COPY",
    "CopiedFiles",
    "HomeCopy",
    "PapersSeen",
    "check_journal",
    "copy_api_keys",
    "copy_documents",
    "copy_journal",
    "documents_in_home",
    "journal_in",
]

HOME_COPY, COPIED_FILES = "home_copy.json", "home_copy_files.json"
COPIED = "home.copied"
"""Entry of a journal that says where a home was copied from; it is the target's own."""
_NOT_COPIED = {HOME_COPY, COPIED_FILES, "known_keys.json", "keys.json"}
"""What each home has of its own; API keys are copied apart, since a folder names their file."""


class HomeCopy(Document):
    """Content of ``home_copy.json``: where a home is copied from, and whether that was ever finished.

    Attributes
    ----------
    source : name of the home that is copied, or its place where it has no name
    begun_at, ended_at : UTC; ``ended_at`` is of the last time that everything was there, "" before
    """

    source: str
    begun_at: str
    ended_at: str = ""


class CopiedFiles(Document):
    """Content of ``home_copy_files.json``: names of all files that were ever to be copied there.

    One that the source has no longer may be removed by who copies; any other file is somebody's.
    """

    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PapersSeen:
    """Documents or entries.

    Attributes
    ----------
    sha256 : over all of them, in their order
    """

    count: int
    sha256: str
    changed: int = 0


def copy_documents(source: Settings, target: Settings) -> PapersSeen:
    """Give the target the documents of the source, all together where it can do that.

    Raises
    ------
    HomeUnreachable, ArtefactError, OSError
        One of the two homes cannot be used now.
    """
    home = open_home(target)
    wanted, found = _documents(open_home(source)), _documents(home)
    with home.together():
        for name in found.keys() - wanted.keys():
            home.documents.remove(name)
        changed = {name: content for name, content in wanted.items() if found.get(name) != content}
        for name, content in changed.items():
            home.documents.write(name, content)
    seen = documents_in_home(target)
    return PapersSeen(seen.count, seen.sha256, len(changed) + len(found.keys() - wanted.keys()))


def documents_in_home(settings: Settings) -> PapersSeen:
    """The documents of a home, without what is its own."""
    documents = _documents(open_home(settings))
    return PapersSeen(len(documents), _sha256(n.encode() + b"\n" + content for n, content in documents.items()))


def copy_journal(source: Settings, target: Settings) -> PapersSeen:
    """Append to the target's journal what the source's has more.

    Raises
    ------
    ConfigError
        The target's has entries that the source's has not.
    HomeUnreachable, OSError
        One of the two cannot be used now.
    """
    new = check_journal(source, target)
    if new:
        open_home(target).journal.take(new)
    texts = _comparable(source, target)[1]
    return PapersSeen(len(texts), _sha256(text.encode() for text in texts), len(new))


def check_journal(source: Settings, target: Settings) -> list[str]:
    """The entries that the target's journal lacks.

    Raises
    ------
    ConfigError
        It has others than the source's: the target has gone on by itself.
    """
    wanted, found = _comparable(source, target)
    if wanted[: len(found)] != found:
        raise ConfigError(
            "--to", "has a journal that goes on in another way than the source's: it was used since it was copied to"
        )
    return wanted[len(found) :]


def journal_in(settings: Settings) -> PapersSeen:
    """The journal of a home."""
    texts = open_home(settings).journal.texts()
    return PapersSeen(len(texts), _sha256(text.encode() for text in texts))


def _comparable(source: Settings, target: Settings) -> tuple[list[str], list[str]]:
    """Entries of both journals, without those of the target that say where it was copied from."""
    wanted = open_home(source).journal.texts()
    known = set(wanted)
    found = open_home(target).journal.texts()
    return wanted, [text for text in found if text in known or not _is_of_copying(text)]


def copy_api_keys(source: Settings, target: Settings) -> Path | None:
    """Give the target the API keys: as a document of a database, else as ``keys.json``, the file that is returned.

    Raises
    ------
    ConfigError
        The source's are no API keys.
    HomeUnreachable, OSError
        One of the two homes cannot be used now.
    """
    place = KeyPlace.of(source)
    raw = None if place is None else place.read()
    if place is None or raw is None:
        return None
    place.parsed(raw)
    path = target.home / "keys.json"
    there = KeyPlace.of(target.model_copy(update={"api_keys_file": None})) or KeyPlace.of_file(path)
    if there.read() != raw:
        there.documents.write(there.name, raw)
    return path if there.is_file else None


def _documents(home: Home) -> Mapping[str, bytes]:
    found = {name: home.documents.read(name) for name in home.documents.every() if name not in _NOT_COPIED}
    return {name: content for name, content in found.items() if content is not None}


def _is_of_copying(text: str) -> bool:
    return f'"{COPIED}"' in text and bool(json.loads(text).get("event") == COPIED)


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
