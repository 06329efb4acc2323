"""What a serving process knew last of a home's documents, on this machine: enough to begin while the database is away.

A worker that is lost while the database cannot be reached is replaced, and its successor goes on with what its machine
was told last. Only services read these copies; a command that cannot ask the home says so.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from ml_core.base.files import write_whole

__all__ = ["LastKnown"]


class LastKnown:
    """Copies of documents in a folder, each at its own name.

    Parameters
    ----------
    folder : made with the first copy
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, bytes | None] = {}
        self._changing = threading.Lock()

    def keep(self, name: str, content: bytes | None) -> None:
        """Remember a document, or that there is none. A full disk costs the copy, never the caller."""
        with self._changing:
            if name in self._kept and self._kept[name] == content:
                return
            with suppress(OSError):
                if content is None:
                    (self._folder / name).unlink(missing_ok=True)
                else:
                    with write_whole(self._folder / name, mode=0o600) as draft:
                        draft.write_bytes(content)
                self._kept[name] = content

    def read(self, name: str) -> bytes | None:
        """The document as it was known last; None where none was."""
        try:
            return (self._folder / name).read_bytes()
        except OSError:
            return None

    def names(self, folder: str) -> list[str]:
        """Names of the documents in a folder that are remembered, in order."""
        found = (path for path in (self._folder / folder).glob("*") if path.is_file() and path.suffix != ".draft")
        return sorted(f"{folder}/{path.name}" for path in found)
