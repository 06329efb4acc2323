"""Erases a person everywhere answers about him are kept: labels, the monitor's ledger, the log and its sealed copies.

The feature store is not touched: rows that retraining added are training data, which a Delta version names for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ml_core.base.settings import Settings
from ml_core.lab.log_care.erasure import Erased, erase
from ml_core.lab.watching.health_monitor import ledger_path
from ml_core.lab.watching.ledger import Ledger
from ml_core.serve.log.labels import LabelStore
from ml_core.serve.log.reader import PredictionLog

__all__ = ["Forgotten", "forget"]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was erased.

    Attributes
    ----------
    log : answers, by database, and what could not be done yet
    labels : labels of these answers, corrections included
    matured : their rows in the monitor's ledger
    """

    log: Erased
    labels: int
    matured: int


def forget(
    settings: Settings, pseudonyms: Sequence[bytes], *, step: Callable[[float], None] = lambda _share: None
) -> Forgotten:
    """Erase a person. The log comes last, since it knows which answers are his: killed anywhere, run it again.

    Parameters
    ----------
    pseudonyms : of the person under every key that was ever used
    step : told of progress; shares add up to one

    Raises
    ------
    LabelsNotStored, LogDamaged, ArtefactError, OSError
        A store cannot be changed; what was erased before stays erased.
    """
    log = PredictionLog(settings.log)
    ids = log.ids_of_subjects(pseudonyms)
    labels = LabelStore(settings.labels, log.known).erase(ids)
    matured = Ledger.erase(ledger_path(settings), pseudonyms, ids)
    return Forgotten(erase(settings, pseudonyms, step=step), labels, matured)
