"""Matured answers as rows of the feature store: what retraining adds to the rows of the first training.

The newest of them calibrate a model anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ml_core.base.clock import microseconds
from ml_core.base.errors import DataError
from ml_core.base.settings import Settings
from ml_core.features.columns import Column, features_of, with_role
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.people import group_of, made_name
from ml_core.lab.data.schemas import validate_frame
from ml_core.lab.training.weighting import LiveRows
from ml_core.lab.watching.ledger import Ledger, MaturedRow, open_ledger_tables
from ml_core.lab.watching.live_drift import inputs_of
from ml_core.serve.features.versions import FeatureVersion, get_feature_version
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.key_register import check_outside_keys
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import PredictionLog

__all__ = ["NewRows", "Outcomes", "live_rows", "new_rows", "newest_outcomes"]

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
    with Ledger.reading(open_ledger_tables(settings, settings.model_name)) as ledger:
        matured = [] if ledger is None else ledger.matured_after(after)
    if not matured:
        return NewRows(pd.DataFrame(), after, 0)
    frame = _frame(settings, version, [row for _, row in matured], beside)
    return NewRows(frame, matured[-1][0], len(matured) - len(frame))


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The newest answers whose outcome is known, as rows of the feature version.

    Attributes
    ----------
    frame : the oldest first, people named as in ``NewRows``
    of_trained : answers left out because their person's rows trained the scorer
    without_input : answers left out as in ``NewRows``
    """

    frame: pd.DataFrame
    of_trained: int
    without_input: int


def newest_outcomes(
    settings: Settings,
    feature_version: str,
    most: int,
    trained: Collection[str],
    since_us: int = 0,
    beside: Sequence[Column] = (),
) -> Outcomes:
    """The newest matured answers, of every model of that feature version but of no fallback.

    A fallback's answer is left out because its record may be why the model failed. A ``client_request_id`` counts once.

    Parameters
    ----------
    most : rows, at most
    trained : names, as texts, of people whose answers are left out
    since_us : answers given at that time or later, microseconds since 1970
    beside : columns that only tell groups of patients

    Raises
    ------
    DataError, LogDamaged, ConfigError
        As ``new_rows``.
    """
    version = get_feature_version(feature_version)
    group = group_of(version).name
    frames: list[pd.DataFrame] = []
    found = of_trained = without_input = 0
    last: tuple[int, int] | None = None
    with Ledger.reading(open_ledger_tables(settings, settings.model_name)) as ledger:
        while ledger is not None and found < most:
            part = ledger.newest_own(_AT_A_TIME, since_us, last)
            if not part:
                break
            last = (part[-1][1].at_us, part[-1][0])
            frame = _frame(settings, version, [row for _, row in part], beside)
            without_input += len(part) - len(frame)
            if len(frame):
                known = frame[group].astype(str).isin(list(trained))
                of_trained += int(known.sum())
                frames.append(frame[~known])
                found += len(frames[-1])
    whole = pd.concat(frames, ignore_index=True).head(most) if frames else pd.DataFrame()
    return Outcomes(whole.iloc[::-1].reset_index(drop=True), of_trained, without_input)


def live_rows(settings: Settings, feature_version: str, most: int, since_us: int = 0) -> LiveRows:
    """The newest answers of every model of a feature version, whether their outcome is known or not.

    A fallback's answers count, since they were asked for like any; a ``client_request_id`` counts once.

    Parameters
    ----------
    most : rows, at most
    since_us : answers given at that time or later, microseconds since 1970

    Raises
    ------
    DataError
        There is none, or the log keeps no inputs.
    LogDamaged
        The log cannot be read.
    """
    version = get_feature_version(feature_version)
    log = PredictionLog.of(settings)
    newest = [a for a in log.last(most) if a.lineage["feature_version"] == feature_version]
    repeats = log.repeats(newest)
    kept = [a for a in newest if a.input is not None and a.request_id not in repeats and microseconds(a.at) >= since_us]
    if not kept:
        raise DataError("the live log", f"holds no answer of {feature_version} with its input in that time")
    columns = inputs_of(kept, features_of(version.columns))
    groups = np.array([(a.subject or id_bytes(a.request_id)).hex() for a in kept])
    return LiveRows(columns, version.transform(columns), groups)


def _frame(
    settings: Settings, version: FeatureVersion, matured: Sequence[MaturedRow], beside: Sequence[Column]
) -> pd.DataFrame:
    """These answers as rows of the feature version, without repeats and without those whose input is not kept."""
    log = PredictionLog.of(settings)
    names = _names(settings, version)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(matured), _AT_A_TIME):
        part = matured[start : start + _AT_A_TIME]
        answers = log.find_many([row.request_id for row in part])
        repeats = log.repeats([answer for answer in answers.values() if isinstance(answer, LoggedAnswer)])
        rows += [
            _row(version, row, answer, names) | {c.name: (answer.group_values or {}).get(c.name) for c in beside}
            for row in part
            if isinstance(answer := answers.get(row.request_id), LoggedAnswer)
            and answer.input is not None
            and answer.lineage["feature_version"] == version.name
            and answer.request_id not in repeats
        ]
    frame = pd.DataFrame(rows)
    if len(frame):
        for column in beside:  # a column of objects, in which a missing text is None and no number
            kind = np.float64 if column.dtype == "float" else object
            frame[column.name] = pd.Series([row[column.name] for row in rows], dtype=kind)
        _check(frame, version, beside)
    return frame


def _check(frame: pd.DataFrame, version: FeatureVersion, beside: Sequence[Column]) -> None:
    """Refuse rows that break the column table; a name that was made need not have the form of the caller's own."""
    form = f"{group_of(version).name}: wrong form"
    reasons = validate_frame(frame, version.name, beside).reasons.values()
    faults = Counter(reason for of_row in reasons for reason in of_row if reason != form)
    if faults:
        told = ", ".join(f"{reason} ({n})" for reason, n in faults.most_common(3))
        raise DataError("labelled answers", f"break the column table: {told}")


def _names(settings: Settings, version: FeatureVersion) -> Mapping[bytes, Any]:
    """Names of the store's patients by their pseudonyms, under every key that was ever used."""
    group = group_of(version)
    check_outside_keys(settings)
    pseudonyms = Pseudonyms(settings.subject_key)
    try:
        known = FeatureStore.of(settings, settings.model_name).read(version.name)[group.name].unique()
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
