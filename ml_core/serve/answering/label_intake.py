"""Takes in labels: parsed bodies in, counts out; each outcome is counted in the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ml_core.base.settings import Settings
from ml_core.serve import metrics
from ml_core.serve.answering.envelope import Label
from ml_core.serve.log.label_requests import parse_labels
from ml_core.serve.log.labels import LabelCounts, LabelStore
from ml_core.serve.log.reader import PredictionLog

__all__ = ["LabelDesk"]


class LabelDesk:
    """Where callers bring labels.

    Parameters
    ----------
    settings : where labels and the prediction log lie, and how many labels one call may bring
    """

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_batch_rows
        self._store = LabelStore(settings.labels, PredictionLog(settings.log).known)

    def take(self, body: object, classes: Sequence[Label] | None, source: str) -> LabelCounts:
        """Store the labels in a parsed body. Reads and writes files: not for the event loop.

        Raises
        ------
        InvalidRequest
            The body is not what it should be; every wrong field is named.
        LabelsNotStored
            Nothing of it was stored.
        """
        counts = self._store.add(parse_labels(body, self._most, classes), source)
        for outcome, n in asdict(counts).items():
            if n:
                metrics.LABELS.labels(outcome).inc(n)
        return counts
