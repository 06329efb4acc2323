"""Fetches models from the objects of a home beside whoever asks for them, so that a slow store holds up no worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from ml_core.base.errors import HomeUnreachable

__all__ = ["Fetches"]


class Fetches:
    """The fetches of one process; each model is fetched once at a time.

    Parameters
    ----------
    patience_s : longest wait for a model; the fetch goes on after that, and whoever asks again gets what it has brought
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._under_way: dict[tuple[str, str], Future[Path | None]] = {}
        self._changing = threading.Lock()

    def folder(self, tag: str, model_hash: str, fetch: Callable[[], Path | None]) -> Path | None:
        """What ``fetch`` gives; the errors that it raises are raised here.

        Raises
        ------
        HomeUnreachable
            It takes longer.
        """
        key = (tag, model_hash)
        with self._changing:
            found = self._under_way.get(key)
            if found is None:
                found = self._under_way[key] = Future()
                threading.Thread(target=_run, args=(found, fetch), name="surety-fetch", daemon=True).start()
        try:
            return found.result(self._patience_s)
        except TimeoutError as error:
            if found.done():  # the fetch itself has ended so
                raise
            raise HomeUnreachable("the object store", f"{tag} is still being fetched") from error
        finally:
            if found.done():
                with self._changing:
                    self._under_way.pop(key, None)


def _run(found: Future[Path | None], fetch: Callable[[], Path | None]) -> None:
    try:
        found.set_result(fetch())
    except BaseException as error:  # noqa: BLE001 - whoever asks gets it
        found.set_exception(error)
