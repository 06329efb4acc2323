"""Shadow mode: after the reply, from a bounded queue, the challenger scores what the champion has answered."""

from __future__ import annotations

import json
import logging
import logging.handlers
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, compress
from pathlib import Path

import numpy as np

from ml_core.base.arrays import FeatureMatrix, FloatArray
from ml_core.features.columns import ColumnArrays
from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.metrics import HOME_FAILURES, SHADOW
from ml_core.serve.model.prediction_sets import Predictions, RowPrediction
from ml_core.serve.rollout.worker_reports import ShadowReport
from ml_core.serve.running.runner import score_rows

__all__ = ["Shadow", "ShadowRows"]

logger = logging.getLogger(__name__)

MOST_SHADOW_ROWS = 10_000
"""Rows that may wait; more are left out and counted."""
_ROWS_AT_ONCE = 256
_PAUSE_S = 0.02
_FILE_BYTES, _FILES = 16_000_000, 4
_KEEP_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class ShadowRows:
    """Some rows the champion has answered, and what it said.

    Attributes
    ----------
    ids : request ids; None for rows of a bulk call, which are not written down one by one
    columns : of the n rows
    features : their matrix by the champion's transform, where it is at hand
    answers : the numbers of a single row, or those of n rows
    level : the confidence level of the sets
    """

    ids: Sequence[str | None]
    columns: ColumnArrays
    features: FeatureMatrix | None
    answers: RowPrediction | Predictions
    level: Decimal

    def __len__(self) -> int:
        return 1 if isinstance(self.answers, RowPrediction) else len(self.answers.proba)


