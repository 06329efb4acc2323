"""Raw rows read, validated and made ready for the store, a piece of the tables at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ml_core.base.errors import DataError
from ml_core.features.columns import Column, ColumnArrays
from ml_core.lab.batch.row_groups import Piece
from ml_core.lab.batch.table_places import Place
from ml_core.lab.config import DataConfig
from ml_core.lab.data.frames import to_arrays
from ml_core.lab.data.raw_tables import RawTable, read_ids, read_source
from ml_core.lab.data.schemas import Verdict, first_of_its_kind, validate_frame
from ml_core.lab.data.stored_columns import as_stored
from ml_core.serve.features.column_table import table_bytes
from ml_core.serve.features.table_versions import version_of_bytes
from ml_core.serve.features.versions import FeatureVersion, get_feature_version, module_version, register_version

__all__ = ["JudgedRows", "JudgingWork", "Repeats", "ids_of_piece", "judge_piece", "repeats_among"]

_TRIED_ALONE = 200  # rows; a transform that looks at others changes nearly every one

Repeats = Mapping[int, Mapping[str, npt.NDArray[np.int64]]]
"""Rows that repeat an id of an earlier row, by the number of their piece and the id column."""


@dataclass(frozen=True)
class JudgingWork:
    """What a process needs to know to judge a piece of raw tables.

    Attributes
    ----------
    places : the tables
    first_rows : number of the first row of each among all rows
    data : how they are written, and what their values mean
    version : name of the feature version
    beside : further columns that are kept
    sets_aside : whether rows that break the column table may be left out
    table, module : what a process that does not know the version can make it of; None where its package has it
    repeats : ids that other pieces have too
    """

    places: tuple[Place, ...]
    first_rows: tuple[int, ...]
    data: DataConfig
    version: str
    beside: tuple[Column, ...]
    sets_aside: bool
    table: bytes | None = None
    module: Path | None = None
    repeats: Repeats | None = None

    @property
    def known_version(self) -> FeatureVersion:
        """The feature version, registered in this process."""
        if self.module is not None:
            register_version(module_version(self.module))
        if self.table is not None:
            return version_of_bytes(self.version, self.table, self.version)
        return get_feature_version(self.version)

    def for_others(self) -> JudgingWork:
        """The same for a process with another working folder, which may not know the version."""
        version = get_feature_version(self.version)
        places = tuple(place.absolute() if isinstance(place, Path) else place for place in self.places)
        module = None if version.source is None else version.source.absolute()
        table = table_bytes(version.columns) if version.is_table else None
        return replace(self, places=places, module=module, table=table)


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """What became of the rows of a piece.

    Attributes
    ----------
    rows : those that hold, as the store keeps them
    aside : the others as they were, with a column that says why; None where there are none
    rows_in, left_out : rows of the piece, and those that a rule leaves out
    problems : rows by column and check; never a value
    unknown_levels : texts that are no level of their column, see ``Verdict``
    ignored : columns that the version does not use
    """

    rows: pa.Table
    aside: pd.DataFrame | None
    rows_in: int
    left_out: int
    problems: Mapping[tuple[str, str], int]
    unknown_levels: Mapping[str, Mapping[str, int]]
    ignored: tuple[str, ...]

    @property
    def bad(self) -> int:
        """Rows that break the column table."""
        return 0 if self.aside is None else len(self.aside)


def judge_piece(work: JudgingWork, piece: Piece) -> JudgedRows:
    """Read and judge the rows of a piece; those that hold are shown to be transformable.

    Raises
    ------
    DataError
        The table cannot be used, or the transform cannot.
    """
    version, place = work.known_version, work.places[piece.file]
    first_row = work.first_rows[piece.file] + piece.first_row
    raw = read_source(
        place, work.data.adapter, version.name, work.beside, work.data, groups=piece.groups, first_row=first_row
    )
    verdict = validate_frame(raw.frame, version.name, work.beside)
    if work.repeats is not None:
        verdict = _with_repeats(verdict, work.repeats.get(piece.number, {}))
    is_whole = bool(verdict.good.all())
    kept = raw.frame[verdict.good].reset_index(drop=True)
    if len(kept) and (is_whole or work.sets_aside):
        _transform_once(kept, version)
    return JudgedRows(
        rows=as_stored(kept, version, work.beside),
        aside=None if is_whole else _set_aside(raw, verdict),
        rows_in=raw.rows_in,
        left_out=raw.left_out,
        problems={(column, check): count for column, check, count in verdict.problems},
        unknown_levels=verdict.unknown_levels,
        ignored=raw.ignored,
    )


def ids_of_piece(work: JudgingWork, piece: Piece) -> pd.DataFrame:
    """The ids of a piece's rows, without those that a rule leaves out."""
    return read_ids(work.places[piece.file], work.known_version.name, work.data, piece.groups)


