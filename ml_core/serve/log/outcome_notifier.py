"""Tells a listener what became of answers, on its own thread, so that a slow or failing listener holds up nothing."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable

from ml_core.serve.log.prediction_store import LogOutcome

__all__ = ["Listener", "OutcomeNotifier"]

logger = logging.getLogger(__name__)

Listener = Callable[[LogOutcome, int], None]
"""Told how many answers more have come to an outcome."""
_GATHER_S = 0.1
"""The listener is told at most so often; under load a call for every commit would cost more than the commit."""


class OutcomeNotifier:
    """Adds up outcomes, and passes the sums on.

    Parameters
    ----------
    listener : told every outcome once
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._untold: Counter[LogOutcome] = Counter()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="surety-log-teller", daemon=True)

    def start(self) -> None:
        """Tell from now on."""
        self._thread.start()

    def add(self, outcome: LogOutcome, answers: int) -> None:
        """Add to the sums that the listener gets next."""
        with self._lock:
            self._untold[outcome] += answers
        if not self._news.is_set():
            self._news.set()

    def close(self, timeout_s: float) -> None:
        """Tell the remaining sums, within that time."""
        self._ends.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        ends = False
        while not ends:
            self._news.wait()
            ends = self._ends.wait(_GATHER_S)
            self._news.clear()
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            untold, self._untold = self._untold, Counter()
        for outcome, answers in untold.items():
            try:
                self._listener(outcome, answers)
            except Exception as error:  # noqa: BLE001 - a listener may fail as it likes
                logger.warning("log.listener_failed", extra={"reason": type(error).__name__, "outcome": outcome})
