"""How many rows a table has, and each of its row groups: what work is cut by."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.parquet as pq

from ml_core.lab.batch.table_places import Place, arrow_source
from ml_core.lab.config import CsvConfig
from ml_core.lab.data.table_frames import column_names, guarded, is_csv, read_texts

__all__ = ["TableRows", "rows_of"]


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows of a table and of each of its row groups; None for a text table, which is read whole."""

    rows: int
    group_rows: tuple[int, ...] | None


def rows_of(place: Place, form: CsvConfig | None = None) -> TableRows:
    """The rows of a table file; a text table is read for it.

    Parameters
    ----------
    form : how a text table is written

    Raises
    ------
    DataError
        The file cannot be used.
    """
    if is_csv(place):
        written = form or CsvConfig()
        first = column_names(place, written)[:1]
        return TableRows(read_texts(place, written, first).num_rows, None)
    facts = guarded(place, lambda p: pq.read_metadata(arrow_source(p)))
    return TableRows(facts.num_rows, tuple(facts.row_group(i).num_rows for i in range(facts.num_row_groups)))
