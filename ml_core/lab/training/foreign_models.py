"""Classifiers that others logged in MLflow: converted, held against the original, and packed as one of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ArtefactError
from ml_core.features.columns import ColumnArrays
from ml_core.lab.config import ModelConfig
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.training.asked_columns import asked_columns
from ml_core.lab.training.conversion import Converted, check_equals, convert_classifier
from ml_core.lab.training.foreign_files import Foreign, open_foreign
from ml_core.lab.training.golden_draws import golden_records
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.packing import Note, PackedModel, ScorerCandidate, pack_model
from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.versions import FeatureVersion
from ml_core.serve.model.bundle import TREES_FILE
from ml_core.serve.model.scorer import OnnxScorer, check_probabilities

__all__ = ["pack_foreign"]

_FITTED_ON = ("train", "validation")
_DRAWN, _GOLDEN = 10_000, 100
"""Rows that are drawn from the column table, and golden records, on which the two must be equal."""


def pack_foreign(
    folder: Path,
    uri: str,
    config: ModelConfig,
    rows: LabelledRows,
    target: Path,
    note: Note,
    *,
    trust_pickle: bool,
) -> PackedModel:
    """Make an artefact of a classifier of scikit-learn, XGBoost, LightGBM or CatBoost.

    It takes features of the feature version, or raw columns of its table. The rows are shared out by patient as in
    training: train and validation fit the scorecard, calibration calibrates, test is held out for the gate. The model
    must have seen none of them.

    Parameters
    ----------
    folder : the downloaded MLflow model
    uri : where it came from; recorded
    target : new or empty folder of the artefact
    trust_pickle : whether a pickle may be loaded, which can run any code

    Raises
    ------
    ArtefactError
        It cannot be loaded without ``trust_pickle``, has no conversion, takes other columns or labels, or cannot score
        rows that a request may hold. The message says what to do.
    ScorerDisagrees
        The graph differs from the original by more than rounding explains.
    """
    foreign = open_foreign(folder, uri, len(rows.classes), trust_pickle=trust_pickle)
    order = _order(foreign, rows)
    asked = asked_columns(foreign.name, rows.features, foreign.names, foreign.n_features, foreign.categories)
    converted = convert_classifier(foreign.model, asked, len(rows.classes), order)
    taken = "raw columns" if asked.is_raw else "features"
    note(f"converted {foreign.source.model_class}, which takes {len(asked.names)} {taken}, to ONNX")

    def proba(given: Any) -> npt.NDArray[np.float64]:
        return np.asarray(foreign.proba(given), dtype=np.float64)[:, order]

    tables = (rows.columns, _golden(rows.features, config.seed))
    difference = check_equals(
        foreign.name, converted, asked, proba, tables, len(rows.classes), n=_DRAWN, seed=config.seed
    )
    note(f"ONNX equals the original within {difference:.1e} on {len(rows)} rows and {_DRAWN} more a request may hold")
    _check_sets(config, rows.part("calibration"), foreign, converted, lambda of: proba(asked.asked(of)))
    candidate = ScorerCandidate(
        onnx=converted.onnx,
        fitted_on=_FITTED_ON,
        files={} if converted.trees is None else {TREES_FILE: converted.trees.to_bytes()},
        libraries=foreign.library,
        source=foreign.source,
    )
    return pack_model(config, rows, candidate, target, note)


def _golden(features: FeatureVersion, seed: int) -> ColumnArrays:
    reader = RecordReader(features.columns)
    return reader.arrays([reader.read(record) for record in golden_records(features.features, _GOLDEN, seed)])


def _order(foreign: Foreign, rows: LabelledRows) -> list[int]:
    """Where each class of the label column stands among the model's own.

    Labels are compared by value, then as texts; a model whose labels are 0 to K - 1 names them by position.
    """
    labels, classes = list(foreign.labels), list(rows.classes)
    alike: tuple[tuple[list[Any], list[Any]], ...] = (
        (labels, classes),
        (list(map(str, labels)), list(map(str, classes))),
    )
    for known, wanted in alike:
        if len(known) == len(wanted) and all(label in known for label in wanted):
            return [known.index(label) for label in wanted]
    if labels == list(range(len(classes))):
        return labels
    problem = f"predicts {_listed(labels)}, and the labels of {rows.origin} are {_listed(classes)}"
    raise ArtefactError(foreign.name, f"{problem}: name the levels of the label column as the model does")


def _listed(labels: Sequence[object]) -> str:
    return ", ".join(map(str, labels[:6])) + (", …" if len(labels) > 6 else "")


def _check_sets(
    config: ModelConfig,
    rows: LabelledRows,
    foreign: Foreign,
    converted: Converted,
    original: Callable[[ColumnArrays], npt.NDArray[np.float64]],
) -> None:
    """No prediction set of a calibration row is another one with the original's probabilities.

    A label whose score is as near to the threshold as the two models may differ may be in either.

    Raises
    ------
    ArtefactError
        A set differs by more.
    """
    n_classes, level = len(rows.classes), config.conformal.confidence_level
    if len(set(rows.y_index.tolist())) < n_classes:
        return  # whoever calibrates says which class is missing
    scorer = OnnxScorer(converted.onnx, len(rows.features.feature_names), n_classes)
    ours, theirs = check_probabilities(scorer.proba(rows.matrix)), original(rows.columns)
    found = calibrate(ours, rows.y_index, n_classes).rows(ours, level).sets
    calibration, room = calibrate(theirs, rows.y_index, n_classes), 2 * converted.limit
    surely, perhaps = (calibration.rows(np.clip(theirs + by, 0.0, 1.0), level).sets for by in (-room, room))
    changed = int(((surely & ~found) | (found & ~perhaps)).any(axis=1).sum())
    if changed:
        problem = f"gives {changed} of {len(rows)} calibration rows another prediction set than its ONNX form"
        raise ArtefactError(foreign.name, f"{problem}: train it again as another kind, and report this one")
