"""Drift of live answers: windows of inputs against the champion's reference, one after another, into one detector."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from ml_core.base.clock import microseconds, utc_text
from ml_core.base.errors import LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.drift.detect import detect_drift, detect_score_drift
from ml_core.lab.drift.sequential import start_drift, update_drift, window_p
from ml_core.lab.watching.alarms import DRIFT, drift_detector
from ml_core.lab.watching.ledger import Ledger
from ml_core.lab.watching.live_window import Normal, inputs_of, normal_of, scores_of
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import Cursor, PredictionLog
from ml_core.serve.model.loader import ModelLoader

__all__ = ["DriftWatch"]

logger = logging.getLogger(__name__)

_CURSOR = "drift_cursor"


class DriftWatch:
    """Reads new answers of the champion, and judges them window by window.

    The ledger keeps where the last window ended, so that a monitor that starts anew reads what came after it again; in
    between this object keeps what it has read.

    Parameters
    ----------
    settings : window size and threshold
    loader : finds the champion's reference
    log : the prediction log
    """

    def __init__(self, settings: Settings, loader: ModelLoader, log: PredictionLog) -> None:
        self._settings = settings
        self._loader = loader
        self._log = log
        self._normal: Normal | None = None
        self._kept: Cursor = {}
        self._read_to: Cursor = {}
        self._rows: list[LoggedAnswer] = []
        self._unreadable: set[str] = set()

    def look(self, ledger: Ledger, tag: str, model_hash: str, now: datetime) -> int:
        """Judge the windows that have become full; how many there were.

        Raises
        ------
        LogDamaged, ArtefactError
            The log, or the champion's reference, cannot be read; what was read is as it was before.
        """
        normal, kept = self._normal, dict(ledger.fact(_CURSOR, {}))
        rows, read_to = self._rows, self._read_to
        if kept != self._kept:  # another monitor has judged windows meanwhile, or the last look was undone
            rows, read_to = [], kept
        if normal is None or normal.model_hash != model_hash:
            normal, rows = normal_of(self._loader, tag), []
        size, windows = self._settings.drift_window_rows, 0
        while True:
            found, after = self._next(read_to, size - len(rows))
            if after == read_to:
                break
            read_to = after
            rows = rows + [a for a in found if a.lineage["model_hash"] == model_hash and a.input is not None]
            if len(rows) >= size:  # a bulk call comes whole, and fills several at once
                for window in _split(rows, size):
                    self._judge(ledger, normal, window, now)
                    windows += 1
                rows = []
            if not rows:
                kept = read_to
                ledger.remember(_CURSOR, kept)
        self._normal, self._kept, self._read_to, self._rows = normal, kept, read_to, rows
        return windows

    def _next(self, read_to: Cursor, limit: int) -> tuple[list[LoggedAnswer], Cursor]:
        """What comes after the cursor; a file that cannot be read is passed over, so that the others stay watched."""
        while True:
            try:
                return self._log.after(read_to, limit, self._unreadable)
            except LogDamaged as error:
                if error.file not in {file.path.name for file in self._log.files()} - self._unreadable:
                    raise
                self._unreadable.add(error.file)
                logger.error("log.unreadable", extra={"file": error.file, "reason": str(error)})  # noqa: TRY400 - one line

    def _judge(self, ledger: Ledger, normal: Normal, window: Sequence[LoggedAnswer], now: datetime) -> None:
        columns = normal.columns
        reports = detect_drift(normal.window, inputs_of(window, columns), rule="extended", columns=columns)
        own = [answer for answer in window if answer.is_the_models_own]
        scores = detect_score_drift(normal.window, scores_of(own), rule="extended") if own else []
        p_value = window_p(reports)
        state, since = ledger.detectors(normal.model_hash).get(DRIFT, (None, None))
        before = start_drift(self._settings.drift_alarm_windows) if state is None else drift_detector(state)
        after = update_drift(before, p_value)
        if after.is_alarmed and since is None:
            since = utc_text(now)
        ledger.keep_detector(normal.model_hash, DRIFT, asdict(after), since)
        times = [microseconds(answer.at) for answer in window]
        first, last = min(times), max(times)  # they come file by file
        ledger.add_evidence(normal.model_hash, DRIFT, last, after.evidence)
        found = {"features": [r.as_dict() for r in reports], "scores": [r.as_dict() for r in scores]}
        ledger.keep_window(normal.model_hash, first, last, len(window), p_value, found)


def _split(rows: Sequence[LoggedAnswer], size: int) -> list[Sequence[LoggedAnswer]]:
    """Rows in windows of that size; the last takes what is left over."""
    n = max(1, len(rows) // size)
    return [rows[i * size : (i + 1) * size if i < n - 1 else None] for i in range(n)]
