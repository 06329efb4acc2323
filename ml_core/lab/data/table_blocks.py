"""Table files read in blocks of rows, so that memory stays bounded: cells for the strict rules, ids unchanged."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.lab.batch.row_groups import Piece
from ml_core.lab.batch.table_places import Place, arrow_source, open_bytes, size_of, stamp_of
from ml_core.lab.config import DataConfig
from ml_core.lab.data.configured_rows import configured_column
from ml_core.lab.data.frames import cells_of
from ml_core.lab.data.table_frames import (
    check_present,
    column_names,
    csv_options,
    exact_type,
    is_csv,
    odd_quotes,
    plain_marks,
    whole_number,
)
from ml_core.serve.features.column_rules import OPTIONAL_ROLES, integer_levels
from ml_core.serve.features.table import Cells

__all__ = ["Block", "HashedTable", "open_table"]

_CHUNK_BYTES = 1 << 20
_READ_ROWS = 8_192


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a file, one after another.

    Attributes
    ----------
    first_row : number of the first one in the file, from 0
    n_rows : how many there are
    cells : the columns of the feature version that the file has, as ``encode_table`` takes them
    ids : id, group and time columns as the file has them (texts in CSV)
    """

    first_row: int
    n_rows: int
    cells: dict[str, Cells]
    ids: dict[str, pa.Array]


@dataclass(frozen=True, slots=True)
class HashedTable:
    """A ``.parquet`` or ``.csv`` table whose content is known by a digest, so that another one is never taken for it.

    Attributes
    ----------
    path, size : where it is, and its bytes
    digest : sha256 (hex) of its bytes; of Parquet in an object store, which is not read whole, the store's entity tag
    rows : how many it has; an upper bound where lines of a CSV file are empty or within a cell
    group_rows : rows of each row group; None for CSV
    columns : the columns of the feature version that it has, no label, and those beside
    ignored : names of its other columns
    id_fields : the id, group and time columns that it has, with the types they come in
    stamp : changes with the file, so that a later change is noticed
    data : how it is written and what its values mean
    """

    path: Place
    size: int
    digest: str
    rows: int
    group_rows: tuple[int, ...] | None
    columns: tuple[Column, ...]
    ignored: tuple[str, ...]
    id_fields: tuple[pa.Field, ...]
    stamp: tuple[int | str, ...]
    data: DataConfig

    def blocks(self, rows: int, first: int = 0, piece: Piece | None = None) -> Iterator[Block]:
        """Blocks of that many rows (the last may be smaller), from block number ``first`` on.

        Parameters
        ----------
        piece : only these row groups; blocks are counted from its first row

        Raises
        ------
        DataError
            The file is no table to its end, or has been changed since it was opened.
        """
        if not self.rows:  # Arrow refuses a lone header without a line end
            return
        groups, before = (None, 0) if piece is None else (piece.groups, piece.first_row)
        batches = _csv_batches(self) if self._is_csv else _parquet_batches(self, groups)
        number = first
        try:
            for table in _regrouped(batches, rows, first * rows):
                if stamp_of(self.path) != self.stamp:
                    raise DataError(str(self.path), "was changed while it was read")
                yield self._block(table, before + number * rows)
                number += 1
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault, not the file's
            no_text = f"are no {self.data.csv.encoding.upper()} text"
            wrong = f"its rows differ in length, or {no_text}" if self._is_csv else "it is damaged"
            # not in the library's own words, which quote the row
            raise DataError(str(self.path), f"cannot be read beyond row {before + number * rows}: {wrong}") from error

    @property
    def _names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def _is_csv(self) -> bool:
        return self.group_rows is None

    def _block(self, table: pa.Table, first_row: int) -> Block:
        as_cells = _cells_of_texts if self._is_csv else _cells_of_values
        plain = {name: _plain(table.column(name)) for name in self._names}
        return Block(
            first_row=first_row,
            n_rows=table.num_rows,
            cells={column.name: as_cells(column, plain[column.name], self.data) for column in self.columns},
            ids={field.name: _carried(plain[field.name]) for field in self.id_fields},
        )


def open_table(
    path: Place, columns: Sequence[Column], beside: Sequence[Column] = (), data: DataConfig | None = None
) -> HashedTable:
    """The table, its content told by a digest, and found to have every feature column.

    Parameters
    ----------
    columns : of the feature version; id, group and time columns may be missing in the file
    beside : columns that only tell groups of patients; they may be missing as well
    data : how the file is written and what its values mean; as usual where it is not given

    Raises
    ------
    DataError
        As ``column_names``; a feature column is missing (a forgotten nullable one would else go unseen), or an id
        column has a type that cannot be carried along.
    """
    data = data or DataConfig(source=Path(str(path)))
    present = column_names(path, data.csv)
    check_present(path, [c.name for c in columns if c.role == "feature"], present, data.csv)
    wanted = tuple(c for c in (*columns, *beside) if c.role != "label" and c.name in present)
    names = {c.name for c in wanted}
    stamp = stamp_of(path)
    group_rows: tuple[int, ...] | None = None
    if is_csv(path):
        digest, lines, quotes = _read_through(path)
        wide = data.csv.encoding.startswith("utf-16")  # where other letters hold the byte of a quote
        if odd_quotes(path, data.csv) if wide else quotes % 2:  # a quoted cell has two, and one inside it is doubled
            raise DataError(str(path), "is no CSV table: a quote stays open")
        rows, types = lines - 1, dict.fromkeys(names, pa.string())
    else:
        digest = _read_through(path)[0] if isinstance(path, Path) else path.digest
        with pq.ParquetFile(arrow_source(path)) as file:
            facts, schema = file.metadata, file.schema_arrow
        rows, group_rows = facts.num_rows, tuple(facts.row_group(i).num_rows for i in range(facts.num_row_groups))
        types = {name: _plain_type(schema.field(name).type) for name in names}
    ids = [c.name for c in wanted if c.role in OPTIONAL_ROLES]
    for name in ids:
        if not _can_be_carried(types[name]):
            raise DataError(str(path), f"column {name} is of type {types[name]}; number, text or date was expected")
    return HashedTable(
        path=path,
        size=size_of(path),
        digest=digest,
        rows=rows,
        group_rows=group_rows,
        columns=wanted,
        ignored=tuple(name for name in present if name not in names),
        id_fields=tuple(pa.field(name, types[name]) for name in ids),
        stamp=stamp,
        data=data,
    )


