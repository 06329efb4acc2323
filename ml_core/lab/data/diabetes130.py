"""Diabetes 130-US hospitals 1999-2008: bringing the published table here, recognising it, and its rows as v2 columns.

UCI Machine Learning Repository, doi 10.24432/C5230J, CC BY 4.0; Strack et al., BioMed Research International 2014,
article 781670. Any container of the table is known by the bytes of the CSV it stands for.
"""

from __future__ import annotations

import hashlib
import socket
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml_core.base.errors import DataError
from ml_core.lab.data.table_frames import numbers_of_text, read_table, write_table
from ml_core.serve.features.v2 import COLUMNS

__all__ = [
    "FETCH_STEPS",
    "LABEL",
    "PUBLISHED_COLUMNS",
    "PUBLISHED_CSV_SHA256",
    "REORDERED_CSV_SHA256",
    "Fetched",
    "as_published",
    "csv_sha256",
    "fetch_diabetes130",
    "source_columns",
    "to_v2",
]

PUBLISHED_CSV_SHA256 = "0689e7ec031237dc63031b938805c48377748761a3b26acab621567afa24df97"
"""sha256 of ``diabetic_data.csv`` (19,159,383 bytes, CRLF line ends, 101,766 rows)."""

REORDERED_CSV_SHA256 = "88af8c70f4a839d5c0621c8a9630560e5b6025ce75ed38522a44a3bdcecbd877"
"""The same for its rows in order of ``encounter_id``: how they are known when a container lost their order."""

LABEL = "readmitted"
_NUMBERS = (
    "encounter_id",
    "patient_nbr",
    "admission_type_id",
    "discharge_disposition_id",
    "admission_source_id",
    "time_in_hospital",
    "num_lab_procedures",
    "num_procedures",
    "num_medications",
    "number_outpatient",
    "number_emergency",
    "number_inpatient",
    "number_diagnoses",
)
PUBLISHED_COLUMNS = (
    "encounter_id", "patient_nbr", "race", "gender", "age", "weight", "admission_type_id", "discharge_disposition_id",
    "admission_source_id", "time_in_hospital", "payer_code", "medical_specialty", "num_lab_procedures",
    "num_procedures", "num_medications", "number_outpatient", "number_emergency", "number_inpatient", "diag_1",
    "diag_2", "diag_3", "number_diagnoses", "max_glu_serum", "A1Cresult", "metformin", "repaglinide", "nateglinide",
    "chlorpropamide", "glimepiride", "acetohexamide", "glipizide", "glyburide", "tolbutamide", "pioglitazone",
    "rosiglitazone", "acarbose", "miglitol", "troglitazone", "tolazamide", "examide", "citoglipton", "insulin",
    "glyburide-metformin", "glipizide-metformin", "glimepiride-pioglitazone", "metformin-rosiglitazone",
    "metformin-pioglitazone", "change", "diabetesMed", "readmitted",
)  # fmt: skip
_NOT_TAKEN = ("max_glu_serum", "A1Cresult")  # here "None" is a word: the test was not taken
_DIED_OR_HOSPICE = (11, 13, 14, 19, 20, 21)  # left out as in Strack et al.: they cannot be readmitted
_READMITTED = {"<30": 1, ">30": 0, "NO": 0}

FETCH_STEPS = 4
"""How often ``fetch_diabetes130`` reports progress."""

_OPENML_NAME = "Diabetes130US"
_NETWORK_TIMEOUT_S = 30.0


def source_columns() -> tuple[str, ...]:
    """The published columns that v2 is made of."""
    return (*(c.name for c in COLUMNS if c.role != "label"), LABEL)


def to_v2(raw: pd.DataFrame, beside: Sequence[str] = ()) -> tuple[pd.DataFrame, int]:
    """Published rows as v2 columns, and how many were left out because the stay ended in death or a hospice.

    ``?``, ``Unknown/Invalid`` and, for the two laboratory results, ``None`` become null. Whatever else is not as
    published stays as it is, for the column table to refuse.

    Parameters
    ----------
    beside : published columns that are taken along, such as ``race``
    """
    frame = {}
    for column in COLUMNS:
        if column.role != "label":
            frame[column.name] = _typed(raw[column.name], column.name)
    for name in beside:
        frame[name] = _typed(raw[name], name)
    frame["readmission_30d"] = _label(raw[LABEL])
    table = pd.DataFrame(frame)
    left_out = table["discharge_disposition_id"].isin(_DIED_OR_HOSPICE)
    return table[~left_out].reset_index(drop=True), int(left_out.sum())


def _label(published: pd.Series[Any]) -> pd.Series[Any]:
    known = published.map(_READMITTED)
    if known.notna().all():
        return known.astype("int64")
    return pd.Series([_READMITTED.get(word, word) for word in published.astype(object)], dtype=object)


