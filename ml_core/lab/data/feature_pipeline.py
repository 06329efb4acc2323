"""From a raw file to a version of the feature store: ingest, validate, transform, store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.base.errors import DataError, InvalidRows
from ml_core.base.settings import Settings
from ml_core.features.columns import ColumnArrays
from ml_core.lab.config import DataConfig, ModelConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.frames import to_arrays
from ml_core.lab.data.raw_tables import RawTable, columns_beside, read_source
from ml_core.lab.data.schemas import Verdict, validate_frame
from ml_core.lab.data.table_frames import write_table
from ml_core.serve.features.versions import FeatureVersion, get_feature_version

__all__ = ["FeaturePipeline", "PipelineConfig", "PipelineResult"]

_NOT_STORED = -1
_TRIED_ALONE = 200  # rows; a transform that looks at others changes nearly every one


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

    A run replaces the table's content by a new Delta version; unchanged content makes none.
    """

    def __init__(self, config: ModelConfig, settings: Settings) -> None:
        self._config = PipelineConfig.of(config)
        self._beside = columns_beside(config.conformal.groups, get_feature_version(config.feature_version).columns)
        self._store = FeatureStore.of(settings, config.model)

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
            The file cannot be used, or no row is left.
        InvalidRows
            Rows break the column table and there is no quarantine.
        """
        config = self._config
        version = get_feature_version(config.feature_version)
        raw = read_source(config.source, config.data.adapter, config.feature_version, self._beside, config.data)
        if raw.frame.empty:
            raise DataError(str(config.source), "has no rows left for this model")
        verdict = validate_frame(raw.frame, config.feature_version, self._beside)
        bad = int((~verdict.good).sum())
        if bad and quarantine is None:
            raise InvalidRows(str(config.source), bad, len(raw.frame), verdict.problems, verdict.unknown_levels)
        if bad == len(raw.frame):
            raise DataError(str(config.source), f"no row holds: {_in_words(verdict)}")
        kept = raw.frame[verdict.good].reset_index(drop=True)
        _transform_once(kept, version.name)
        if bad and quarantine is not None and not dry_run:
            write_table(_set_aside(raw, verdict), quarantine)
        type_changes = self._store.type_changes(version.name, self._beside)
        delta_version = _NOT_STORED if dry_run else self._store.overwrite(version.name, kept, self._beside)
        if not dry_run:
            self._store.matrix(version.name, delta_version)
        return PipelineResult(
            table=self._store.table(version.name).address,
            version=delta_version,
            rows_in=raw.rows_in,
            left_out=raw.left_out,
            rows_kept=len(kept),
            quarantined=bad,
            problems=verdict.problems,
            ignored=raw.ignored,
            type_changes=type_changes,
        )


def _transform_once(kept: pd.DataFrame, version_name: str) -> None:
    """Shows before anything is stored that every kept row can be transformed.

    This also holds the request's rules against the schema's: a row they judge differently stops the run here.
    """
    version = get_feature_version(version_name)
    columns = to_arrays(kept, version)
    matrix = version.transform(columns)
    fault = _matrix_fault(matrix, (len(kept), len(version.feature_names))) or _neighbour_fault(matrix, columns, version)
    if fault is not None:
        raise DataError(f"feature version {version_name}", f"its transform {fault}")


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


def _in_words(verdict: Verdict) -> str:
    return "; ".join(f"{column}: {check} ({count} rows)" for column, check, count in verdict.problems[:10])
