"""From raw files to a version of the feature store: ingest, validate, transform, store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ml_core.base.errors import DataError, InvalidRows
from ml_core.base.settings import Settings
from ml_core.lab.batch.engines import Engine, InProcess, in_order
from ml_core.lab.batch.row_groups import Piece, pieces_of
from ml_core.lab.batch.table_places import TableSet, find_tables
from ml_core.lab.config import DataConfig, ModelConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.judged_rows import JudgedRows, JudgingWork, ids_of_piece, judge_piece, repeats_among
from ml_core.lab.data.raw_tables import columns_beside
from ml_core.lab.data.schemas import MOST_LEVELS_NAMED
from ml_core.lab.data.table_frames import is_csv, write_table
from ml_core.lab.data.table_rows import rows_of
from ml_core.serve.features.versions import get_feature_version

__all__ = ["FeaturePipeline", "PipelineConfig", "PipelineResult"]

PIECE_ROWS = 1 << 18
"""Row groups of one file are judged together until they have so many rows."""
_NOT_STORED = -1


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """What the pipeline needs to know of a model's configuration.

    Attributes
    ----------
    data : the file of raw rows, how it is written, and how it becomes the version's columns
    feature_version : e.g. ``v2``
    """

    data: DataConfig
    feature_version: str

    @property
    def source(self) -> Path:
        """File of raw rows."""
        return self.data.source

    @classmethod
    def of(cls, config: ModelConfig) -> PipelineConfig:
        """The part of a model's configuration that this pipeline reads."""
        return cls(config.data, config.feature_version)


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What a run did.

    Attributes
    ----------
    table : where the Delta table lies
    version : Delta version that holds the rows; -1 where nothing was stored (a dry run)
    rows_in : rows of the file
    left_out : rows that the data set's own rule, or their label, leaves out
    rows_kept : rows that are in the version
    quarantined : rows that broke the column table
    problems : (column, check, how many rows), most rows first
    ignored : columns of the file that the version does not use
    type_changes : how the columns differ from those of the table's version before, one sentence each
    """

    table: str
    version: int
    rows_in: int
    left_out: int
    rows_kept: int
    quarantined: int
    problems: tuple[tuple[str, str, int], ...]
    ignored: tuple[str, ...]
    type_changes: tuple[str, ...] = ()


class FeaturePipeline:
    """Brings the raw rows a model's configuration names into the feature store.

    A run replaces the table's content by a new Delta version; unchanged content makes none. The rows of many files, in
    a folder or an object store, become one version at once, the same as that of one file that has them all.

    Parameters
    ----------
    engine : judges the pieces of many rows
    advance : told the share of the rows that has just been judged
    """

    def __init__(
        self,
        config: ModelConfig,
        settings: Settings,
        engine: Engine = InProcess(),  # noqa: B008 - has no state
        advance: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._config = PipelineConfig.of(config)
        self._beside = columns_beside(config.conformal.groups, get_feature_version(config.feature_version).columns)
        self._store = FeatureStore.of(settings, config.model)
        self._engine, self._advance = engine, advance

    def run(self, quarantine: Path | None = None, *, dry_run: bool = False) -> PipelineResult:
        """Ingests, validates, transforms and stores.

        Parameters
        ----------
        quarantine : ``.parquet`` or ``.csv`` file to which rows that break the column table are written, so that the
            rest can go on. Without it one such row stops the run.
        dry_run : judge only; nothing is written, also no quarantine

        Raises
        ------
        DataError
            A file cannot be used, or no row is left.
        InvalidRows
            Rows break the column table and there is no quarantine.
        """
        source, version = str(self._config.source), self._config.feature_version
        tables = find_tables(self._config.source)
        found = self._judged(tables, sets_aside=quarantine is not None)
        n_rows = sum(len(judged.rows) + judged.bad for judged in found)
        if not n_rows:
            raise DataError(source, "has no rows left for this model")
        bad = sum(judged.bad for judged in found)
        problems = _problems(found)
        if bad and quarantine is None:
            raise InvalidRows(source, bad, n_rows, problems, _unknown_levels(found))
        if bad == n_rows:
            raise DataError(source, f"no row holds: {_in_words(problems)}")
        if bad and quarantine is not None and not dry_run:
            asides = [judged.aside for judged in found if judged.aside is not None]
            write_table(pd.concat(asides, ignore_index=True), quarantine)
        type_changes = self._store.type_changes(version, self._beside)
        delta_version = _NOT_STORED
        if not dry_run:
            rows = pa.concat_tables([judged.rows for judged in found])
            delta_version = self._store.overwrite(version, rows, self._beside)
            self._store.matrix(version, delta_version)
        return PipelineResult(
            table=self._store.table(version).address,
            version=delta_version,
            rows_in=sum(judged.rows_in for judged in found),
            left_out=sum(judged.left_out for judged in found),
            rows_kept=n_rows - bad,
            quarantined=bad,
            problems=problems,
            ignored=tuple(dict.fromkeys(name for judged in found for name in judged.ignored)),
            type_changes=type_changes,
        )

    def _judged(self, tables: TableSet, *, sets_aside: bool) -> list[JudgedRows]:
        """Every piece of the tables, in their order."""
        data = self._config.data
        if tables.is_folder and data.adapter != "columns":
            raise DataError(tables.address, f"is a folder, and the adapter {data.adapter} reads one file")
        pieces, first_rows = _work_in(tables, data)
        if not pieces:
            raise DataError(tables.address, "has no rows")
        work = JudgingWork(tables.places, first_rows, data, self._config.feature_version, self._beside, sets_aside)
        work = work if self._engine.is_here else work.for_others()
        has_ids = any(column.role == "id" for column in get_feature_version(self._config.feature_version).columns)
        if len(pieces) > 1 and has_ids:
            ids = in_order(self._engine, ids_of_piece, work, pieces, "surety-ids")
            work = replace(work, repeats=repeats_among(pieces, ids))
        found, rows = [], sum(piece.rows for piece in pieces)
        for piece, judged in zip(
            pieces, in_order(self._engine, judge_piece, work, pieces, "surety-features"), strict=True
        ):
            found.append(judged)
            self._advance(piece.rows / rows)
        return found


def _work_in(tables: TableSet, data: DataConfig) -> tuple[tuple[Piece, ...], tuple[int, ...]]:
    """The pieces of the tables, and the number of the first row of each table among all."""
    if len(tables.places) == 1 and (data.adapter != "columns" or is_csv(tables.places[0])):
        return (Piece(0, 0, None, 0, 1),), (0,)
    facts = [rows_of(place, data.csv) for place in tables.places]
    return pieces_of(facts, PIECE_ROWS), tuple(accumulate((each.rows for each in facts[:-1]), initial=0))


def _problems(found: Sequence[JudgedRows]) -> tuple[tuple[str, str, int], ...]:
    """Column, check and rows of everything that is wrong, most rows first."""
    counts: Counter[tuple[str, str]] = Counter()
    for judged in found:
        counts.update(judged.problems)
    return tuple((*key, n) for key, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _unknown_levels(found: Sequence[JudgedRows]) -> dict[str, dict[str, int]]:
    """Texts that are no level, by column; see ``Verdict``."""
    levels: dict[str, Counter[str]] = {}
    for judged in found:
        for column, counts in judged.unknown_levels.items():
            levels.setdefault(column, Counter()).update(counts)
    return {column: dict(counts.most_common()) for column, counts in levels.items() if len(counts) <= MOST_LEVELS_NAMED}


def _in_words(problems: Sequence[tuple[str, str, int]]) -> str:
    return "; ".join(f"{column}: {check} ({count} rows)" for column, check, count in problems[:10])