def _typed(values: pd.Series[Any], name: str) -> pd.Series[Any]:
    if name in _NUMBERS:
        return numbers_of_text(values)
    null = ("?", "Unknown/Invalid", "None") if name in _NOT_TAKEN else ("?", "Unknown/Invalid")
    values = values.astype(object)
    return values.where(~(values.isin(null) | values.isna()), None)


def as_published(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame from another container (OpenML, a CSV read as texts) with the published cells, in the published order.

    Numbers become int64, missing cells ``?`` (``None`` for the two laboratory results), and the quotes some ARFF
    readers leave around a level are taken off.

    Raises
    ------
    DataError
        Published columns are missing, or a number column holds something else.
    """
    missing = [name for name in PUBLISHED_COLUMNS if name not in frame.columns]
    if missing:
        raise DataError("Diabetes 130-US", f"the table has no column {', '.join(missing)}")
    return pd.DataFrame(
        {name: _whole_numbers(frame[name]) if name in _NUMBERS else _words(frame[name]) for name in PUBLISHED_COLUMNS}
    )


def _whole_numbers(values: pd.Series[Any]) -> pd.Series[Any]:
    numbers = numbers_of_text(values.astype(object) if values.dtype == "category" else values)
    if numbers.dtype == "float64" and (np.trunc(numbers) == numbers).all():
        return numbers.astype("int64")
    if numbers.dtype != "int64":
        raise DataError("Diabetes 130-US", f"column {values.name} holds cells that are no whole numbers")
    return numbers


def _words(values: pd.Series[Any]) -> pd.Series[Any]:
    which, distinct = pd.factorize(values.to_numpy(dtype=object))  # few distinct words, so each is cleaned once
    words = [str(word).strip("'\"").replace("\\", "") for word in distinct]
    missing = "None" if values.name in _NOT_TAKEN else "?"
    return pd.Series(np.array([*words, missing], dtype=object)[which], name=values.name, index=values.index)


def csv_sha256(frame: pd.DataFrame) -> str:
    """sha256 (hex) of the published CSV form of these rows, in this order."""
    text = frame[list(PUBLISHED_COLUMNS)].to_csv(index=False, lineterminator="\r\n")
    return hashlib.sha256(text.encode()).hexdigest()


# --- bringing it here -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was brought.

    Attributes
    ----------
    path : the Parquet file written
    origin : ``OpenML`` or the file it came from
    rows : encounters in it
    csv_sha256 : of the published CSV form of its rows
    verified : whether these are the published cells
    """

    path: Path
    origin: str
    rows: int
    csv_sha256: str
    verified: bool


def fetch_diabetes130(
    out: Path,
    source: Path | None = None,
    *,
    unverified: bool = False,
    step: Callable[[], None] = lambda: None,
) -> Fetched:
    """Writes the published table to a Parquet file.

    The check does not depend on the container: whatever the rows came in, the CSV they stand for must have the sha256
    of the published ``diabetic_data.csv``.

    Parameters
    ----------
    out : file to write, ``.parquet`` or ``.csv``; it appears whole or not at all
    source : ``.csv`` or ``.parquet`` file with the published columns; OpenML if None
    unverified : also take rows that are not the published ones
    step : called ``FETCH_STEPS`` times on the way

    Raises
    ------
    DataError
        OpenML cannot be reached, the file cannot be used, or the rows are not the published ones.
    """
    raw = _from_openml() if source is None else read_table(source, PUBLISHED_COLUMNS)
    origin = "OpenML" if source is None else str(source)
    step()
    table = as_published(raw)
    step()
    table, digest, verified = _recognise(table)
    if not verified and not unverified:
        raise DataError(
            origin,
            f"its rows are not the published ones (sha256 {digest[:12]}…, published {PUBLISHED_CSV_SHA256[:12]}…); "
            "if that is meant, say --unverified",
        )
    step()
    write_table(table, out)
    step()
    return Fetched(out, origin, len(table), digest, verified)


def _recognise(table: pd.DataFrame) -> tuple[pd.DataFrame, str, bool]:
    """The table, its sha256, and whether it is the published one; rows in another order are sorted by their id."""
    digest = csv_sha256(table)
    if digest == PUBLISHED_CSV_SHA256:
        return table, digest, True
    ordered = table.sort_values("encounter_id", ignore_index=True)
    digest_ordered = csv_sha256(ordered)
    if digest_ordered == REORDERED_CSV_SHA256:
        return ordered, digest_ordered, True
    return table, digest, False


def _from_openml() -> pd.DataFrame:
    from sklearn.datasets import fetch_openml

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT_S)  # without one, a silent server would hold us for ever
    try:
        with warnings.catch_warnings():  # it warns at every retry
            warnings.simplefilter("ignore")
            bunch = fetch_openml(_OPENML_NAME, version=1, as_frame=True, cache=False, parser="pandas", n_retries=1)
    except (OSError, ValueError) as error:  # no network; or OpenML knows no such data set any more
        raise DataError(
            "OpenML", f"cannot deliver {_OPENML_NAME} ({type(error).__name__}); give a downloaded file with --path"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    frame: pd.DataFrame = bunch.frame
    return frame
