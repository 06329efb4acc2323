"""Calibrates, evaluates and packs a scorer: what every artefact has in common, wherever its scorer came from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ml_core.base.errors import DataError
from ml_core.features.columns import table_hash
from ml_core.lab.config import ModelConfig
from ml_core.lab.measuring.calibration import agree_with_mapie, calibrate, check_large_enough
from ml_core.lab.measuring.coverage_law import design_effects
from ml_core.lab.measuring.evaluation import Evaluation, evaluate
from ml_core.lab.training.golden import golden_records
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.scorecard import fit_scorecard
from ml_core.lab.training.training_reference import reference_bytes
from ml_core.serve.model.bundle import (
    CALIBRATION_FILE,
    FALLBACK_FILE,
    GOLDEN_FILE,
    ONNX_FILE,
    REFERENCE_FILE,
    Bundle,
    pack_calibration,
    read_bundle,
    write_bundle,
)
from ml_core.serve.model.manifest import Source
from ml_core.serve.model.prediction_sets import ConformalCalibration
from ml_core.serve.model.predictor import Predictor, check_golden, golden_entries
from ml_core.serve.model.scorer import OnnxScorer, Scorecard, check_probabilities

__all__ = ["PackedModel", "ScorerCandidate", "pack_model", "split_shares"]

GOLDEN_RECORDS = 24
_DECIDING_LIBRARIES = ("mapie", "numpy", "onnx", "onnxmltools", "onnxruntime", "scikit-learn", "skl2onnx")
"""Libraries whose edition can change a byte of the artefact; XGBoost is named by whoever used it."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class ScorerCandidate:
    """A scorer that is about to become an artefact.

    Attributes
    ----------
    onnx : its serialised form, checked against the model it was made of
    params : hyper-parameters as given to the learner
    fitted_on : names of the parts whose rows the scorecard may be fitted on
    files : further files of the artefact (``model.ubj``)
    libraries : further libraries that decide its bytes
    source : where a foreign model came from
    """

    onnx: bytes
    params: Mapping[str, float | int | str] = field(default_factory=dict)
    fitted_on: tuple[str, ...] = ("train",)
    files: Mapping[str, bytes] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    source: Source | None = None


@dataclass(frozen=True)
class PackedModel:
    """A model folder that was written, read back, and gave its golden answers.

    Attributes
    ----------
    folder : where it lies
    bundle : its content
    evaluation : on the test rows
    test_proba, test_y_index, test_groups : probabilities (n, K), labels (n,) and patients (n,) of the test rows, for
        plots and ranges
    """

    folder: Path
    bundle: Bundle
    evaluation: Evaluation
    test_proba: npt.NDArray[np.float64]
    test_y_index: npt.NDArray[np.int64]
    test_groups: npt.NDArray[np.generic]

    @property
    def model_hash(self) -> str:
        """sha256 (hex) of the manifest."""
        return self.bundle.model_hash


@dataclass(frozen=True)
class _Calibrated:
    """One scorer's probabilities on the calibration rows, and the calibration made of them."""

    proba: npt.NDArray[np.float64]
    calibration: ConformalCalibration


def pack_model(
    config: ModelConfig, rows: LabelledRows, candidate: ScorerCandidate, folder: Path, note: Note
) -> PackedModel:
    """Calibrate the scorer and its scorecard, evaluate them, and write the artefact.

    Parameters
    ----------
    rows : all parts of the split; only calibration rows calibrate, only test rows evaluate
    folder : new or empty

    Raises
    ------
    CalibrationTooSmall
        A class has too few calibration rows for the configured level.
    CalibrationDisagrees
        MAPIE finds another threshold in the same scores.
    DataError
        A part of the split lacks a class.
    """
    for parts in (candidate.fitted_on, ("calibration",), ("test",)):
        _check_every_class(rows, parts)
    features, classes = rows.features, rows.classes
    fitted, calibration_rows, test = (rows.part(*p) for p in (candidate.fitted_on, ("calibration",), ("test",)))
    scorer = OnnxScorer(candidate.onnx, len(features.feature_names), len(classes))
    note(f"calibrating on {len(calibration_rows)} rows, checked by MAPIE")
    model = _calibrated(config, calibration_rows, check_probabilities(scorer.proba(calibration_rows.matrix)))
    content = fit_scorecard(fitted.matrix, fitted.y_index, len(classes))
    scorecard = _calibrated(config, calibration_rows, Scorecard(content).proba(calibration_rows.matrix))
    note(f"evaluating on {len(test)} rows of patients never seen")
    proba = check_probabilities(scorer.proba(test.matrix))
    normal = fitted.recent()
    level = config.conformal.confidence_level
    evaluation = evaluate(proba, test.y_index, model.calibration, level, test.groups, classes)
    files = {
        **candidate.files,
        ONNX_FILE: candidate.onnx,
        CALIBRATION_FILE: pack_calibration(model.calibration, scorecard.calibration),
        FALLBACK_FILE: _json({"prior": _prior(fitted), "scorecard": content}),
        REFERENCE_FILE: reference_bytes(
            features.features, normal.columns, normal.groups, model.proba, calibration_rows.groups, classes
        ),
    }
    metrics = evaluation.metrics | _calibration_effects(model, calibration_rows, level)
    facts = _facts(config, rows, candidate, model.calibration, metrics)
    bundle = _write_with_golden(folder, facts, files, config.seed)
    return PackedModel(folder, bundle, evaluation, proba, test.y_index, test.groups)