def repeats_among(pieces: Sequence[Piece], ids: Iterable[pd.DataFrame]) -> Repeats:
    """The rows of each piece that repeat an id of an earlier row, wherever that is."""
    frames = [frame.astype(object).where(frame.notna(), None) for frame in ids]
    names = dict.fromkeys(name for frame in frames for name in frame.columns)
    found: dict[int, dict[str, npt.NDArray[np.int64]]] = {}
    for name in names:
        having = [(p, f[name]) for p, f in zip(pieces, frames, strict=True) if name in f.columns]
        repeated = ~first_of_its_kind(pd.concat([cells for _, cells in having], ignore_index=True))
        start = 0
        for piece, cells in having:
            rows = np.flatnonzero(repeated[start : start + len(cells)])
            start += len(cells)
            if rows.size:
                found.setdefault(piece.number, {})[str(name)] = rows
    return found


def _with_repeats(verdict: Verdict, repeats: Mapping[str, npt.NDArray[np.int64]]) -> Verdict:
    """The verdict that also knows which ids stand in earlier pieces."""
    if not repeats:
        return verdict
    good, reasons = verdict.good.copy(), {row: list(why) for row, why in verdict.reasons.items()}
    counts = Counter({(column, check): count for column, check, count in verdict.problems})
    for name, rows in repeats.items():
        told = f"{name}: repeated"
        for row in rows.tolist():
            why = reasons.setdefault(row, [])
            if told not in why:
                why.append(told)
                counts[name, "repeated"] += 1
        good[rows] = False
    problems = tuple((column, check, count) for (column, check), count in counts.items())
    return Verdict(good, problems, reasons, verdict.unknown_levels)


def _transform_once(kept: pd.DataFrame, version: FeatureVersion) -> None:
    """Shows before anything is stored that every kept row can be transformed.

    This also holds the request's rules against the schema's: a row they judge differently stops the run here.
    """
    columns = to_arrays(kept, version)
    matrix = version.transform(columns)
    fault = _matrix_fault(matrix, (len(kept), len(version.feature_names))) or _neighbour_fault(matrix, columns, version)
    if fault is not None:
        raise DataError(f"feature version {version.name}", f"its transform {fault}")


def _matrix_fault(matrix: npt.NDArray[np.float32], shape: tuple[int, int]) -> str | None:
    if matrix.shape != shape or matrix.dtype != np.float32:
        return f"gives {matrix.dtype} of shape {matrix.shape}; float32 of shape {shape} is wanted (FEATURE_NAMES)"
    return "gives infinities" if np.isinf(matrix).any() else None


def _neighbour_fault(matrix: npt.NDArray[np.float32], columns: ColumnArrays, version: FeatureVersion) -> str | None:
    """A row transformed alone must give the same bits, or the service would not answer what the gate has judged."""
    for row in np.unique(np.linspace(0, len(matrix) - 1, _TRIED_ALONE).astype(np.int64)).tolist():
        alone = version.transform({name: values[row : row + 1] for name, values in columns.items()})
        if alone.tobytes() != matrix[row : row + 1].tobytes():
            return f"gives row {row} other values when it is alone: it may look at one row at a time"
    return None


def _set_aside(raw: RawTable, verdict: Verdict) -> pd.DataFrame:
    """The refused rows as they were, with a column that says why."""
    rows = np.flatnonzero(~verdict.good)
    aside = raw.frame.iloc[rows].copy()
    for name in aside.columns:  # a column may mix kinds now, which no file format holds
        if pd.api.types.is_object_dtype(aside[name].dtype):
            aside[name] = [None if value is None else str(value) for value in aside[name]]
    aside.insert(0, "refused_because", ["; ".join(verdict.reasons[row]) for row in rows.tolist()])
    return aside
