"""Scores a whole table file with one model, block by block, with the arithmetic that answers requests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ml_core.base.errors import ConfigError, DataError, SuretyError, WorkersLost
from ml_core.lab.batch.engines import Engine, InProcess
from ml_core.lab.batch.row_groups import PIECE_ROWS, Piece, pieces_of
from ml_core.lab.batch.table_places import Place
from ml_core.lab.config import CsvConfig, DataConfig
from ml_core.lab.data.table_blocks import HashedTable, open_table
from ml_core.lab.data.table_frames import column_names
from ml_core.lab.past_answers.scored_blocks import BlockScoring, ModelAtHand, ModelInFiles
from ml_core.lab.past_answers.scoring_parts import Parts, Plan, RowCounts
from ml_core.serve.answering.requests import OnError
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.prediction_sets import level_from_json

__all__ = ["PART_ROWS", "ScoredTable", "Workers", "disk_errors", "plan_of", "score_table"]

PART_ROWS = 16_384
"""Rows of one part: a second of work, and few enough for every cell of 60 columns to be wrong and told."""
_READ_BY = {"csv", "dates", "null_values"}


@dataclass(frozen=True, slots=True)
class ScoredTable:
    """A table, or a folder of tables, that has been scored.

    Attributes
    ----------
    out : where the answers are
    rows, refused : rows of it, and those of them that got an error instead of an answer
    resumed_rows : rows that an earlier run had finished
    ignored : columns of the input that were not looked at
    facts : level, guarantee and lineage; in Parquet also the metadata of the schema
    """

    out: Path | str
    rows: int
    refused: int
    resumed_rows: int
    ignored: tuple[str, ...]
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Workers:
    """Who scores.

    Attributes
    ----------
    engine : this process, a pool or Dask
    artefact : folder of the model's artefact, which other processes get; none is needed in this one
    piece_rows : row groups are taken together until they have so many rows
    """

    engine: Engine = field(default_factory=InProcess)
    artefact: Path | None = None
    piece_rows: int = PIECE_ROWS

    def given(self, job: BlockScoring, model: LoadedModel) -> BlockScoring:
        """The job as the engine's processes take it."""
        if self.engine.is_here:
            return job
        if self.artefact is None:
            raise ConfigError("other processes", "need the folder of the model's artefact")
        files = ModelInFiles.of(model, self.artefact)
        tables = tuple(replace(t, path=t.path.absolute() if isinstance(t.path, Path) else t.path) for t in job.tables)
        return replace(job, model=files, tables=tables, told=None)


def score_table(
    source: Place | BinaryIO,
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
    workers: Workers = Workers(),
) -> ScoredTable:
    """Answers for every row of a file, in its order; killed anywhere, the same call goes on where it stopped.

    Parameters
    ----------
    source : ``.parquet`` or ``.csv`` table with every feature column, or an open stream of CSV
    out : ``.parquet`` or ``.csv`` file; it appears when it is complete
    model : gated
    data : how the input is written and what its values mean; as usual where it is not given
    level : confidence level in [0.5, 0.999]; the model's own if None
    on_error : ``row`` gives a bad row an error and no answer, ``reject`` refuses the whole table
    block_rows : rows of one part
    force : replace an output that is there
    restart : forget what an earlier run has finished
    advance : told the share of the rows that has just been finished
    workers : who scores; the output is the same to the byte

    Raises
    ------
    DataError
        The input or the output cannot be used, or rows are bad and ``on_error`` is ``reject``.
    InvalidRequest
        The level lies outside its range.
    BadModelOutput
        The model gives numbers that are no probabilities.
    WorkersLost
        Processes ended before their work did; what is finished is kept.
    """
    chosen = model.predictor.level if level is None else level_from_json(level)
    read = data or DataConfig(source=out)
    _check_places(source, out, workers, read.csv)
    parts = Parts(out)
    with disk_errors(out), parts.held():
        if restart:
            parts.clear()
        parts.check_free(force=force)
        bundle = model.predictor.bundle
        table = open_table(_as_file(source, parts.spool), bundle.features.columns, bundle.beside, read)
        job = BlockScoring((table,), (), ModelAtHand(model), chosen, on_error, block_rows, _told(table, advance))
        parts.begin(plan_of(job, model, chosen, workers))
        counts = known = parts.counts()
        tasks = _tasks(table, block_rows, workers.piece_rows)
        resumed_rows = _finished_rows(tasks, parts.finished(), block_rows)
        if counts is None:
            advance(min(1.0, resumed_rows / max(table.rows, 1)))
            _score_missing(job, model, tasks, parts, workers, advance)
            counts = parts.finish(lambda path: _write(job.schema, path, parts.tables()))
        parts.publish(force=force)
    resumed_rows = counts.rows if known else min(resumed_rows, counts.rows)
    return ScoredTable(out, counts.rows, counts.refused, resumed_rows, table.ignored, job.facts)


