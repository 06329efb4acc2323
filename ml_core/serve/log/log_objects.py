"""Files beside the rows of a log on many machines: bulk calls and sealed copies, kept in the home's object store.

Each machine has its own copy of what it needs, in the folder of the log. An object never changes but for sealed copies,
which are written anew when a person is erased.
"""

from __future__ import annotations

from pathlib import Path

from ml_core.base.errors import ArtefactError, LogDamaged
from ml_core.base.files import write_whole
from ml_core.serve.home.stores import Objects

__all__ = ["LogObjects"]

_MOST_BYTES = 1 << 32


class LogObjects:
    """The files of one model's log.

    Parameters
    ----------
    objects : of the home; None where nothing keeps them, so that each machine has its own alone
    folder : of the log on this machine
    """

    def __init__(self, objects: Objects | None, model: str, folder: Path) -> None:
        self._objects = objects
        self._prefix = f"log/{model}/"
        self._folder = folder

    def fetch(self, name: str) -> None:
        """Have a file here where the store has it. A sealed copy is fetched anew, or removed where there is none.

        Parameters
        ----------
        name : below the log's folder; of a folder, if it ends in ``/``: all in it

        Raises
        ------
        HomeUnreachable, OSError
            The store cannot be asked, or the file not be written.
        LogDamaged
            It is too large to be one of ours.
        """
        if self._objects is None:
            return
        if name.endswith("/"):
            for found in list(self._objects.names(self._prefix + name.rstrip("/"))):
                self.fetch(found.removeprefix(self._prefix))
            return
        path, may_change = self._folder / name, name.startswith("sealed/")
        if path.exists() and not may_change:
            return
        try:
            content = self._objects.get(self._prefix + name, _MOST_BYTES)
        except ArtefactError as error:
            raise LogDamaged(name, str(error)) from error
        if content is not None:
            with write_whole(path, mode=0o600) as draft:
                draft.write_bytes(content)
        elif may_change:
            path.unlink(missing_ok=True)

    def keep(self, name: str) -> None:
        """Give a file that is here to the store, and keep no copy of a bulk call.

        Raises
        ------
        HomeUnreachable, OSError
            The store has not taken it.
        """
        if self._objects is None:
            return
        path, may_change = self._folder / name, name.startswith("sealed/")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return  # it was given before
        self._objects.put(self._prefix + name, content, replace=may_change)
        if not may_change:
            path.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file from the store; of a folder, if it ends in ``/``: all in it.

        Raises
        ------
        HomeUnreachable, OSError
            It is still there.
        """
        if self._objects is None:
            return
        if not name.endswith("/"):
            self._objects.remove(self._prefix + name)
            return
        for found in list(self._objects.names(self._prefix + name.rstrip("/"))):
            self._objects.remove(found)
