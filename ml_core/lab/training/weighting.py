"""Weighs the calibration rows of a model as patients come now; nothing is trained, and no new outcome is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ml_core.base.arrays import BoolArray, FeatureMatrix, Probabilities
from ml_core.base.errors import CannotJudge, DataError
from ml_core.features.columns import ColumnArrays
from ml_core.lab.config import ModelConfig
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.training.counted_rows import row_weights, weighted_effects, weighted_evaluation, weighted_rows
from ml_core.lab.training.declared_groups import cell_rows
from ml_core.lab.training.density_ratio import fit_density_ratio
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.packing import Note, PackedModel, write_with_golden
from ml_core.lab.training.recalibrating import check_same_features
from ml_core.lab.training.training_reference import reference_bytes
from ml_core.serve.model.bundle import (
    CALIBRATION_FILE,
    GOLDEN_FILE,
    REFERENCE_FILE,
    Bundle,
    pack_calibration,
    read_bundle,
    verify_folder,
)
from ml_core.serve.model.manifest import Weighting
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.scorer import Scorecard
from ml_core.serve.model.weighted_sets import DensityRatio, WeightedCalibration, effective_rows

__all__ = ["LiveRows", "sets_of_bundle", "weight_model"]


@dataclass(frozen=True, eq=False)
class LiveRows:
    """n records as they come now, without outcomes.

    Attributes
    ----------
    columns : raw feature columns, each (n,)
    matrix : shape (n, d)
    groups : shape (n,), the person of each row
    """

    columns: ColumnArrays
    matrix: FeatureMatrix
    groups: npt.NDArray[Any]


def weight_model(
    champion: Path,
    model_hash: str | None,
    config: ModelConfig,
    rows: LabelledRows,
    live: LiveRows,
    folder: Path,
    note: Note,
) -> PackedModel:
    """An artefact with scorer and calibration scores of a model, the scores weighted by the density ratio.

    The reference of the drift check becomes that of the live rows.

    Parameters
    ----------
    champion : folder of the model
    rows : that calibrated and tested it
    live : records as they come now
    folder : new or empty; becomes the artefact

    Raises
    ------
    DataError
        Its sets are made by group or of all classes together, or these rows did not calibrate it.
    CannotJudge
        There are too few rows for the ratio, or the shift is too large: a class's rows would be worth too few.
    """
    old = read_bundle(champion, model_hash)
    check_same_features(old, rows)
    promise = (old.calibration.guarantee, old.manifest.training_conditional)
    if old.grouped is not None or promise != ("class_conditional", None):
        problem = "only sets of the guarantee class_conditional, without a confidence, can be weighted"
        raise DataError(old.manifest.name, problem)
    calibration, test = rows.part("calibration"), rows.part("test")
    predictor = Predictor(old)
    proba, test_proba = predictor.score(calibration.matrix), predictor.score(test.matrix)
    again = calibrate(proba, calibration.y_index, len(rows.classes))
    if again.calibration_id != old.calibration.calibration_id:
        raise DataError(rows.origin, "has other calibration rows than the model: its configuration or table changed")
    ratio = DensityRatio(fit_density_ratio(calibration.matrix, live.matrix))
    note(f"weighing {len(calibration)} calibration rows by {len(live.matrix)} live ones")
    scorecard = Scorecard(old.fallback.get("scorecard", {})).proba(calibration.matrix)
    weighted = tuple(
        WeightedCalibration(plain, row_weights(ratio, calibration, found), ratio)
        for plain, found in ((old.calibration, proba), (old.scorecard_calibration, scorecard))
    )
    effective = {str(c): effective_rows(w) for c, w in zip(rows.classes, weighted[0].weights, strict=True)}
    for label, worth in effective.items():
        if worth < config.recalibrate.min_effective_rows:
            problem = f"weighted, the calibration rows of class {label} are worth {worth:.0f}; "
            problem += f"{config.recalibrate.min_effective_rows} are needed: calibrate on outcomes instead"
            raise CannotJudge("so large a shift of rows", problem)
    level = old.manifest.confidence_level
    evaluation = weighted_evaluation(weighted[0], level, test, test_proba)
    _, _, content = verify_folder(champion, model_hash)
    kept = {name: raw for name, raw in content.items() if name not in (CALIBRATION_FILE, REFERENCE_FILE, GOLDEN_FILE)}
    features = old.features.features
    files = {
        **kept,
        CALIBRATION_FILE: pack_calibration(
            old.calibration, old.scorecard_calibration, weighted=(weighted[0], weighted[1])
        ),
        REFERENCE_FILE: reference_bytes(
            features, live.columns, live.groups, predictor.score(live.matrix), live.groups, rows.classes
        ),
    }
    effects = weighted_effects(weighted_rows(weighted[0], level, calibration, proba), rows.classes)
    facts = {
        **{name: value for name, value in old.manifest if name not in ("files", "format_version")},
        "guarantee": "weighted",
        "calibration_id": weighted[0].calibration_id,
        "metrics": evaluation.metrics | effects,
        "weighting": Weighting(model_hash=old.model_hash, live_rows=len(live.matrix), effective_rows=effective),
    }
    bundle = write_with_golden(folder, facts, files, config.seed)
    sets = sets_of_bundle(bundle, test, test_proba)
    return PackedModel(folder, bundle, evaluation, test_proba, sets, test.y_index, test.groups)


def sets_of_bundle(bundle: Bundle, rows: LabelledRows, proba: Probabilities) -> BoolArray:
    """Prediction sets of labelled rows at the model's level, shape (n, K), however they are calibrated."""
    level = bundle.manifest.confidence_level
    if bundle.weighted is not None:
        return bundle.weighted.rows(proba, level, bundle.weighted.ratio.weights(rows.matrix)).sets
    return cell_rows(bundle.manifest.groups, bundle.calibration, bundle.grouped, rows)[0].sets(proba, level)
