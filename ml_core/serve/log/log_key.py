"""The key of the log. Without it nobody can make a chain, a label's mark or a journal entry that verifies.

It comes from ``SURETY_LOG_KEY_FILE``, best a file outside the home, or else from ``log.key`` in the home, which is made
when it is first needed. A key from outside is never made here.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from ml_core.base.settings import Settings
from ml_core.serve.log.key_files import KEY_BYTES, make_key_file, read_keys

__all__ = ["LogKey", "LogKeys"]

_WHAT = "the log"


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
            self._keys = [LogKey(raw) for raw in read_keys(self.path, _WHAT)]
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
