"""A table file of raw values for a drift check: read whole, a piece at a time, or as a random sample of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
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

__all__ = ["DriftTable"]

_BATCH_ROWS = 65_536
_READ_BYTES = 1 << 20  # of a column chunk at a time: a row group of any size need not fit into memory


class DriftTable:
    """A ``.parquet`` or ``.csv`` file of raw values.

    Parquet is read in batches of at most 65,536 rows, so memory does not grow with the file. CSV is read whole, and
    typed by the column table where there is one; without it a column whose texts all spell numbers holds numbers.

    Parameters
    ----------
    columns : of a feature version
    data : how the file is written and what its values mean; as usual where it is not given
    """

    def __init__(self, path: Path, columns: Sequence[Column] = (), data: DataConfig | None = None) -> None:
        self.path = path
        self._data = data or DataConfig(source=path)
        self.columns = tuple(column_names(path, self._data.csv))
        self._typed_by = {column.name: column for column in columns}

    def check_present(self, names: Sequence[str]) -> None:
        """Check that the file has these columns; DataError where it has not, as ``table_frames.check_present``."""
        check_present(self.path, names, self.columns, self._data.csv)

    @cached_property
    def rows(self) -> int:
        """Rows of the file.

        Raises
        ------
        DataError
            It cannot be read.
        """
        if self._is_csv:
            return len(read_table(self.path, self.columns[:1], self._data.csv))
        return int(pq.read_metadata(self.path).num_rows)

    def batches(self, names: Sequence[str]) -> Iterator[pd.DataFrame]:
        """The named columns, a piece at a time.

        Raises
        ------
        DataError
            The file cannot be read.
        """
        if self._is_csv:
            yield self._read(read_table(self.path, names, self._data.csv))
            return
        try:
            with pq.ParquetFile(self.path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=list(names), use_threads=False):
                    yield self._read(batch.to_pandas())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise DataError(str(self.path), "is not a readable Parquet file") from error

    def frame(self, names: Sequence[str]) -> pd.DataFrame:
        """The named columns of all rows.

        Raises
        ------
        DataError
            The file cannot be read.
        """
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

    @property
    def _is_csv(self) -> bool:
        return is_csv(self.path)

    def _read(self, frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({str(name): self._column(frame[name], str(name)) for name in frame.columns})

    def _column(self, values: pd.Series[Any], name: str) -> pd.Series[Any]:
        if name in self._typed_by:
            return configured_column(values, self._typed_by[name], self._data, of_text=self._is_csv)
        return numbers_of_text(plain_marks(values, self._data.csv)) if self._is_csv else values