class Shadow:
    """Scores waiting rows on a thread of its own and keeps count of how champion and challenger differ.

    Parameters
    ----------
    folder : where differences are written prediction by prediction, in files of bounded size; None: nowhere
    name : of this worker's files
    """

    def __init__(self, folder: Path | None = None, name: str = "worker") -> None:
        self._folder = folder
        self._name = name
        self._waiting: deque[tuple[Live, ShadowRows]] = deque()
        self._waiting_rows = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._file: logging.Handler | None = None
        self._is_mute = False
        self._stage = 0
        self._counts = dict.fromkeys(("scored", "dropped", "failed", "agreed", "same_set"), 0)
        self._difference_sum = 0.0
        self._difference_max = 0.0

    def put(self, live: Live, rows: ShadowRows) -> None:
        """Take rows for later, where the flags want them; a full queue counts them and lets them go. Never blocks."""
        if not _wants(live):
            return
        with self._lock:
            self._begin_stage(live)
            if self._waiting_rows + len(rows) > MOST_SHADOW_ROWS:
                self._count(live, "dropped", len(rows))
                return
            self._waiting.append((live, rows))
            self._waiting_rows += len(rows)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="surety-shadow", daemon=True)
                self._thread.start()

    def report(self, stage: int) -> ShadowReport:
        """The counts of that stage; zeros where nothing of it has been shadowed."""
        with self._lock:
            if stage != self._stage:
                return ShadowReport()
            scored = self._counts["scored"]
            return ShadowReport(
                **self._counts,
                mean_difference=self._difference_sum / scored if scored else None,
                max_difference=self._difference_max if scored else None,
            )

    def drain(self, timeout_s: float) -> None:
        """Score what waits, for at most so long, and stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _begin_stage(self, live: Live) -> None:
        if live.stage > self._stage:
            self._stage = live.stage
            self._counts = dict.fromkeys(self._counts, 0)
            self._difference_sum = self._difference_max = 0.0

    def _count(self, live: Live, outcome: str, n: int) -> None:
        if live.stage == self._stage:
            self._counts[outcome] += n
        if live.challenger is not None and n:
            model = live.challenger
            SHADOW.labels(model.manifest.name, model.model.version, outcome).inc(n)

    def _work(self) -> None:
        while True:
            is_last = self._stopping.is_set()  # read before looking: rows that came before the stop are still scored
            taken = self._take()
            if not taken and is_last:
                return
            if not taken:
                self._stopping.wait(_PAUSE_S)
                continue
            live = taken[0][0]
            rows = [part for _, part in taken]
            n = sum(map(len, rows))
            try:
                self._compare(live, rows)
            except Exception:  # whatever a challenger does must not end its shadowing
                logger.exception("shadow.failed", extra={"rows": n})
                with self._lock:
                    self._count(live, "failed", n)

    def _take(self) -> list[tuple[Live, ShadowRows]]:
        """Some waiting rows of one moment of the rollout and one level."""
        taken: list[tuple[Live, ShadowRows]] = []
        n = 0
        with self._lock:
            while self._waiting and n < _ROWS_AT_ONCE:
                live, rows = self._waiting[0]
                if taken and (live is not taken[0][0] or rows.level != taken[0][1].level):
                    break
                taken.append(self._waiting.popleft())
                n += len(taken[-1][1])
            self._waiting_rows -= n
        return taken

    def _compare(self, live: Live, rows: list[ShadowRows]) -> None:
        challenger, champion = live.challenger, live.champion
        if challenger is None:
            return
        scored = score_rows(
            challenger.model.predictor.scorer, _matrix(challenger, champion, rows), len(champion.classes)
        )
        good = ~np.isnan(scored.proba[:, 0])
        theirs = Predictions.joined([_as_arrays(part.answers, len(champion.classes)) for part in rows]).only(good)
        columns = {} if challenger.grouped is None else _joined_columns(rows)
        ours = challenger.sets(scored.proba, columns, rows[0].level, good)
        difference = np.abs(theirs.proba - ours.proba)[np.arange(len(ours.proba)), theirs.predictions]
        found = _Compared(
            ids=list(compress(chain.from_iterable(part.ids for part in rows), good.tolist())),
            champion=theirs,
            challenger=ours,
            difference=difference,
        )
        self._add(live, found, failed=int((~good).sum()))
        try:
            self._write(live, found)
        except OSError as error:
            HOME_FAILURES.labels("shadow.not_written").inc()
            if not self._is_mute:
                self._is_mute = True
                logger.warning("shadow.not_written", extra={"reason": type(error).__name__})

    def _add(self, live: Live, found: _Compared, failed: int) -> None:
        agreed = found.champion.predictions == found.challenger.predictions
        same_set = (found.champion.sets == found.challenger.sets).all(axis=1)
        with self._lock:
            for outcome, n in (
                ("scored", len(found.ids)),
                ("failed", failed),
                ("agreed", int(agreed.sum())),
                ("same_set", int(same_set.sum())),
            ):
                self._count(live, outcome, n)
            if live.stage == self._stage and len(found.ids):
                self._difference_sum += float(found.difference.sum())
                self._difference_max = max(self._difference_max, float(found.difference.max()))

    def _write(self, live: Live, found: _Compared) -> None:
        """One JSON line for every prediction that has an id: both predictions, both sets, the difference."""
        if self._folder is None or live.challenger is None:
            return
        challenger, champion = live.challenger, live.champion
        models = {"champion": champion.model_hash, "challenger": challenger.model_hash}
        each = zip(found.ids, found.champion.rows(), found.challenger.rows(), found.difference.tolist(), strict=True)
        for request_id, theirs, ours, difference in each:
            if request_id is None:
                continue
            line = {
                "request_id": request_id,
                **models,
                "prediction": [champion.classes[theirs.prediction], challenger.classes[ours.prediction]],
                "set": [[champion.classes[k] for k in theirs.members], [challenger.classes[k] for k in ours.members]],
                "probability": [theirs.proba, ours.proba],
                "difference": difference,
            }
            self._log(json.dumps(line))

    def _log(self, line: str) -> None:
        if self._file is None:
            assert self._folder is not None
            self._folder.mkdir(parents=True, exist_ok=True)
            _clear_old(self._folder)
            self._file = logging.handlers.RotatingFileHandler(
                self._folder / f"{self._name}.jsonl", maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8"
            )
        self._file.emit(logging.makeLogRecord({"msg": line}))


def _clear_old(folder: Path) -> None:
    """Remove what workers that are long gone have written."""
    for path in folder.glob("*.jsonl*"):
        if time.time() - path.stat().st_mtime > _KEEP_S:
            path.unlink(missing_ok=True)


def _wants(live: Live) -> bool:
    """Whether a request is to be scored: shadowing is on, and the sample takes it."""
    flags = live.flags
    if not flags.shadow or live.challenger is None:
        return False
    return flags.shadow_share >= 1.0 or random.random() < flags.shadow_share  # noqa: S311 - no secret


@dataclass(frozen=True, slots=True)
class _Compared:
    ids: list[str | None]
    champion: Predictions
    challenger: Predictions
    difference: FloatArray


def _matrix(challenger: LiveModel, champion: LiveModel, rows: list[ShadowRows]) -> FeatureMatrix:
    """The challenger's matrix: the champion's where both have one feature version, else from the columns."""
    same = challenger.feature_version == champion.feature_version
    ready = [part.features for part in rows if part.features is not None] if same else []
    if len(ready) == len(rows):
        return np.concatenate(ready)
    return challenger.transform(_joined_columns(rows))


def _joined_columns(rows: list[ShadowRows]) -> ColumnArrays:
    names = rows[0].columns
    return {name: np.concatenate([part.columns[name] for part in rows]) for name in names}


def _as_arrays(answers: RowPrediction | Predictions, n_classes: int) -> Predictions:
    """The numbers of some rows as arrays."""
    if isinstance(answers, Predictions):
        return answers
    found = Predictions.blank(1, n_classes)
    inside = [k in answers.members for k in range(n_classes)]
    found.put(slice(None), (answers.proba, answers.p_values, inside, answers.prediction))
    return found
