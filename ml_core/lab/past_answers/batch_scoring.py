"""Scores a whole table file with one model, block by block, with the arithmetic that answers requests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ml_core.base.arrays import BoolArray
from ml_core.base.errors import DataError, SuretyError
from ml_core.features.columns import ColumnArrays
from ml_core.lab.config import CsvConfig, DataConfig
from ml_core.lab.data.table_blocks import Block, HashedTable, open_table
from ml_core.lab.data.table_frames import column_names
from ml_core.lab.past_answers.scoring_parts import Parts, Plan, RowCounts
from ml_core.serve.answering.requests import OnError
from ml_core.serve.features.table import EncodedTable, encode_table
from ml_core.serve.model.groupings import GroupedCalibration
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.prediction_sets import Predictions, level_from_json

__all__ = ["PART_ROWS", "ScoredTable", "score_table"]

PART_ROWS = 16_384
"""RowCounts of one part: a second of work, and few enough for every cell of 60 columns to be wrong and told."""
_ROWS_NAMED = 5
_READ_BY = {"csv", "dates", "null_values"}


@dataclass(frozen=True, slots=True)
class ScoredTable:
    """A table that has been scored.

    Attributes
    ----------
    out : where the answers are
    rows, refused : rows of it, and those of them that got an error instead of an answer
    resumed_rows : rows that an earlier run had finished
    ignored : columns of the input that were not looked at
    facts : level, guarantee and lineage; in Parquet also the metadata of the schema
    """

    out: Path
    rows: int
    refused: int
    resumed_rows: int
    ignored: tuple[str, ...]
    facts: dict[str, str]


def score_table(
    source: Path | BinaryIO,
    out: Path,
    model: LoadedModel,
    *,
    data: DataConfig | None = None,
    level: float | None = None,
    on_error: OnError = "row",
    block_rows: int = PART_ROWS,
    force: bool = False,
    restart: bool = False,
    advance: Callable[[float], None] = lambda _: None,
) -> ScoredTable:
    """Answers for every row of a file, in its order; killed anywhere, the same call goes on where it stopped.

    Parameters
    ----------
    source : ``.parquet`` or ``.csv`` file with every feature column, or an open stream of CSV
    out : ``.parquet`` or ``.csv`` file; it appears when it is complete
    model : gated
    data : how the input is written and what its values mean; as usual where it is not given
    level : confidence level in [0.5, 0.999]; the model's own if None
    on_error : ``row`` gives a bad row an error and no answer, ``reject`` refuses the whole table
    block_rows : rows of one part
    force : replace an output that is there
    restart : forget what an earlier run has finished
    advance : told the share of the rows that has just been finished

    Raises
    ------
    DataError
        The input or the output cannot be used, or rows are bad and ``on_error`` is ``reject``.
    InvalidRequest
        The level lies outside its range.
    BadModelOutput
        The model gives numbers that are no probabilities.
    """
    chosen = model.predictor.level if level is None else level_from_json(level)
    read = data or DataConfig(source=out)
    _check_places(source, out, read.csv)
    parts = Parts(out)
    with _disk_errors(out), parts.held():
        if restart:
            parts.clear()
        parts.check_free(force=force)
        bundle = model.predictor.bundle
        table = open_table(_as_file(source, parts.spool), bundle.features.columns, bundle.beside, read)
        job = _Job(table, model, chosen, on_error, block_rows)
        parts.begin(job.plan())
        counts = known = parts.counts()
        finished_rows = parts.finished() * block_rows
        if counts is None:
            job.score_missing(parts, advance)
            counts = parts.finish(lambda path: job.write(path, parts.tables()))
        parts.publish(force=force)
    resumed_rows = counts.rows if known else min(finished_rows, counts.rows)
    return ScoredTable(out, counts.rows, counts.refused, resumed_rows, table.ignored, job.facts())


@dataclass(frozen=True)
class _Job:
    """One table and what is to be done with it."""

    table: HashedTable
    model: LoadedModel
    level: Decimal
    on_error: OnError
    block_rows: int

    def plan(self) -> Plan:
        return Plan(
            source_size=self.table.size,
            source_sha256=self.table.sha256,
            model_tag=self.model.tag,
            model_hash=self.model.model_hash,
            confidence_level=str(self.level),
            on_error=self.on_error,
            columns=tuple(self.schema().names),
            block_rows=self.block_rows,
            read_as=self.table.data.model_dump_json(include=_READ_BY),
        )

    def facts(self) -> dict[str, str]:
        """Level, guarantee and lineage, by the names that they have in the service's Arrow replies."""
        bundle = self.model.predictor.bundle
        return {
            "confidence_level": str(self.level),
            "guarantee": bundle.manifest.guarantee,
            "lineage.model_name": bundle.manifest.name,
            "lineage.model_version": self.model.version,
            "lineage.model_hash": self.model.model_hash,
            "lineage.feature_version": bundle.manifest.feature_version,
            "lineage.calibration_id": bundle.manifest.calibration_id,
            "lineage.input_hash": self.table.sha256,
        }

    def schema(self) -> pa.Schema:
        """Of every part and of the output."""
        classes = self.model.predictor.classes
        label = pa.int64() if isinstance(classes[0], int) else pa.string()
        return pa.schema(
            [
                pa.field("row", pa.int64()),
                *self.table.id_fields,
                pa.field("prediction", label),
                pa.field("probability", pa.float64()),
                pa.field("confidence", pa.float64()),
                *(pa.field(f"probability_{c}", pa.float64()) for c in classes),
                *(pa.field(f"p_value_{c}", pa.float64()) for c in classes),
                *(pa.field(f"in_set_{c}", pa.bool_()) for c in classes),
                *([] if self.model.predictor.bundle.grouped is None else [pa.field("group", pa.string())]),
                pa.field("error", pa.string()),
                pa.field("confidence_level", pa.float64()),
                pa.field("model_version", pa.string()),
                pa.field("model_hash", pa.string()),
            ],
            metadata=self.facts(),
        )

    def score_missing(self, parts: Parts, advance: Callable[[float], None]) -> None:
        """Score the blocks that no part holds yet."""
        first = parts.finished()
        advance(min(1.0, first * self.block_rows / max(self.table.rows, 1)))
        try:
            for number, block in enumerate(self.table.blocks(self.block_rows, first), first):
                parts.add(number, self._scored(block))
                advance(block.n_rows / self.table.rows)
            if not parts.finished():
                raise DataError(str(self.table.path), "has no rows")
        except SuretyError:
            parts.clear()  # of this input nothing can ever be finished
            raise

    def write(self, path: Path, tables: Iterator[pa.Table]) -> RowCounts:
        """Write the whole output, one row group for each part."""
        schema = self.schema()
        as_csv = path.suffix.lower() == ".csv"
        rows = refused = 0
        with pa_csv.CSVWriter(str(path), schema) if as_csv else pq.ParquetWriter(path, schema) as writer:
            for table in tables:
                writer.write_table(table)
                rows += table.num_rows
                refused += table.num_rows - table.column("error").null_count
        return RowCounts(rows=rows, refused=refused)

    def _scored(self, block: Block) -> pa.Table:
        encoded = encode_table(self.table.columns, block.cells)
        if encoded.problems and self.on_error == "reject":
            raise DataError(str(self.table.path), _told(block, encoded))
        good, n = encoded.good, block.n_rows
        predictor = self.model.predictor
        classes, grouped = predictor.classes, predictor.bundle.grouped
        columns = {name: values[good] for name, values in encoded.arrays.items()}
        found = predictor.predict(columns, self.level) if good.any() else Predictions.blank(0, len(classes))
        schema = self.schema()
        values = [
            pa.array(np.arange(block.first_row, block.first_row + n)),
            *block.ids.values(),
            _spread(found.labels(classes), good, schema.field("prediction").type),
            _spread(found.proba[:, 1], good) if len(classes) == 2 else pa.nulls(n, pa.float64()),
            _spread(found.confidence(), good),
            *(_spread(found.proba[:, k], good) for k in range(len(classes))),
            *(_spread(found.p_values[:, k], good) for k in range(len(classes))),
            *(_spread(found.sets[:, k], good) for k in range(len(classes))),
            *([] if grouped is None else [_spread(_names(grouped, columns, found), good, pa.string())]),
            pa.array(map(encoded.problem_text, range(n)), pa.string()),
            *(pa.repeat(fact, n) for fact in (float(self.level), self.model.version, self.model.model_hash)),
        ]
        return pa.Table.from_arrays(values, schema=schema)


