"""Drift of live answers: the champion's newest inputs beside its reference, and a detector fed window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np

from ml_core.base.clock import microseconds, utc_text
from ml_core.base.errors import DataError
from ml_core.base.settings import Settings
from ml_core.features.columns import Column, ColumnArrays
from ml_core.lab.config import DriftConfig
from ml_core.lab.drift.block_means import BlockStatistics, blocks_of
from ml_core.lab.drift.detect import detect_drift, detect_score_drift
from ml_core.lab.drift.drift_check import DriftCheck, check_table
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.lab.drift.sequential import DriftState, update_drift, window_p
from ml_core.lab.watching.alarms import DRIFT
from ml_core.lab.watching.ledger import Ledger
from ml_core.lab.watching.readable_log import ReadableLog
from ml_core.serve.features.record import Record, RecordReader
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import Cursor, PredictionLog
from ml_core.serve.model.bundle import REFERENCE_FILE, features_of_artefact
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout.rollout_store import RolloutStore

__all__ = [
    "DriftMonitor",
    "LiveWindow",
    "ModelReference",
    "check_live",
    "inputs_of",
    "live_window",
    "reference_of",
    "scores_of",
]


_CURSOR = "drift_cursor"


@dataclass(frozen=True, slots=True)
class ModelReference:
    """The reference window that travels with a model.

    Attributes
    ----------
    tag, model_hash : of the model
    columns : its feature columns
    window : its training rows, described
    """

    tag: str
    model_hash: str
    columns: tuple[Column, ...]
    window: ReferenceWindow


@dataclass(frozen=True, slots=True)
class LiveWindow:
    """The newest answers of the champion.

    Attributes
    ----------
    reference : of the champion
    rows : number of answers
    inputs : feature columns as ``ColumnArrays``, each (rows,)
    scores : P(label) by label, as text, of the answers that the model gave itself; empty without any
    patients : pseudonym of whom each answer is about, None where nobody said
    since, until : time of the first and the last answer, UTC
    """

    reference: ModelReference
    rows: int
    inputs: ColumnArrays
    scores: ColumnArrays
    patients: tuple[bytes | None, ...]
    since: datetime
    until: datetime


def reference_of(loader: ModelLoader, tag: str) -> ModelReference:
    """The reference of the model with that tag. Its whole artefact is verified.

    Raises
    ------
    NotLoaded, ArtefactError
        The artefact is not found, or fails verification.
    """
    manifest, model_hash, files = loader.files(tag)
    columns = features_of_artefact(manifest, files).features
    return ModelReference(tag, model_hash, columns, ReferenceWindow.read(files[REFERENCE_FILE], columns))


def live_window(settings: Settings, rows: int) -> LiveWindow:
    """The newest answers of the champion, at most ``rows`` of them; repeats of a ``client_request_id`` are left out.

    Raises
    ------
    DataError
        No model is live, the log holds no answer of the champion yet, or inputs are not kept.
    NotLoaded, ArtefactError, LogDamaged
        The champion or the log cannot be read.
    """
    state = RolloutStore(settings).read()
    if state is None:
        raise DataError("the live log", f"nothing of {settings.model_name} is live: start the service first")
    reference = reference_of(ModelLoader(settings), settings.model or state.champion)
    log = PredictionLog.of(settings)
    newest = log.last(rows)
    repeats = log.repeats(newest)
    found = [a for a in newest if a.lineage["model_hash"] == reference.model_hash and a.request_id not in repeats]
    if not found:
        raise DataError("the live log", f"holds no answer of {reference.tag} yet")
    kept = [answer for answer in found if answer.input is not None]
    if not kept:
        raise DataError("the live log", "keeps no inputs (SURETY_LOG_INPUTS is false): give --current FILE")
    inputs, own = inputs_of(kept, reference.columns), [answer for answer in kept if answer.is_the_models_own]
    patients = tuple(answer.subject for answer in kept)
    return LiveWindow(reference, len(kept), inputs, scores_of(own) if own else {}, patients, kept[0].at, kept[-1].at)


def check_live(
    live: LiveWindow, config: DriftConfig, reference: ReferenceWindow | None = None, notes: Sequence[str] = ()
) -> DriftCheck:
    """One check of the newest answers: a patient's answers are one piece of evidence, probabilities count as well.

    Parameters
    ----------
    reference : another one than the model's own

    Raises
    ------
    DataError
        A column of the reference is missing.
    """
    window = live.reference.window if reference is None else reference
    scores = live.scores or None
    return check_table(window, live.inputs, config, probabilities=scores, patients=live.patients, notes=notes)


def inputs_of(answers: Sequence[LoggedAnswer], columns: Sequence[Column]) -> ColumnArrays:
    """The inputs of answers whose input was kept, as ``ColumnArrays``."""
    reader = RecordReader(columns)
    return reader.arrays([Record(dict(answer.input or {}), {}) for answer in answers])


def scores_of(answers: Sequence[LoggedAnswer]) -> ColumnArrays:
    """P(label) by label, as text, each (n,), of answers of one model."""
    classes = answers[0].lineage["classes"]
    values = np.array([answer.probabilities for answer in answers], dtype=np.float64)
    return {str(label): values[:, k] for k, label in enumerate(classes)}


class DriftMonitor:
    """Reads new answers of the champion, and compares them with its reference window by window.

    The ledger keeps where the last complete window ended. A new monitor reads on from there; this object also keeps the
    answers read since then. In a window, blocks of consecutive answers are the pieces of evidence, and the answers on
    one patient (``subject``) are in one block.

    Parameters
    ----------
    settings : window size, block size and threshold
    loader : finds the champion's reference
    log : the prediction log
    """

    def __init__(self, settings: Settings, loader: ModelLoader, log: ReadableLog) -> None:
        self._settings = settings
        self._loader = loader
        self._log = log
        self._reference: ModelReference | None = None
        self._statistics: BlockStatistics | None = None
        self._kept: Cursor = {}
        self._read_to: Cursor = {}
        self._rows: list[LoggedAnswer] = []

    def look(self, ledger: Ledger, tag: str, model_hash: str, now: datetime) -> int:
        """Compare every window that is complete by now; return how many there were.

        Raises
        ------
        LogDamaged, ArtefactError
            The log or the champion's reference cannot be read. Nothing of this object has changed.
        """
        reference, kept = self._reference, dict(ledger.fact(_CURSOR, {}))
        rows, read_to = self._rows, self._read_to
        if kept != self._kept:  # another monitor was here meanwhile, or the ledger's last change was undone
            rows, read_to = [], kept
        if reference is None or reference.model_hash != model_hash:
            reference, rows = reference_of(self._loader, tag), []
        size, windows = self._settings.drift_window_rows, 0
        while True:
            found, after = self._log.after(read_to, size - len(rows))
            if after == read_to:
                break
            read_to = after
            of_model = [a for a in found if a.lineage["model_hash"] == model_hash and a.input is not None]
            rows = rows + self._log.without_repeats(of_model)
            if len(rows) >= size:  # a bulk call is never divided, and may fill several windows
                for window in _split(rows, size):
                    self._compare(ledger, reference, window, now)
                    windows += 1
                rows = []
            if not rows:
                kept = read_to
                ledger.remember(_CURSOR, kept)
        self._reference, self._kept, self._read_to, self._rows = reference, kept, read_to, rows
        return windows

    def _statistics_of(self, reference: ModelReference) -> BlockStatistics:
        if self._statistics is None or self._statistics.window is not reference.window:
            self._statistics = BlockStatistics.of(reference.window)
        return self._statistics

    def _compare(
        self, ledger: Ledger, reference: ModelReference, window: Sequence[LoggedAnswer], now: datetime
    ) -> None:
        columns = reference.columns
        inputs = inputs_of(window, columns)
        reports = detect_drift(reference.window, inputs, rule="extended", columns=columns)
        own = [answer for answer in window if answer.is_the_models_own]
        scores = detect_score_drift(reference.window, scores_of(own), rule="extended") if own else []
        statistics = self._statistics_of(reference)
        blocks = blocks_of([answer.subject for answer in window], self._settings.drift_block_rows)
        state, since = ledger.detectors(reference.model_hash).get(DRIFT, (None, None))
        before = DriftState(self._settings.drift_alarm_windows) if state is None else DriftState(**state)
        after = update_drift(before, statistics, statistics.block_means(inputs, blocks), len(window))
        if after.is_alarmed and since is None:
            since = utc_text(now)
        ledger.keep_detector(reference.model_hash, DRIFT, asdict(after), since)
        first, last = microseconds(window[0].at), microseconds(window[-1].at)
        ledger.add_evidence(reference.model_hash, DRIFT, last, after.evidence)
        found = {"features": [asdict(r) for r in reports], "scores": [asdict(r) for r in scores]}
        ledger.keep_window(reference.model_hash, first, last, len(window), window_p(reports), found)


def _split(rows: Sequence[LoggedAnswer], size: int) -> list[Sequence[LoggedAnswer]]:
    """Rows by time, in windows of that size; the last window takes the remainder as well."""
    rows = sorted(rows, key=lambda answer: answer.at)  # they are read file by file
    n = max(1, len(rows) // size)
    return [rows[i * size : (i + 1) * size if i < n - 1 else None] for i in range(n)]
