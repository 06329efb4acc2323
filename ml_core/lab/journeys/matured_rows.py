"""Matured answers as rows of the feature store: what retraining adds to the rows of the first training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ml_core.base.errors import DataError
from ml_core.base.settings import Settings
from ml_core.features.columns import Column, with_role
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.people import group_of, made_name
from ml_core.lab.data.schemas import validate_frame
from ml_core.lab.watching.health_monitor import ledger_path
from ml_core.lab.watching.ledger import Ledger, MaturedRow
from ml_core.serve.features.versions import FeatureVersion, get_feature_version
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import PredictionLog

__all__ = ["NewRows", "new_rows"]

_AT_A_TIME = 10_000


@dataclass(frozen=True, slots=True)
class NewRows:
    """Rows that the feature store does not hold yet.

    Attributes
    ----------
    frame : columns of the feature version, patients under the names they have in the store where it knows them
    upto : number of the last matured answer that is in it, or was left out
    without_input : answers left out because the log keeps no input of them (erased, pruned, or inputs are off), or
        because they repeat an earlier answer of the same ``client_request_id``
    """

    frame: pd.DataFrame
    upto: int
    without_input: int


def new_rows(settings: Settings, feature_version: str, after: int, beside: Sequence[Column] = ()) -> NewRows:
    """Matured answers after the ``after``-th, of every model of that feature version.

    A patient whom the store knows keeps the name from there, so that no test patient of an older model becomes a
    training patient of a newer one. Others get a name made of their pseudonym, the same every time.

    Parameters
    ----------
    beside : columns that only tell groups of patients; null where an answer has none

    Raises
    ------
    DataError
        Rows break the column table.
    LogDamaged, ConfigError
        Ledger, log or the key of subjects cannot be read.
    """
    version = get_feature_version(feature_version)
    with Ledger.reading(ledger_path(settings)) as ledger:
        matured = [] if ledger is None else ledger.matured_after(after)
    if not matured:
        return NewRows(pd.DataFrame(), after, 0)
    log = PredictionLog(settings.log)
    names = _names(settings, version)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(matured), _AT_A_TIME):
        part = [row for _, row in matured[start : start + _AT_A_TIME]]
        answers = log.find_many([row.request_id for row in part])
        repeats = log.repeats([answer for answer in answers.values() if isinstance(answer, LoggedAnswer)])
        rows += [
            _row(version, row, answer, names) | {c.name: (answer.group_values or {}).get(c.name) for c in beside}
            for row in part
            if isinstance(answer := answers.get(row.request_id), LoggedAnswer)
            and answer.input is not None
            and answer.lineage["feature_version"] == feature_version
            and answer.request_id not in repeats
        ]
    frame = pd.DataFrame(rows)
    if len(frame):
        for column in beside:  # a column of objects, in which a missing text is None and no number
            kind = np.float64 if column.dtype == "float" else object
            frame[column.name] = pd.Series([row[column.name] for row in rows], dtype=kind)
        verdict = validate_frame(frame, feature_version, beside)
        if not verdict.good.all():
            raise DataError("labelled answers", f"{int((~verdict.good).sum())} break the column table")
    return NewRows(frame, matured[-1][0], len(matured) - len(frame))


def _names(settings: Settings, version: FeatureVersion) -> Mapping[bytes, Any]:
    """Names of the store's patients by their pseudonyms, under every key that was ever used."""
    group = group_of(version)
    pseudonyms = Pseudonyms(settings.subject_key)
    try:
        known = FeatureStore(settings.feature_store, settings.model_name).read(version.name)[group.name].unique()
    except DataError:
        return {}
    return {hidden: name for name in known.tolist() for hidden in pseudonyms.all_of(str(name))}


def _row(version: FeatureVersion, row: MaturedRow, answer: LoggedAnswer, names: Mapping[bytes, Any]) -> dict[str, Any]:
    group, label, time = group_of(version), with_role(version.columns, "label"), with_role(version.columns, "time")
    if label is None:
        raise DataError(f"feature version {version.name}", "has no label column")
    hidden = row.subject or row.request_id
    found = {**(answer.input or {}), group.name: names.get(hidden, made_name(group, hidden)), label.name: row.label}
    if time is not None:
        found[time.name] = answer.at
    return found
