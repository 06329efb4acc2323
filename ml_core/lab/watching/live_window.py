"""What was asked lately, as columns, and what was normal for the model that was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from ml_core.base.errors import DataError
from ml_core.base.settings import Settings
from ml_core.features.columns import Column, ColumnArrays, features_of
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.serve.features.record import Record, RecordReader
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.bundle import REFERENCE_FILE
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout.rollout_store import RolloutStore

__all__ = ["LiveWindow", "Normal", "inputs_of", "live_window", "normal_of", "scores_of"]


@dataclass(frozen=True, slots=True)
class Normal:
    """The reference that travels with a model.

    Attributes
    ----------
    tag, model_hash : of the model
    columns : its feature columns
    window : what was normal in training
    """

    tag: str
    model_hash: str
    columns: tuple[Column, ...]
    window: ReferenceWindow


@dataclass(frozen=True, slots=True)
class LiveWindow:
    """The newest answers of the champion.

    Attributes
    ----------
    normal : the champion's reference
    rows : how many answers there are
    inputs : feature columns as ``ColumnArrays``, each (rows,)
    scores : P(label) by label, as text, each (rows,)
    since, until : when the first and the last was given, UTC
    """

    normal: Normal
    rows: int
    inputs: ColumnArrays
    scores: ColumnArrays
    since: datetime
    until: datetime


def normal_of(loader: ModelLoader, tag: str) -> Normal:
    """The reference of the model under that tag, verified with all of its artefact.

    Raises
    ------
    NotLoaded, ArtefactError
        It cannot be found, or not trusted.
    """
    manifest, model_hash, files = loader.files(tag)
    columns = features_of(get_feature_version(manifest.feature_version).columns)
    return Normal(tag, model_hash, columns, ReferenceWindow.read(files[REFERENCE_FILE], columns))


def live_window(settings: Settings, rows: int) -> LiveWindow:
    """The newest answers of the champion, at most ``rows`` of them.

    Raises
    ------
    DataError
        Nothing is live, there is no answer of the champion in the log yet, or inputs are not kept.
    NotLoaded, ArtefactError, LogDamaged
        The champion, or the log, cannot be read.
    """
    state = RolloutStore(settings).read()
    if state is None:
        raise DataError("the live log", f"nothing of {settings.model_name} is live: start the service first")
    normal = normal_of(ModelLoader(settings), settings.model or state.champion)
    found = [a for a in PredictionLog(settings.log).last(rows) if a.lineage["model_hash"] == normal.model_hash]
    if not found:
        raise DataError("the live log", f"holds no answer of {normal.tag} yet")
    kept = [answer for answer in found if answer.input is not None]
    if not kept:
        raise DataError("the live log", "keeps no inputs (SURETY_LOG_INPUTS is false): give --current FILE")
    return LiveWindow(normal, len(kept), inputs_of(kept, normal.columns), scores_of(kept), kept[0].at, kept[-1].at)


def inputs_of(answers: Sequence[LoggedAnswer], columns: Sequence[Column]) -> ColumnArrays:
    """Inputs of answers that have one, as ``ColumnArrays``."""
    reader = RecordReader(columns)
    return reader.arrays([Record(dict(answer.input or {}), {}) for answer in answers])


def scores_of(answers: Sequence[LoggedAnswer]) -> ColumnArrays:
    """P(label) by label, as text, each (n,), of answers of one model."""
    classes = answers[0].lineage["classes"]
    values = np.array([answer.probabilities for answer in answers], dtype=np.float64)
    return {str(label): values[:, k] for k, label in enumerate(classes)}
