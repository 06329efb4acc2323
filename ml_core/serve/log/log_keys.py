"""The secret keys of the log: the one that signs its chains and marks, and the one of the pseudonyms of subjects.

Both lie in files, one key (hex) a line, readable by their owner alone. The first key is used, the others were used
before. The key of the log comes from ``SURETY_LOG_KEY_FILE``, best a file outside the home, or else from ``log.key``
in the home, which is made when it is first needed. A key from outside is never made here. Without it nobody can make
a chain, a label's mark or a journal entry that verifies.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from ml_core.base.errors import ConfigError
from ml_core.base.files import write_whole
from ml_core.base.settings import Settings

__all__ = ["KEY_BYTES", "LogKey", "LogKeys", "Pseudonyms", "make_key_file", "read_keys"]

logger = logging.getLogger(__name__)

KEY_BYTES = 32


def read_keys(path: Path, what: str) -> list[bytes]:
    """The keys in a file, in its order.

    Parameters
    ----------
    what : the keys are for, for the message

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no key.
    """
    try:
        keys = [bytes.fromhex(line) for line in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), f"the key of {what} cannot be read: {type(error).__name__}") from error
    if not keys or any(len(key) < KEY_BYTES for key in keys):
        raise ConfigError(str(path), f"holds no key of {KEY_BYTES} bytes")
    return keys


def make_key_file(path: Path, key: bytes) -> None:
    """Write a new file, whole or not at all.

    Raises
    ------
    FileExistsError
        There is one already.
    OSError
        The place cannot be written to.
    """
    with write_whole(path, durable=True, exclusive=True, mode=0o600) as draft:
        draft.write_text(f"{key.hex()}\n", encoding="ascii")


_OF_THE_LOG = "the log"


class LogKey:
    """One key.

    Attributes
    ----------
    id : names the key in files and entries, and tells nothing of it
    chain : key of the chains of databases, 32 bytes
    labels : key of the chain of labels, 32 bytes
    """

    __slots__ = ("_raw", "chain", "id", "labels")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.id = self._derived("id").hex()[:16]
        self.chain, self.labels = self._derived("chain"), self._derived("labels")

    def sign(self, purpose: str, facts: Mapping[str, Any]) -> str:
        """MAC (hex) of facts, over their JSON with sorted keys; a ``mac`` among them is left out."""
        said = orjson.dumps(
            {name: value for name, value in facts.items() if name != "mac"},
            option=orjson.OPT_SORT_KEYS, default=str,
        )  # fmt: skip
        return hmac.digest(self._derived(purpose), said, "sha256").hex()

    def has_signed(self, purpose: str, facts: Mapping[str, Any]) -> bool:
        """Whether the ``mac`` among facts is what this key makes of them."""
        return hmac.compare_digest(str(facts.get("mac")).encode(), self.sign(purpose, facts).encode())

    def _derived(self, purpose: str) -> bytes:
        return hmac.digest(self._raw, f"surety-log/{purpose}".encode(), "sha256")


class LogKeys:
    """The keys of a log: the one that is used, and those that were.

    Parameters
    ----------
    path : file with one key (hex) a line; the first is used, the others still verify what they made
    is_made_here : make the file where it is missing
    """

    def __init__(self, path: Path, *, is_made_here: bool) -> None:
        self.path = path
        self._is_made_here = is_made_here
        self._keys: list[LogKey] = []

    @classmethod
    def of(cls, settings: Settings) -> LogKeys:
        """The keys of the configured home."""
        return cls(settings.log_key, is_made_here=settings.log_key_file is None)

    def all(self) -> dict[str, LogKey]:
        """All keys by their ids; none where none has been made yet.

        Raises
        ------
        ConfigError
            The file cannot be read, holds no key, or is missing although it was named.
        """
        if not self._keys and (not self._is_made_here or self.path.exists()):
            self._keys = [LogKey(raw) for raw in read_keys(self.path, _OF_THE_LOG)]
        return {key.id: key for key in self._keys}

    def used(self) -> tuple[LogKey, bool]:
        """The key that is used, and whether it was made just now.

        Raises
        ------
        ConfigError
            As :meth:`all`.
        OSError
            The key cannot be written.
        """
        if self.all():
            return self._keys[0], False
        raw = secrets.token_bytes(KEY_BYTES)
        try:
            make_key_file(self.path, raw)
        except FileExistsError:  # another process was first
            self.all()
            return self._keys[0], False
        self._keys = [LogKey(raw)]
        return self._keys[0], True


_OF_SUBJECTS = "subjects"
_RETRY_S = 1.0


class Pseudonyms:
    """Keyed HMAC-SHA-256 of subjects. The key is made on first use, outside the log, readable by its owner alone.

    Where it cannot be written for now (a full or read-only disk), one in memory is used, and written once that is
    possible.

    Parameters
    ----------
    path : file with one key (hex) a line; the first is used, the others were used before and still find their rows

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._retry_at = 0.0
        self._is_saved = path.exists()
        if self._is_saved:
            self._keys = read_keys(path, _OF_SUBJECTS)
            return
        self._keys = [secrets.token_bytes(KEY_BYTES)]
        try:
            make_key_file(path, self._keys[0])
            self._is_saved = True
        except FileExistsError:  # another process was first
            self._keys, self._is_saved = read_keys(path, _OF_SUBJECTS), True
        except OSError as error:
            logger.warning("subjects.key_not_saved", extra={"reason": type(error).__name__})

    def of(self, subject: str) -> bytes:
        """The subject's pseudonym, 32 bytes."""
        if not self._is_saved and time.monotonic() >= self._retry_at:
            self._save()
        return hmac.digest(self._keys[0], subject.encode(), "sha256")

    def all_of(self, subject: str) -> list[bytes]:
        """The subject's pseudonyms under every key that was ever used."""
        return [hmac.digest(key, subject.encode(), "sha256") for key in self._keys]

    def _save(self) -> None:
        """Write the key that was used so far: as the first, or, where others have made one meanwhile, below theirs."""
        self._retry_at = time.monotonic() + _RETRY_S
        try:
            try:
                make_key_file(self._path, self._keys[0])
            except FileExistsError:
                _append(self._path, self._keys[0])
                self._keys = read_keys(self._path, _OF_SUBJECTS)
        except (OSError, ConfigError):
            return
        self._is_saved = True
        logger.warning("subjects.key_saved", extra={"keys": len(self._keys)})


def _append(path: Path, key: bytes) -> None:
    with path.open("a", encoding="ascii") as file:
        file.write(f"\n{key.hex()}\n")
        file.flush()
        os.fsync(file.fileno())
