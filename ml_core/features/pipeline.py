"""From a raw file to a version of the feature store: ingest, validate, transform, store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ml_core.config import ModelConfig
from ml_core.errors import DataError, InvalidRows
from ml_core.features.datasets import Adapter, RawTable, read_source
from ml_core.features.files import write_table
from ml_core.features.frames import to_arrays
from ml_core.features.schemas import Verdict, judge
from ml_core.features.store import FeatureStore
from ml_core.features.versions import get_feature_version
from ml_core.settings import Settings

__all__ = ["FeaturePipeline", "PipelineConfig", "PipelineResult"]

_NOT_STORED = -1


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """What the pipeline needs to know of a model's configuration.

    Attributes
    ----------
    source : file of raw rows
    adapter : how the file becomes the version's columns
    feature_version : e.g. ``v2``
    """

    source: Path
    adapter: Adapter
    feature_version: str

    @classmethod
    def of(cls, config: ModelConfig) -> PipelineConfig:
        """The part of a model's configuration that this pipeline reads."""
        return cls(config.data.source, config.data.adapter, config.feature_version)


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What a run did.

    Attributes
    ----------
    table : folder of the Delta table
    version : Delta version that holds the rows; -1 where nothing was stored (a dry run)
    rows_in : rows of the file
    left_out : rows the data set's own rule leaves out
    rows_kept : rows that are in the version
    quarantined : rows written aside
    problems : (column, check, how many rows), most rows first
    ignored : columns of the file that the version does not use
    """

    table: Path
    version: int
    rows_in: int
    left_out: int
    rows_kept: int
    quarantined: int
    problems: tuple[tuple[str, str, int], ...]
    ignored: tuple[str, ...]


class FeaturePipeline:
    """Brings the raw rows a model's configuration names into the feature store.

    A run replaces the table's content by a new Delta version; unchanged content makes none.
    """

    def __init__(self, config: ModelConfig, settings: Settings) -> None:
        self._config = PipelineConfig.of(config)
        self._store = FeatureStore(settings.feature_store)

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
        raw = read_source(config.source, config.adapter, config.feature_version)
        if raw.frame.empty:
            raise DataError(str(config.source), "has no rows left for this model")
        verdict = judge(raw.frame, config.feature_version)
        bad = int((~verdict.good).sum())
        if bad and quarantine is None:
            raise InvalidRows(str(config.source), bad, len(raw.frame), verdict.problems)
        if bad == len(raw.frame):
            raise DataError(str(config.source), f"no row holds: {_in_words(verdict)}")
        kept = raw.frame[verdict.good].reset_index(drop=True)
        _transform_once(kept, version.name)
        if bad and quarantine is not None and not dry_run:
            write_table(_set_aside(raw, verdict), quarantine)
        delta_version = _NOT_STORED if dry_run else self._store.overwrite(version.name, kept)
        if not dry_run:
            self._store.matrix(version.name, delta_version)
        return PipelineResult(
            table=self._store.table(version.name),
            version=delta_version,
            rows_in=raw.rows_in,
            left_out=raw.left_out,
            rows_kept=len(kept),
            quarantined=bad,
            problems=verdict.problems,
            ignored=raw.ignored,
        )


def _transform_once(kept: pd.DataFrame, version_name: str) -> None:
    """Shows before anything is stored that every kept row can be transformed.

    This also holds the request's rules against the schema's: a row they judge differently stops the run here.
    """
    version = get_feature_version(version_name)
    matrix = version.transform(to_arrays(kept, version))
    if np.isinf(matrix).any():
        raise DataError(f"feature version {version_name}", "the transform gives infinities")


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
