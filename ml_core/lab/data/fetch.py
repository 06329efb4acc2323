"""Brings the Diabetes 130-US table here, from OpenML or from a file, and makes sure it is the published one."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ml_core.base.errors import DataError
from ml_core.lab.data.diabetes130 import (
    PUBLISHED_COLUMNS,
    PUBLISHED_CSV_SHA256,
    REORDERED_CSV_SHA256,
    as_published,
    csv_sha256,
)
from ml_core.lab.data.table_frames import read_table, write_table

__all__ = ["FETCH_STEPS", "Fetched", "fetch_diabetes130"]

FETCH_STEPS = 4
"""How often ``fetch_diabetes130`` reports progress."""

_OPENML_NAME = "Diabetes130US"
_NETWORK_TIMEOUT_S = 30.0


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