def plan_of(job: BlockScoring, model: LoadedModel, level: Decimal, workers: Workers) -> Plan:
    """What decides the output of a job."""
    return Plan(
        source_size=sum(table.size for table in job.tables),
        source_hash=job.input_hash,
        model_tag=model.tag,
        model_hash=model.model_hash,
        confidence_level=str(level),
        on_error=job.on_error,
        columns=tuple(job.schema.names),
        block_rows=job.block_rows,
        piece_rows=workers.piece_rows,
        read_as=job.tables[0].data.model_dump_json(include=_READ_BY),
    )


@dataclass(frozen=True)
class _PartsOfFile:
    """What a process needs to know to score a piece of the file into parts.

    Attributes
    ----------
    job : what is done with rows
    out : where the output will be
    first_parts : number of the first part of each piece
    """

    job: BlockScoring
    out: Path
    first_parts: tuple[int, ...]


def _score_piece(work: _PartsOfFile, piece: Piece) -> int:
    """Score what no part holds yet of a piece; the rows that were scored."""
    parts, first = Parts(work.out), work.first_parts[piece.number]
    begun = _begun(piece, first, parts.finished(), work.job.block_rows)
    rows = 0
    for number, table in enumerate(work.job.scored(piece, begun), first + begun):
        parts.add(number, table)
        rows += table.num_rows
    return rows


def _score_missing(
    job: BlockScoring,
    model: LoadedModel,
    tasks: Sequence[tuple[Piece, int]],
    parts: Parts,
    workers: Workers,
    advance: Callable[[float], None],
) -> None:
    """Score the blocks that no part holds yet."""
    finished, rows = parts.finished(), job.tables[0].rows
    open_pieces = [p for p, first in tasks if _begun(p, first, finished, job.block_rows) < _blocks(p, job.block_rows)]
    try:
        work = _PartsOfFile(workers.given(job, model), parts.out.absolute(), tuple(first for _, first in tasks))
        for scored in workers.engine.run(_score_piece, work, open_pieces, "surety-score"):
            if not workers.engine.is_here:
                advance(scored / rows)
        if not parts.finished():
            raise DataError(str(job.tables[0].path), "has no rows")
    except WorkersLost:
        raise
    except SuretyError:
        parts.clear()  # of this input nothing can ever be finished
        raise


def _tasks(table: HashedTable, block_rows: int, piece_rows: int) -> list[tuple[Piece, int]]:
    """The pieces of a file, each with the number of its first part."""
    tasks, first = [], 0
    for piece in pieces_of([table], piece_rows):
        tasks.append((piece, first))
        first += _blocks(piece, block_rows)
    return tasks


def _blocks(piece: Piece, block_rows: int) -> int:
    return -(-piece.rows // block_rows)


def _begun(piece: Piece, first: int, finished: set[int], block_rows: int) -> int:
    """How many blocks of a piece are finished; they are made in order."""
    blocks = _blocks(piece, block_rows)
    return next((number for number in range(blocks) if first + number not in finished), blocks)


def _finished_rows(tasks: Sequence[tuple[Piece, int]], finished: set[int], block_rows: int) -> int:
    return sum(min(_begun(piece, first, finished, block_rows) * block_rows, piece.rows) for piece, first in tasks)


def _told(table: HashedTable, advance: Callable[[float], None]) -> Callable[[int], None]:
    return lambda rows: advance(rows / table.rows)


def _write(schema: pa.Schema, path: Path, tables: Iterator[pa.Table]) -> RowCounts:
    """Write the whole output, one row group for each part."""
    as_csv = path.suffix.lower() == ".csv"
    rows = refused = 0
    with pa_csv.CSVWriter(str(path), schema) if as_csv else pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
            refused += table.num_rows - table.column("error").null_count
    return RowCounts(rows=rows, refused=refused)


# --- places -------------------------------------------------------------------------------------------------------


def _check_places(source: Place | BinaryIO, out: Path, workers: Workers, form: CsvConfig) -> None:
    """Whether input and output can be what they should, before anything is written."""
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(str(out), f"is of the format {out.suffix or '(none)'}; .parquet and .csv are understood")
    if out.is_dir():
        raise DataError(str(out), "is a folder")
    if not workers.engine.is_on_this_machine:
        raise DataError(str(out), "is one file, and a cluster writes a folder of parts: name a folder for OUT")
    if isinstance(source, Place):
        column_names(source, form)
    if isinstance(source, Path) and out.exists() and out.samefile(source):
        raise DataError(str(out), "is the input as well")


def _as_file(source: Place | BinaryIO, spool: Path) -> Place:
    """The input as a table; a stream is written down first, since a run that goes on must know it again."""
    if isinstance(source, Place):
        return source
    with spool.open("wb") as file:
        shutil.copyfileobj(source, file)
    return spool


@contextmanager
def disk_errors(out: Path | str) -> Iterator[None]:
    """What the disk refuses, in one line; finished parts stay, and the same call goes on when it no longer does."""
    try:
        yield
    except OSError as error:
        where = error.filename or out
        problem = (error.strerror or str(error)).splitlines()[0]
        raise DataError(str(where), f"cannot be read or written: {problem}") from error