def split_shares(config: ModelConfig) -> dict[str, float]:
    """The configured share of each part."""
    split = config.split
    return {
        "train": split.train,
        "validation": split.validation,
        "calibration": split.calibration,
        "test": split.test,
    }


def _calibrated(config: ModelConfig, rows: LabelledRows, proba: npt.NDArray[np.float64]) -> _Calibrated:
    level, guarantee = config.conformal.confidence_level, config.conformal.guarantee
    calibration = calibrate(proba, rows.y_index, len(rows.classes), guarantee)
    check_large_enough(calibration, level, rows.classes)
    agree_with_mapie(calibration, proba, rows.y_index, level, rows.classes)
    return _Calibrated(proba, calibration)


def _calibration_effects(model: _Calibrated, rows: LabelledRows, level: Decimal) -> dict[str, float]:
    """How much less the calibration rows say than independent ones would, since patients repeat; monitors need it."""
    effects = design_effects(model.calibration, model.proba, rows.y_index, rows.groups, level)
    by_class = zip(rows.classes, effects.per_class, strict=True)
    found = {f"calibration_effect_class_{label}": effect for label, effect in by_class}
    return {"calibration_effect": effects.marginal, **found}


def _check_every_class(rows: LabelledRows, parts: tuple[str, ...]) -> None:
    found = set(rows.part(*parts).y_index.tolist())
    for k, label in enumerate(rows.classes):
        if k not in found:
            raise DataError(rows.origin, f"its {' and '.join(parts)} patients have no row of class {label!r}: add rows")


def _prior(rows: LabelledRows) -> dict[str, float]:
    counts = np.bincount(rows.y_index, minlength=len(rows.classes))
    return {str(label): float(n / len(rows)) for label, n in zip(rows.classes, counts, strict=True)}


def _facts(
    config: ModelConfig,
    rows: LabelledRows,
    candidate: ScorerCandidate,
    calibration: ConformalCalibration,
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    """Every field of the manifest but those ``write_bundle`` adds. No time, host, run id or path."""
    return {
        "name": config.model,
        "feature_version": rows.features.name,
        "feature_module_sha256": rows.features.module_hash,
        "column_table_sha256": table_hash(rows.features.columns),
        "n_features": len(rows.features.feature_names),
        "classes": rows.classes,
        "guarantee": calibration.guarantee,
        "confidence_level": config.conformal.confidence_level,
        "calibration_id": calibration.calibration_id,
        "libraries": {**{name: _version(name) for name in _DECIDING_LIBRARIES}, **candidate.libraries},
        "training": {
            "table": rows.table,
            "table_version": rows.table_version,
            "split_salt": config.split.salt,
            "split_shares": split_shares(config),
            "rows": rows.counts,
            "seed": config.seed,
            "params": dict(candidate.params) | _newest(config),
        },
        "metrics": dict(metrics),
        "source": candidate.source,
    }


def _newest(config: ModelConfig) -> dict[str, int]:
    """On how many of the newest rows it was calibrated and tested, where not on all."""
    newest = config.split.newest_rows
    return {} if newest is None else {"split_newest_rows": newest}


def _write_with_golden(folder: Path, facts: Mapping[str, Any], files: Mapping[str, bytes], seed: int) -> Bundle:
    """Write a draft, let it answer the golden records, and write the artefact with those answers."""
    with tempfile.TemporaryDirectory(prefix="surety-draft-") as draft:
        write_bundle(Path(draft), facts, {**files, GOLDEN_FILE: _json([])})
        predictor = Predictor(read_bundle(Path(draft)))
        records = golden_records(predictor.bundle.features.features, GOLDEN_RECORDS, seed)
        golden = golden_entries(predictor, records)
    write_bundle(folder, facts, {**files, GOLDEN_FILE: _json(golden)})
    bundle = read_bundle(folder)
    check_golden(Predictor(bundle))
    return bundle


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"