def _read_through(path: Place) -> tuple[str, int, int]:
    """The file's sha256 (hex), and how many lines and quotes it has."""
    digest, counts, last = hashlib.sha256(), Counter[bytes](), b""
    with open_bytes(path) as file:
        for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""):
            digest.update(chunk)
            counts.update({mark: chunk.count(mark) for mark in (b"\n", b"\r", b'"')})
            last = chunk[-1:]
    unended = last not in (b"\n", b"\r")
    return digest.hexdigest(), max(counts[b"\n"], counts[b"\r"]) + unended, counts[b'"']


# --- batches ------------------------------------------------------------------------------------------------------


def _parquet_batches(table: HashedTable, groups: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
    names = [column.name for column in table.columns]
    wanted = None if groups is None else list(groups)
    with pq.ParquetFile(arrow_source(table.path), buffer_size=_CHUNK_BYTES) as file:
        yield from file.iter_batches(batch_size=_READ_ROWS, row_groups=wanted, columns=names, use_threads=False)


def _csv_batches(table: HashedTable) -> Iterator[pa.RecordBatch]:
    options = csv_options([column.name for column in table.columns], table.data.csv)
    with pa_csv.open_csv(arrow_source(table.path), *options) as reader:
        yield from reader


def _regrouped(batches: Iterator[pa.RecordBatch], rows: int, skip: int) -> Iterator[pa.Table]:
    """The same rows, without the first ``skip``, in tables of that many rows."""
    held: list[pa.RecordBatch] = []
    room = rows
    for whole in batches:
        batch = whole.slice(min(skip, whole.num_rows))
        skip -= whole.num_rows - batch.num_rows
        while batch.num_rows:
            held.append(batch.slice(0, room))
            room -= held[-1].num_rows
            batch = batch.slice(held[-1].num_rows)
            if not room:
                yield pa.Table.from_batches(held)
                held, room = [], rows
    if held:
        yield pa.Table.from_batches(held)


# --- cells --------------------------------------------------------------------------------------------------------


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _plain(values: pa.ChunkedArray) -> pa.Array:
    """The column in one piece, dictionary-encoded ones spread out."""
    return pa.concat_arrays([chunk.cast(_plain_type(chunk.type)) for chunk in values.chunks])


def _carried(values: pa.Array) -> pa.Array:
    """Null for the empty text, which is how CSV writes it."""
    kind = values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return values
    return pc.if_else(pc.equal(values, pa.scalar("", kind)), pa.scalar(None, kind), values)


def _can_be_carried(kind: pa.DataType) -> bool:
    checks = ("integer", "floating", "decimal", "string", "large_string", "date", "timestamp", "boolean", "null")
    return any(getattr(pa.types, f"is_{check}")(kind) for check in checks)


def _cells_of_values(column: Column, values: pa.Array, data: DataConfig) -> Cells:
    """A column of Parquet, in which null and NaN stay apart."""
    if column.name in data.null_values or column.name in data.dates:
        return cells_of(configured_column(pd.Series(values.to_pandas()), column, data))
    kind = values.type
    if (decimal := exact_type(kind)) is not None:
        values = values.cast(decimal)
    elif pa.types.is_date(kind):
        values = values.cast(pa.timestamp("ms"))
    kind = values.type
    if pa.types.is_timestamp(kind):
        return Cells(values.to_numpy(zero_copy_only=False))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        missing = values.is_null().to_numpy(zero_copy_only=False)
        return Cells(values.fill_null(0).to_numpy(zero_copy_only=False), missing)
    if pa.types.is_boolean(kind):
        missing = values.is_null().to_numpy(zero_copy_only=False)
        return Cells(values.fill_null(False).to_numpy(zero_copy_only=False), missing)
    return Cells(values.to_pylist())


def _cells_of_texts(column: Column, values: pa.Array, data: DataConfig) -> Cells:
    """A column of CSV: empty is null; a text that is no number stays a text where a number is wanted, to be refused."""
    texts = pd.Series([text or None for text in values.to_pylist()], dtype=object)
    read = configured_column(texts, column, data, of_text=True)
    if column.dtype not in ("int", "float") and not integer_levels(column):
        return cells_of(read)
    plain = plain_marks(texts, data.csv)
    return Cells([_as_written(text, number) for text, number in zip(plain, read.tolist(), strict=True)])


def _as_written(text: str | None, number: Any) -> Any:
    """The number as JSON would read it, 45 or 45.0, so that an error shows it as it was written."""
    if text is None or pd.isna(number):  # empty, or a null value of the configuration
        return None
    if not isinstance(number, float | int):
        return text
    whole = whole_number(text)
    return float(number) if whole is None else whole