def _names(grouped: GroupedCalibration, columns: ColumnArrays, found: Predictions) -> list[str]:
    """The group of each good row."""
    return [grouped.names[cell] for cell in grouped.cells(columns).tolist()] if len(found.proba) else []


def _spread(values: npt.NDArray[Any] | list[Any], good: BoolArray, kind: pa.DataType = None) -> pa.Array:
    """Values of the good rows in their places, null in the others."""
    if good.all():
        return pa.array(values, kind)
    places = np.cumsum(good) - 1
    return pa.array(values, kind).take(pa.array(places, mask=~good))


def _told(block: Block, encoded: EncodedTable) -> str:
    """Which rows are bad, by position and column; no value."""
    bad = sorted(encoded.problems)
    rows = [
        f"row {block.first_row + row} ({', '.join(fault.field for fault in encoded.problems[row])})"
        for row in bad[:_ROWS_NAMED]
    ]
    more = f" and {len(bad) - len(rows)} more" if len(bad) > len(rows) else ""
    checks = "; ".join(f"{column}: {check} ({n})" for (column, check), n in sorted(encoded.checks.items())[:10])
    seen = block.first_row + block.n_rows
    return (
        f"refused for {', '.join(rows)}{more} among its first {seen} rows, counted from 0: {checks}. "
        "Correct them, or give --on-error row"
    )


# --- places -------------------------------------------------------------------------------------------------------


def _check_places(source: Path | BinaryIO, out: Path, form: CsvConfig) -> None:
    """Whether input and output can be what they should, before anything is written."""
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(str(out), f"is of the format {out.suffix or '(none)'}; .parquet and .csv are understood")
    if out.is_dir():
        raise DataError(str(out), "is a folder")
    if isinstance(source, Path):
        column_names(source, form)
        if out.exists() and out.samefile(source):
            raise DataError(str(out), "is the input as well")


def _as_file(source: Path | BinaryIO, spool: Path) -> Path:
    """The input as a file; a stream is written down first, since a run that goes on must know it again."""
    if isinstance(source, Path):
        return source
    with spool.open("wb") as file:
        shutil.copyfileobj(source, file)
    return spool


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """What the disk refuses, in one line; finished parts stay, and the same call goes on when it no longer does."""
    try:
        yield
    except OSError as error:
        where = error.filename or out
        problem = (error.strerror or str(error)).splitlines()[0]
        raise DataError(str(where), f"cannot be read or written: {problem}") from error
