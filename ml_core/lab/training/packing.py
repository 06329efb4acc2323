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

from ml_core.base.errors import ConfigError, DataError
from ml_core.features.columns import table_hash, with_role
from ml_core.lab.config import ModelConfig
from ml_core.lab.measuring.calibration import agree_with_mapie, calibrate, check_large_enough, needed_rows
from ml_core.lab.measuring.evaluation import Evaluation, evaluate
from ml_core.lab.training.counted_rows import survey_calibration, weighted_effects, weighted_evaluation, weighted_rows
from ml_core.lab.training.declared_groups import calibrate_cells, cell_rows, groups_of
from ml_core.lab.training.golden_draws import golden_records
from ml_core.lab.training.labelled_rows import PARTS, LabelledRows
from ml_core.lab.training.scorecard_fit import common_columns, fit_scorecard
from ml_core.lab.training.training_reference import column_importance, reference_bytes
from ml_core.serve.features.column_table import table_bytes
from ml_core.serve.features.table_versions import COLUMNS_FILE
from ml_core.serve.model.bundle import (
    CALIBRATION_FILE,
    FALLBACK_FILE,
    GOLDEN_FILE,
    ONNX_FILE,
    REFERENCE_FILE,
    Bundle,
    Calibrations,
    pack_calibration,
    read_bundle,
    write_bundle,
)
from ml_core.serve.model.manifest import GroupFacts, LearnerFacts, Recalibration, Source, Weighting
from ml_core.serve.model.prediction_sets import ConformalCalibration, Guarantee
from ml_core.serve.model.predictor import Predictor, check_golden, golden_entries
from ml_core.serve.model.scorer import OnnxScorer, Scorecard, check_probabilities
from ml_core.serve.model.weighted_sets import WeightedCalibration, effective_rows

__all__ = [
    "DECIDING_LIBRARIES",
    "Note",
    "PackedModel",
    "ScorerCandidate",
    "pack_model",
    "split_facts",
    "split_shares",
    "write_with_golden",
]

GOLDEN_RECORDS = 24
DECIDING_LIBRARIES = ("mapie", "numpy", "onnx", "onnxruntime", "scikit-learn", "skl2onnx")
"""Libraries whose version can change a byte of the artefact; the learner adds its own."""

Note = Callable[[str], None]
"""Called with what is done, in words, for a person who waits."""


@dataclass(frozen=True)
class ScorerCandidate:
    """A scorer that is about to become an artefact.

    Attributes
    ----------
    onnx : its serialised form, checked against the model it was made of
    params : hyper-parameters as given to the learner
    fitted_on : names of the parts whose rows the scorecard may be fitted on
    files : further files of the artefact: the model in its library's own form, ``trees.npz``
    libraries : further libraries that decide its bytes
    source : where a foreign model came from
    scorer_of : the model whose scorer it is, where that is only calibrated anew; scorecard and training facts stay
    learner : what trained it, where that was not XGBoost
    """

    onnx: bytes
    params: Mapping[str, float | int | str] = field(default_factory=dict)
    fitted_on: tuple[str, ...] = ("train",)
    files: Mapping[str, bytes] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    source: Source | None = None
    scorer_of: Bundle | None = None
    learner: LearnerFacts | None = None


@dataclass(frozen=True)
class PackedModel:
    """A model folder that was written, read back, and gave its golden answers.

    Attributes
    ----------
    folder : where it lies
    bundle : its content
    evaluation : on the test rows
    test_proba, test_sets, test_y_index, test_groups : probabilities and sets (n, K), labels (n,) and patients (n,) of
        the test rows, for plots and ranges
    """

    folder: Path
    bundle: Bundle
    evaluation: Evaluation
    test_proba: npt.NDArray[np.float64]
    test_sets: npt.NDArray[np.bool_]
    test_y_index: npt.NDArray[np.int64]
    test_groups: npt.NDArray[np.generic]

    @property
    def model_hash(self) -> str:
        """sha256 (hex) of the manifest."""
        return self.bundle.model_hash


