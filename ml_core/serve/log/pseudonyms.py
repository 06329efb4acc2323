"""Who an answer is about, as a keyed HMAC: the log can find a person again, and tells nobody who it is."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import time
from pathlib import Path

from ml_core.base.errors import ConfigError
from ml_core.serve.log.key_files import KEY_BYTES, make_key_file, read_keys

__all__ = ["Pseudonyms"]

logger = logging.getLogger(__name__)

_WHAT = "subjects"
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
            self._keys = read_keys(path, _WHAT)
            return
        self._keys = [secrets.token_bytes(KEY_BYTES)]
        try:
            make_key_file(path, self._keys[0])
            self._is_saved = True
        except FileExistsError:  # another process was first
            self._keys, self._is_saved = read_keys(path, _WHAT), True
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
                self._keys = read_keys(self._path, _WHAT)
        except (OSError, ConfigError):
            return
        self._is_saved = True
        logger.warning("subjects.key_saved", extra={"keys": len(self._keys)})


def _append(path: Path, key: bytes) -> None:
    with path.open("a", encoding="ascii") as file:
        file.write(f"\n{key.hex()}\n")
        file.flush()
        os.fsync(file.fileno())
