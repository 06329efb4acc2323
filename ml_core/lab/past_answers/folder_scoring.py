"""Scores many table files into a folder of answers: each piece of the input a part, whoever scores it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.base.errors import DataError, SuretyError, WorkersLost
from ml_core.lab.batch.object_files import object_address
from ml_core.lab.batch.row_groups import Piece, pieces_of
from ml_core.lab.batch.table_places import TableSet
from ml_core.lab.config import DataConfig
from ml_core.lab.data.table_blocks import HashedTable, open_table
from ml_core.lab.past_answers.answer_folders import (
    AnswerFolder,
    FolderSummary,
    InputFacts,
    PartFacts,
    TakenOver,
    answer_folder,
    part_name,
)
from ml_core.lab.past_answers.batch_scoring import PART_ROWS, ScoredTable, Workers, disk_errors, plan_of
from ml_core.lab.past_answers.scored_blocks import BlockScoring, ModelAtHand
from ml_core.lab.past_answers.scoring_parts import Plan
from ml_core.serve.answering.requests import OnError
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.prediction_sets import level_from_json

__all__ = ["score_folder", "wants_folder"]

_OPENED_AT_ONCE = 4


def wants_folder(source: TableSet, out: Path | str) -> bool:
    """Whether the answers are to be a folder of parts: those to many tables, in a store, or where OUT has no suffix.

    Raises
    ------
    DataError
        OUT names one file where only a folder can be.
    """
    one_file = PurePosixPath(str(out)).suffix.lower() in (".csv", ".parquet")
    if one_file and (source.is_folder or object_address(out) is not None):
        raise DataError(str(out), "is the name of one file, and what it is to hold is a folder of parts: name a folder")
    return source.is_folder or object_address(out) is not None or not PurePosixPath(str(out)).suffix


def score_folder(
    source: TableSet,
    out: Path | str,
    model: LoadedModel,
    *,
    data: DataConfig | None = None,
    level: float | None = None,
    on_error: OnError = "row",
    block_rows: int = PART_ROWS,
    force: bool = False,
    restart: bool = False,
    advance: Callable[[float], None] = lambda _: None,
    workers: Workers = Workers(),  # noqa: B008 - frozen
) -> ScoredTable:
    """Answers for every row of many tables, in a folder of Parquet parts; killed anywhere, the same call goes on.

    Parts are numbered in the order of tables and rows; their rows have the name of the table (``file``) and the number
    in it (``row``). ``_summary.json`` lists them, and is written last.

    Parameters
    ----------
    source : tables that all have every feature column, and the same id columns
    out : a folder, or an address of an object store; a local one appears when it is complete
    model, data, level, on_error, block_rows, force, restart, advance, workers : as ``score_table``

    Raises
    ------
    DataError
        As ``score_table``; or the tables have other id columns than each other.
    InvalidRequest, BadModelOutput, WorkersLost
        As ``score_table``.
    """
    chosen = model.predictor.level if level is None else level_from_json(level)
    with disk_errors(out):
        folder = answer_folder(out)
        _check_apart(source, folder)
        with folder.held():
            if restart:
                folder.clear()
            folder.check_free(force=force)
            tables = _opened(source, model, data)
            total = sum(table.rows for table in tables)
            job = BlockScoring(
                tables, source.names, ModelAtHand(model), chosen, on_error, block_rows,
                lambda rows: advance(rows / total),
            )  # fmt: skip
            run = _Run(job, folder, plan_of(job, model, chosen, workers))
            folder.begin(run.plan)
            counts = known = folder.counts()
            pieces = pieces_of(tables, workers.piece_rows)
            finished = folder.finished(run.plan)
            resumed_rows = sum(piece.rows for piece in pieces if piece.number in finished)
            if counts is None:
                if not pieces:
                    folder.clear()
                    raise DataError(source.address, "has no rows")
                advance(min(1.0, resumed_rows / total))
                _score_missing(run, model, [p for p in pieces if p.number not in finished], workers, advance)
                summary = run.summary(pieces)
                folder.finish(run.plan, summary)
                rows, refused = summary.rows, summary.refused
            else:
                rows, refused = counts.rows, counts.refused
            folder.publish(force=force)
    ignored = tuple(dict.fromkeys(name for table in tables for name in table.ignored))
    return ScoredTable(
        object_address(out) or out, rows, refused, rows if known else min(resumed_rows, rows), ignored, job.facts
    )


@dataclass(frozen=True)
class _Run:
    """What a process needs to know to score a piece into a part of the folder."""

    job: BlockScoring
    folder: AnswerFolder
    plan: Plan

    def score(self, piece: Piece) -> int:
        """Score a piece; its rows."""
        rows = 0

        def write(path: Path) -> None:
            nonlocal rows
            with pq.ParquetWriter(path, self.job.schema) as writer:
                for table in self.job.scored(piece):
                    writer.write_table(table)
                    rows += table.num_rows

        self.folder.add(self.plan, piece.number, write)
        return rows

    def summary(self, pieces: Sequence[Piece]) -> FolderSummary:
        """What the finished parts hold, by their own words.

        Raises
        ------
        DataError
            A part is damaged, or cannot be seen from here.
        """
        parts = tuple(self._facts(piece) for piece in pieces)
        inputs = zip(self.job.names, self.job.tables, strict=True)
        return FolderSummary(
            rows=sum(part.rows for part in parts),
            refused=sum(part.refused for part in parts),
            facts=self.job.facts,
            inputs=tuple(InputFacts(name=name, digest=table.digest) for name, table in inputs),
            parts=parts,
        )

    def _facts(self, piece: Piece) -> PartFacts:
        name = part_name(self.plan, piece.number)
        try:
            with self.folder.opened(self.plan, piece.number) as file, pq.ParquetFile(file) as part:
                facts, column = part.metadata, part.schema_arrow.get_field_index("error")
                groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
        except FileNotFoundError as error:
            problem = f"lacks {name}, which a worker has written: all workers must see OUT under this name"
            raise DataError(str(self.folder.out), problem) from error
        except pa.ArrowException as error:
            raise DataError(name, "is damaged: begin anew with --restart") from error
        refused = sum(group.num_rows - group.column(column).statistics.null_count for group in groups)
        return PartFacts(
            name=name, input=self.job.names[piece.file], first_row=piece.first_row, rows=facts.num_rows, refused=refused
        )


def _score_piece(run: _Run, piece: Piece) -> int:
    return run.score(piece)


def _score_missing(
    run: _Run, model: LoadedModel, pieces: Sequence[Piece], workers: Workers, advance: Callable[[float], None]
) -> None:
    total = sum(table.rows for table in run.job.tables)
    given = _Run(workers.given(run.job, model), run.folder, run.plan)
    try:
        for scored in workers.engine.run(_score_piece, given, pieces, "surety-score"):
            if not workers.engine.is_here:
                advance(scored / total)
    except (WorkersLost, TakenOver):
        raise
    except SuretyError:
        run.folder.clear()  # of this input nothing can ever be finished
        raise


def _opened(source: TableSet, model: LoadedModel, data: DataConfig | None) -> tuple[HashedTable, ...]:
    """Every table, known by a digest and found to fit the first."""
    bundle = model.predictor.bundle
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as threads:  # hashing and asking a store both wait outside of Python
        features, beside = bundle.features.columns, bundle.beside
        tables = tuple(threads.map(lambda place: open_table(place, features, beside, data), source.places))
    for table in tables:
        if table.id_fields != tables[0].id_fields:
            raise DataError(
                str(table.path),
                f"has the id columns {_in_words(table)}, and {tables[0].path} has {_in_words(tables[0])}: "
                "tables that are scored together have the same, or none",
            )
    return tables


def _in_words(table: HashedTable) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in table.id_fields) or "none"


def _check_apart(source: TableSet, folder: AnswerFolder) -> None:
    """Refuse answers in the folder that is read, or around it: the next run would take them for its input."""
    out = folder.out
    if isinstance(out, str):
        near = any(f"{a}/".startswith(f"{b}/") for a, b in ((source.address.rstrip("/"), out), (out, source.address)))
        if near:
            raise DataError(out, "is the input as well, or lies in it")
        return
    locals_ = [place.resolve() for place in source.places if isinstance(place, Path)]
    above = out.resolve()
    root = Path(source.address).resolve() if source.is_folder and locals_ else None
    if any(above in place.parents for place in locals_) or (
        root is not None and (above == root or root in above.parents)
    ):
        raise DataError(str(out), "is the input as well, or lies in it")
    if out.exists() and not out.is_dir():
        raise DataError(str(out), "is a file, and the answers to many tables are a folder: name a folder")
