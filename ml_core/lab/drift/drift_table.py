"""Tables of raw values for a drift check, a file or a folder of them: read whole, piece by piece, or as a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.lab.batch.row_groups import Piece, pieces_of
from ml_core.lab.batch.table_places import Place, arrow_source, find_tables
from ml_core.lab.config import DataConfig
from ml_core.lab.data.configured_rows import configured_column
from ml_core.lab.data.table_frames import (
    check_present,
    column_names,
    is_csv,
    numbers_of_text,
    plain_marks,
    read_table,
)
from ml_core.lab.data.table_rows import TableRows, rows_of

__all__ = ["DriftTable"]

_BATCH_ROWS = 65_536
_READ_BYTES = 1 << 20  # of a column chunk at a time: a row group of any size need not fit into memory
PIECE_ROWS = 1 << 20
"""Rows whose summary is made at once, by whichever process: it may be larger than they are."""


class DriftTable:
    """A ``.parquet`` or ``.csv`` table of raw values, or all tables of a folder or of an address of an object store.

    Parquet is read in batches of at most 65,536 rows, so memory does not grow with it. CSV is read a file at a time,
    and typed by the column table where there is one; without it a column whose texts all spell numbers holds numbers.

    Parameters
    ----------
    columns : of a feature version
    data : how the files are written and what their values mean; as usual where it is not given

    Attributes
    ----------
    path : as it was given
    columns : that every table has
    """

    def __init__(self, path: Path | str, columns: Sequence[Column] = (), data: DataConfig | None = None) -> None:
        self.path = path
        self._data = data or DataConfig(source=Path(path))
        self._tables = find_tables(path)
        self._names = [column_names(place, self._data.csv) for place in self._tables.places]
        self.columns = tuple(name for name in self._names[0] if all(name in other for other in self._names[1:]))
        self._typed_by = {column.name: column for column in columns}

    def check_present(self, names: Sequence[str]) -> None:
        """Check that every table has these columns; DataError where one has not, as ``table_frames.check_present``."""
        for place, present in zip(self._tables.places, self._names, strict=True):
            check_present(place, names, present, self._data.csv)

    def seen_from_anywhere(self) -> DriftTable:
        """The same for a process with another working folder."""
        other = object.__new__(DriftTable)
        other.__dict__.update(self.__dict__)
        places = tuple(place.absolute() if isinstance(place, Path) else place for place in self._tables.places)
        other._tables = replace(self._tables, places=places)
        return other

    @cached_property
    def rows(self) -> int:
        """Rows of all tables.

        Raises
        ------
        DataError
            One cannot be read.
        """
        return sum(table.rows for table in self._facts)

    def pieces(self) -> tuple[Piece, ...]:
        """The work in these tables, see ``pieces_of``."""
        return pieces_of(self._facts, PIECE_ROWS)

    def batches(self, names: Sequence[str], piece: Piece | None = None) -> Iterator[pd.DataFrame]:
        """The named columns, some rows at a time.

        Parameters
        ----------
        piece : only these rows

        Raises
        ------
        DataError
            A table cannot be read.
        """
        if piece is not None:
            yield from self._batches(self._tables.places[piece.file], names, piece.groups)
            return
        for place in self._with_rows:
            yield from self._batches(place, names, None)

    def _batches(self, place: Place, names: Sequence[str], groups: Sequence[int] | None) -> Iterator[pd.DataFrame]:
        if is_csv(place):
            yield self._read(read_table(place, names, self._data.csv), of_text=True)
            return
        try:
            with pq.ParquetFile(arrow_source(place), buffer_size=_READ_BYTES, pre_buffer=False) as file:
                wanted = range(file.num_row_groups) if groups is None else groups
                for batch in file.iter_batches(
                    _BATCH_ROWS, row_groups=list(wanted), columns=list(names), use_threads=False
                ):
                    yield self._read(batch.to_pandas(), of_text=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise DataError(str(place), "is not a readable Parquet file") from error

    @property
    def _with_rows(self) -> list[Place]:
        return [place for place, facts in zip(self._tables.places, self._facts, strict=True) if facts.rows]

    @cached_property
    def _facts(self) -> tuple[TableRows, ...]:
        return tuple(rows_of(place, self._data.csv) for place in self._tables.places)

    def frame(self, names: Sequence[str]) -> pd.DataFrame:
        """The named columns of all rows.

        Raises
        ------
        DataError
            The file cannot be read.
        """
        places = self._with_rows
        if len(places) > 1 and all(map(is_csv, places)):  # typed together, as one file of these rows would be
            texts = [read_table(place, names, self._data.csv) for place in places]
            return self._read(pd.concat(texts, ignore_index=True), of_text=True)
        pieces = list(self.batches(names))
        return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=list(names))

    def sample(self, names: Sequence[str], size: int, rng: np.random.Generator) -> pd.DataFrame:
        """The named columns of ``size`` random rows, or of all where there are no more.

        Raises
        ------
        DataError
            The file cannot be read.
        """
        rows = self.rows
        chosen = np.sort(rng.choice(rows, min(size, rows), replace=False))
        pieces, start = [], 0
        for batch in self.batches(names):
            low, high = np.searchsorted(chosen, [start, start + len(batch)])
            pieces.append(batch.iloc[chosen[low:high] - start])
            start += len(batch)
        return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=list(names))

    def _read(self, frame: pd.DataFrame, *, of_text: bool) -> pd.DataFrame:
        return pd.DataFrame({str(n): self._column(frame[n], str(n), of_text=of_text) for n in frame.columns})

    def _column(self, values: pd.Series[Any], name: str, *, of_text: bool) -> pd.Series[Any]:
        if name in self._typed_by:
            return configured_column(values, self._typed_by[name], self._data, of_text=of_text)
        return numbers_of_text(plain_marks(values, self._data.csv)) if of_text else values
