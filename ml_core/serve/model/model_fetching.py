"""Fetches models from the objects of a home beside whoever asks for them, so that a slow store holds up no worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from ml_core.base.errors import HomeUnreachable

__all__ = ["Fetches"]

_Fetch = Callable[[], Path | None]


class Fetches:
    """The fetches of one process; each model is fetched once at a time.

    Parameters
    ----------
    patience_s : longest wait for a model. The fetch goes on after that, and a later question finds what it has brought.
        None: as long as it takes
    """

    def __init__(self, patience_s: float | None) -> None:
        self._patience_s = patience_s
        self._under_way: dict[tuple[str, str], _UnderWay] = {}
        self._changing = threading.Lock()

    def folder(self, model: tuple[str, str], fetch: _Fetch) -> Path | None:
        """What ``fetch`` gives; what it raises is raised here.

        Parameters
        ----------
        model : its tag and hash

        Raises
        ------
        HomeUnreachable
            It takes longer.
        """
        if self._patience_s is None:
            return fetch()
        with self._changing:
            found = self._under_way.get(model)
            if found is None:
                found = self._under_way[model] = _UnderWay(fetch)
                found.start()
        found.join(self._patience_s)
        if found.is_alive():
            raise HomeUnreachable("the object store", f"{model[0]} is still being fetched")
        with self._changing:
            self._under_way.pop(model, None)
        if found.problem is not None:
            raise found.problem
        return found.folder


class _UnderWay(threading.Thread):
    """One fetch, and what came of it."""

    def __init__(self, fetch: _Fetch) -> None:
        super().__init__(name="surety-fetch", daemon=True)
        self._fetch = fetch
        self.folder: Path | None = None
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            self.folder = self._fetch()
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            self.problem = error
