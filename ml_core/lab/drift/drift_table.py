"""A table file of raw values for a drift check: read whole, a piece at a time, or as a random sample of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.lab.data.table_frames import column_names, is_csv, numbers_of_text, read_table, type_text

__all__ = ["DriftTable"]

_BATCH_ROWS = 65_536
_READ_BYTES = 1 << 20  # of a column chunk at a time: a row group of any size need not fit into memory


class DriftTable:
    """A ``.parquet`` or ``.csv`` file of raw values.

    Parquet is read in batches of at most 65,536 rows, so memory does not grow with the file. CSV is read whole, and
    typed by the column table where there is one; without it a column whose texts all spell numbers holds numbers.
    """

    def __init__(self, path: Path, columns: Sequence[Column] = ()) -> None:
        self.path = path
        self.columns = tuple(column_names(path))
        self._typed_by = {column.name: column for column in columns}

    @cached_property
    def rows(self) -> int:
        """Rows of the file.

        Raises
        ------
        DataError
            It cannot be read.
        """
        if self._is_csv:
            return len(read_table(self.path, self.columns[:1]))
        return int(pq.read_metadata(self.path).num_rows)

    def batches(self, names: Sequence[str]) -> Iterator[pd.DataFrame]:
        """The named columns, a piece at a time.

        Raises
        ------
        DataError
            The file cannot be read.
        """
        if self._is_csv:
            yield self._csv(names)
            return
        try:
            with pq.ParquetFile(self.path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=list(names), use_threads=False):
                    yield batch.to_pandas()
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

    def _csv(self, names: Sequence[str]) -> pd.DataFrame:
        texts = read_table(self.path, names)
        known = [self._typed_by[name] for name in names if name in self._typed_by]
        typed = type_text(texts, known)
        return pd.DataFrame({n: typed[n] if n in self._typed_by else numbers_of_text(texts[n]) for n in names})