@dataclass(frozen=True)
class _Calibrated:
    """One scorer's probabilities on the calibration rows, and the calibrations made of them."""

    proba: npt.NDArray[np.float64]
    calibrations: Calibrations

    @property
    def calibration(self) -> ConformalCalibration:
        """Of all rows."""
        return self.calibrations.whole


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
        A part of the split lacks a class, or the calibration rows of one weigh too little.
    ConfigError
        Rows with weights are asked for a promise that weights cannot have.
    """
    _check_promise(config, rows)
    for parts in (candidate.fitted_on, ("calibration",), ("test",)):
        _check_every_class(rows, parts)
    features, classes = rows.features, rows.classes
    fitted, calibration_rows, test = (rows.part(*p) for p in (candidate.fitted_on, ("calibration",), ("test",)))
    scorer = OnnxScorer(candidate.onnx, len(features.feature_names), len(classes))
    note(f"calibrating on {len(calibration_rows)} rows, checked by MAPIE")
    groups = groups_of(config, calibration_rows)
    model = _calibrated(config, calibration_rows, check_probabilities(scorer.proba(calibration_rows.matrix)), groups)
    fallback = _fallback(fitted) if candidate.scorer_of is None else candidate.scorer_of.fallback
    by_scorecard = Scorecard(fallback["scorecard"]).proba(calibration_rows.matrix)
    scorecard = _calibrated(config, calibration_rows, by_scorecard, groups)
    note(f"evaluating on {len(test)} rows of {rows.subjects} never seen")
    proba = check_probabilities(scorer.proba(test.matrix))
    normal = calibration_rows if config.split.by == "time" else fitted.recent()
    importance = column_importance(features, calibration_rows.columns, scorer.proba, config.seed)
    level = config.conformal.confidence_level
    evaluation, sets = _evaluated(model, groups, level, test, proba)
    files = {
        **candidate.files,
        **({COLUMNS_FILE: table_bytes(features.columns)} if features.is_table else {}),
        ONNX_FILE: candidate.onnx,
        CALIBRATION_FILE: pack_calibration(
            model.calibration,
            scorecard.calibration,
            model.calibrations.cells,
            scorecard.calibrations.cells,
            _both(model.calibrations.weighted, scorecard.calibrations.weighted),
        ),
        FALLBACK_FILE: _json(fallback),
        REFERENCE_FILE: _reference(config, normal, calibration_rows, model.proba, importance),
    }
    metrics = evaluation.metrics | _calibration_effects(model, groups, calibration_rows, level)
    facts = _facts(config, rows, candidate, model.calibrations, groups, metrics) | _weighting(rows, model.calibrations)
    bundle = write_with_golden(folder, facts, files, config.seed)
    return PackedModel(folder, bundle, evaluation, proba, sets, test.y_index, test.groups)


def split_shares(config: ModelConfig) -> dict[str, float]:
    """The configured share of each part."""
    return {part: getattr(config.split, part) for part in PARTS}


def _calibrated(
    config: ModelConfig, rows: LabelledRows, proba: npt.NDArray[np.float64], groups: GroupFacts | None
) -> _Calibrated:
    level, guarantee = config.conformal.confidence_level, config.conformal.guarantee
    confidence = config.conformal.training_conditional
    of_rows: Guarantee = "marginal" if guarantee == "marginal" else "class_conditional"
    calibration = calibrate(proba, rows.y_index, len(rows.classes), of_rows, confidence)
    check_large_enough(calibration, level, rows.classes)
    agree_with_mapie(calibration, proba, rows.y_index, level, rows.classes)
    weighted = None if rows.weights is None else survey_calibration(calibration, rows, proba)
    if weighted is not None:
        _check_heavy_enough(weighted, rows, level)
    return _Calibrated(proba, Calibrations(calibration, calibrate_cells(groups, rows, proba, confidence), weighted))


def _check_promise(config: ModelConfig, rows: LabelledRows) -> None:
    asked = config.conformal
    if rows.weights is not None and (asked.guarantee != "class_conditional" or asked.training_conditional is not None):
        problem = "rows with weights (a column with the role weight) are promised coverage for each class alone: "
        problem += "class_conditional, without training_conditional"
        raise ConfigError("conformal.guarantee", problem)


def _check_heavy_enough(weighted: WeightedCalibration, rows: LabelledRows, level: Decimal) -> None:
    """Refuse a class whose calibration rows weigh so little against the heaviest row that every set holds it."""
    needed = needed_rows(level)
    for label, weights in zip(rows.classes, weighted.weights, strict=True):
        if weights.sum() < needed:
            found = (
                f"class {label!r} weigh as much as {weights.sum():.1f} rows of the largest weight; confidence {level} "
            )
            problem = f"the calibration rows of {found}needs {needed}: add rows, or cut the largest weights"
            raise DataError(rows.origin, problem)


def _evaluated(
    model: _Calibrated, groups: GroupFacts | None, level: Decimal, test: LabelledRows, proba: npt.NDArray[np.float64]
) -> tuple[Evaluation, npt.NDArray[np.bool_]]:
    """Metrics on the test rows, and their sets."""
    cells, by = cell_rows(groups, model.calibration, model.calibrations.grouped(groups), test)
    weighted = model.calibrations.weighted
    if weighted is not None:
        return weighted_evaluation(weighted, level, test, proba, by), weighted_rows(weighted, level, test, proba).sets
    sets = cells.sets(proba, level)
    about = (proba, test.y_index, model.calibration, level, test.groups, test.classes, test.returning)
    return evaluate(*about, sets=sets, by=by), sets


def _reference(
    config: ModelConfig,
    normal: LabelledRows,
    calibration: LabelledRows,
    proba: npt.NDArray[np.float64],
    importance: Mapping[str, float],
) -> bytes:
    """What is normal; of rows with weights, as the population that they stand for would give it.

    A row is kept with the chance of its weight, as a share of the largest: what is left are draws from the population.
    """
    rng = np.random.default_rng(config.seed)
    scored = np.ones(len(calibration), dtype=np.bool_)
    if normal.weights is not None and calibration.weights is not None:
        scored = rng.random(len(calibration)) < calibration.weights
        normal = normal.only(rng.random(len(normal)) < normal.weights)
    about = (normal.features.features, normal.columns, normal.groups, proba[scored], calibration.groups[scored])
    return reference_bytes(*about, calibration.classes, importance)


def _weighting(rows: LabelledRows, calibrations: Calibrations) -> dict[str, Any]:
    """Facts of the manifest that differ where the rows have weights."""
    weighted, column = calibrations.weighted, with_role(rows.features.columns, "weight")
    if weighted is None or column is None:
        return {}
    worth = {str(label): effective_rows(w) for label, w in zip(rows.classes, weighted.weights, strict=True)}
    return {"guarantee": "weighted", "weighting": Weighting(column=column.name, effective_rows=worth)}


def _both(
    model: WeightedCalibration | None, scorecard: WeightedCalibration | None
) -> tuple[WeightedCalibration, WeightedCalibration] | None:
    return None if model is None or scorecard is None else (model, scorecard)


def _calibration_effects(
    model: _Calibrated, groups: GroupFacts | None, rows: LabelledRows, level: Decimal
) -> dict[str, float]:
    """How much less the calibration rows say than independent ones would, since patients repeat; monitors need it."""
    weighted = model.calibrations.weighted
    if weighted is not None:
        return weighted_effects(weighted_rows(weighted, level, rows, model.proba), rows.classes)
    cells, _ = cell_rows(groups, model.calibration, model.calibrations.grouped(groups), rows)
    effects = cells.design_effects(model.proba, rows.y_index, rows.groups, level)
    by_class = zip(rows.classes, effects.per_class, strict=True)
    found = {f"calibration_effect_class_{label}": effect for label, effect in by_class}
    return {"calibration_effect": effects.marginal, **found}


def _check_every_class(rows: LabelledRows, parts: tuple[str, ...]) -> None:
    found = set(rows.part(*parts).y_index.tolist())
    for k, label in enumerate(rows.classes):
        if k not in found:
            raise DataError(
                rows.origin, f"its {' and '.join(parts)} {rows.subjects} have no row of class {label!r}: add rows"
            )


def _fallback(fitted: LabelledRows) -> dict[str, Any]:
    scorecard = fit_scorecard(common_columns(fitted), fitted.y_index, len(fitted.classes), fitted.weights)
    return {"prior": _prior(fitted), "scorecard": scorecard}


def _prior(rows: LabelledRows) -> dict[str, float]:
    counts = np.bincount(rows.y_index, weights=rows.weights, minlength=len(rows.classes))
    total = len(rows) if rows.weights is None else rows.weights.sum()
    return {str(label): float(n / total) for label, n in zip(rows.classes, counts, strict=True)}


def _facts(
    config: ModelConfig,
    rows: LabelledRows,
    candidate: ScorerCandidate,
    calibrations: Calibrations,
    groups: GroupFacts | None,
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
        "guarantee": config.conformal.guarantee,
        "confidence_level": config.conformal.confidence_level,
        "training_conditional": calibrations.whole.confidence,
        "inner_levels": None
        if calibrations.whole.confidence is None
        else calibrations.whole.inner_levels(config.conformal.confidence_level),
        "label_horizon_days": config.labels.horizon_days,
        "calibration_id": calibrations.id_with(groups),
        "libraries": {**{name: _version(name) for name in DECIDING_LIBRARIES}, **candidate.libraries},
        **_training(config, rows, candidate),
        "metrics": dict(metrics),
        "source": candidate.source,
        "groups": groups,
    }


def _training(config: ModelConfig, rows: LabelledRows, candidate: ScorerCandidate) -> dict[str, Any]:
    """Training facts; of a scorer calibrated anew those it had, and which rows calibrated and tested it."""
    if candidate.scorer_of is not None:
        trained = candidate.scorer_of.manifest.training
        of_scorer = {part: n for part, n in trained.rows.items() if part in ("train", "validation")}
        anew = Recalibration(
            model_hash=candidate.scorer_of.model_hash, table=rows.table, table_version=rows.table_version
        )
        return {"training": trained.model_copy(update={"rows": of_scorer | rows.counts}), "recalibration": anew}
    training = {
        "table": rows.table,
        "table_version": rows.table_version,
        "split_salt": config.split.salt,
        "split_shares": split_shares(config),
        "rows": rows.counts,
        "seed": config.seed,
        "params": dict(candidate.params) | split_facts(config, rows),
        "learner": candidate.learner,
    }
    return {"training": training}


def split_facts(config: ModelConfig, rows: LabelledRows) -> dict[str, float | int | str]:
    """What else says how the rows were shared out; empty for a split by patient of all rows.

    ``split_newest_rows``: on how many of the newest rows it was calibrated and tested. ``split_by`` and
    ``split_order_by``: a split in time and the column of it. ``split_seen_until`` and ``split_seen_position``: time and
    position in the table of the newest row that trained, validated or calibrated; only rows after it are new to the
    model.
    """
    split, facts = config.split, dict[str, float | int | str]()
    if split.newest_rows is not None:
        facts["split_newest_rows"] = split.newest_rows
    seen = rows.seen_until()
    if seen is not None:
        facts |= {"split_by": "time", "split_seen_until": seen[0], "split_seen_position": seen[1]}
        facts |= {} if split.order_by is None else {"split_order_by": split.order_by}
    return facts


def write_with_golden(folder: Path, facts: Mapping[str, Any], files: Mapping[str, bytes], seed: int) -> Bundle:
    """Write a draft, let it answer the golden records, and write the artefact with those answers."""
    with tempfile.TemporaryDirectory(prefix="surety-draft-") as draft:
        write_bundle(Path(draft), facts, {**files, GOLDEN_FILE: _json([])})
        predictor = Predictor(read_bundle(Path(draft)))
        records = golden_records((*predictor.bundle.features.features, *predictor.bundle.beside), GOLDEN_RECORDS, seed)
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
