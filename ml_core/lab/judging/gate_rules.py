"""The rules of the deployment gate: each looks at the artefact and at rows, and trusts no recorded number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import CannotJudge
from ml_core.lab.config import ModelConfig
from ml_core.lab.judging.rule_verdicts import (
    above,
    at_least,
    at_most,
    claim,
    coverage_ceiling_rules,
    coverage_floor_rules,
    coverage_proof_rules,
    enough_rows_rules,
    finite_metric,
)
from ml_core.lab.measuring.calibration import calibrate, needed_rows
from ml_core.lab.measuring.comparison import out_of_fold_losses, unseen_rows_verdict
from ml_core.lab.measuring.coverage_law import design_effects
from ml_core.lab.measuring.coverage_verdicts import CoverageOf, coverage_verdict, same_law_verdict
from ml_core.lab.measuring.evaluation import evaluate, log_losses
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.learner import booster_proba
from ml_core.lab.training.onnx_export import XGBOOST_LIMIT
from ml_core.lab.training.packing import split_facts, split_shares
from ml_core.serve.model.bundle import XGBOOST_FILE
from ml_core.serve.model.prediction_sets import ConformalCalibration
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.promotion_record import RuleVerdict
from ml_core.serve.model.scorer import Scorecard

__all__ = ["GateCase", "gate_verdicts"]

_SCORECARD_TOLERANCE = 1e-9  # its exponentials may differ in the last bit between processors
_OF_TIME = ("split_by", "split_order_by", "split_seen_until", "split_seen_position")
_RETURNING = "coverage_returning"
_METRICS_TOLERANCE = 1e-9  # recomputed from the same bits; only the order of a sum may differ between machines


@dataclass(frozen=True)
class GateCase:
    """What is judged: a loaded model and labelled rows.

    Attributes
    ----------
    predictor : of the artefact, which gave its golden answers
    rows : all parts of the split, which the configuration decides
    config : the gate's limits
    folder : where the artefact lies
    """

    predictor: Predictor
    rows: LabelledRows
    config: ModelConfig
    folder: Path

    @property
    def in_time(self) -> bool:
        """The rows are split in time: test rows are later than calibration rows, and need not be of their law."""
        return self.config.split.by == "time"

    @cached_property
    def test(self) -> LabelledRows:
        """Rows of the test patients."""
        return self.rows.part("test")

    @cached_property
    def calibration(self) -> LabelledRows:
        """Rows of the calibration patients."""
        return self.rows.part("calibration")

    @cached_property
    def test_proba(self) -> npt.NDArray[np.float64]:
        """Probabilities of the test rows by the scorer that would serve."""
        return self.predictor.score(self.test.matrix)

    @cached_property
    def calibration_proba(self) -> npt.NDArray[np.float64]:
        """Probabilities of the calibration rows by the same scorer."""
        return self.predictor.score(self.calibration.matrix)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Metrics of the model, recomputed on the test rows."""
        bundle, test = self.predictor.bundle, self.test
        level = bundle.manifest.confidence_level
        return evaluate(
            self.test_proba,
            test.y_index,
            bundle.calibration,
            level,
            test.groups,
            self.predictor.classes,
            test.returning,
        ).metrics


def gate_verdicts(case: GateCase) -> list[RuleVerdict]:
    """Verdict of every rule, in the order people read them."""
    rules = [_promise(case), _split(case)]
    rules += _enough(case)
    if not len(case.test) or not len(case.calibration):
        return rules
    rules += _performance(case)
    rules += _coverage(case)
    rules += [_scorer_is_the_model(case)] if (case.folder / XGBOOST_FILE).exists() else []
    rules += _reproduces(case)
    rules += [] if case.in_time else _same_law(case)  # a later time may have another law, and coverage is judged above
    return [*rules, _unseen(case), _metrics(case)]


def _promise(case: GateCase) -> RuleVerdict:
    """The artefact promises what the configuration asks for."""
    manifest, asked = case.predictor.bundle.manifest, case.config.conformal
    ours, theirs = (
        (promise.guarantee, promise.confidence_level, promise.training_conditional) for promise in (manifest, asked)
    )
    found, wanted = (
        f"{guarantee} at {level}" + (f" with confidence {confidence}" if confidence else "")
        for guarantee, level, confidence in (ours, theirs)
    )
    return claim("promise_matches", ours == theirs, f"promises {found}; asked for {wanted}")


def _split(case: GateCase) -> RuleVerdict:
    """The artefact names the split by which the rows are judged here, and the newest row it has seen."""
    training, config = case.predictor.bundle.manifest.training, case.config
    same = training.split_salt == config.split.salt and training.split_shares == split_shares(config)
    in_time = {name: value for name, value in training.params.items() if name in _OF_TIME}
    asked = {name: value for name, value in split_facts(config, case.rows).items() if name in _OF_TIME}
    what = "salt, shares and times" if in_time or asked else "salt and shares"
    note = f"{what} of the manifest against those of the configuration"
    return claim("split_matches", same and in_time == asked, note)


def _enough(case: GateCase) -> list[RuleVerdict]:
    classes, manifest = case.predictor.classes, case.predictor.bundle.manifest
    level, needed = manifest.confidence_level, needed_rows(manifest.confidence_level, manifest.training_conditional)
    rules = enough_rows_rules(case.test.y_index, classes, case.config.gate.min_positives)
    counts = np.bincount(case.calibration.y_index, minlength=len(classes))
    note = f"calibration rows; fewer mean nothing at {level}"
    pairs = zip(classes, counts, strict=True)
    return rules + [at_least(f"calibration_rows_class_{c}", float(n), needed, note) for c, n in pairs]


def _performance(case: GateCase) -> list[RuleVerdict]:
    gate, metrics = case.config.gate, case.metrics
    return [
        at_least("roc_auc", finite_metric(metrics, "roc_auc"), gate.min_roc_auc, gate.roc_auc_note),
        at_most("brier", finite_metric(metrics, "brier"), gate.max_brier),
        above("brier_skill", finite_metric(metrics, "brier_skill"), gate.min_brier_skill, "gain over the base rate"),
    ]


def _coverage(case: GateCase) -> list[RuleVerdict]:
    """Coverage of the test rows; of patients seen before by itself, where the configuration says a floor for them.

    A split in time puts no upper limit: its test rows are later ones and may be easier. That the scores are what they
    claim to be is then shown by ``calibration_reproduces`` and ``metrics_reproduce`` alone.
    """
    gate, everybody = case.config.gate, np.ones(len(case.test), dtype=np.bool_)
    verdict = _verdict(case, everybody, gate.min_coverage)
    rules = coverage_floor_rules(verdict, notes=_of_returning(case))
    rules += coverage_proof_rules(verdict) if gate.prove else []
    if not case.in_time:
        return rules + coverage_ceiling_rules(verdict)
    if gate.min_coverage_returning is not None and case.test.returning.any():
        found = _verdict(case, case.test.returning, gate.min_coverage_returning)
        rules += coverage_floor_rules([row for row in found if row.label is not None and row.n_test], _RETURNING)
    return rules


def _verdict(case: GateCase, chosen: npt.NDArray[np.bool_], floor: float) -> tuple[CoverageOf, ...]:
    """Coverage of some of the test rows against a floor."""
    bundle, cal, test = case.predictor.bundle, case.calibration, case.test
    level = bundle.manifest.confidence_level
    return coverage_verdict(
        bundle.calibration,
        case.test_proba[chosen],
        test.y_index[chosen],
        test.groups[chosen],
        level,
        floor,
        case.predictor.classes,
        design_effects(bundle.calibration, case.calibration_proba, cal.y_index, cal.groups, level),
    )


def _of_returning(case: GateCase) -> dict[object, str]:
    """What to say of the patients seen before, by class."""
    found, metrics = dict[object, str](), case.metrics
    for label in case.predictor.classes:
        n = metrics.get(f"n_returning_class_{label}")
        if n is not None:
            covered = metrics[f"{_RETURNING}_class_{label}"]
            found[label] = f"{n:.0f} of the rows are of patients seen before, covered {covered:.4f}"
    return found


def _scorer_is_the_model(case: GateCase) -> RuleVerdict:
    """``model.onnx`` gives what ``model.ubj`` gives."""
    import xgboost

    try:
        booster = xgboost.Booster(model_file=bytearray((case.folder / XGBOOST_FILE).read_bytes()))
        expected = booster_proba(booster, case.calibration.matrix)
        difference = float(np.abs(expected - case.calibration_proba).max())
    except (xgboost.core.XGBoostError, ValueError) as error:
        return at_most(
            "scorer_is_the_model", None, XGBOOST_LIMIT, f"{XGBOOST_FILE} cannot be used: {type(error).__name__}"
        )
    return at_most("scorer_is_the_model", difference, XGBOOST_LIMIT, f"model.onnx against {XGBOOST_FILE}")


def _reproduces(case: GateCase) -> list[RuleVerdict]:
    """The stored calibration scores are those of these very scorers on the calibration patients."""
    bundle = case.predictor.bundle
    scorecard = Scorecard(bundle.fallback.get("scorecard", {})).proba(case.calibration.matrix)
    note = "largest difference between stored and recomputed calibration scores"
    return [
        at_most("calibration_reproduces", _distance(case, bundle.calibration, case.calibration_proba), 0.0, note),
        at_most(
            "scorecard_reproduces", _distance(case, bundle.scorecard_calibration, scorecard), _SCORECARD_TOLERANCE, note
        ),
    ]


def _distance(case: GateCase, stored: ConformalCalibration, proba: npt.NDArray[np.float64]) -> float | None:
    """Largest difference between two calibrations, score by score; None where they have other numbers of rows."""
    again = calibrate(proba, case.calibration.y_index, len(case.predictor.classes), stored.guarantee)
    if stored.sizes != again.sizes:
        return None
    pairs = zip(stored.scores, again.scores, strict=True)
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in pairs)


def _same_law(case: GateCase) -> list[RuleVerdict]:
    test, calibration = case.test, case.predictor.bundle.calibration
    verdict = same_law_verdict(calibration, case.test_proba, test.y_index, test.groups)
    labels: Sequence[object] = case.predictor.classes if len(verdict.p_values) > 1 else ["all"]
    note = "p-value: do test rows score like the calibration rows?"
    pairs = zip(labels, verdict.p_values, strict=True)
    return [at_least(f"calibration_same_law_class_{label}", p, verdict.tail, note) for label, p in pairs]


def _unseen(case: GateCase) -> RuleVerdict:
    """The model does not fit the test patients better than the calibration patients, whom it never saw."""
    cal, test = case.calibration, case.test
    losses = (log_losses(case.calibration_proba, cal.y_index), log_losses(case.test_proba, test.y_index))
    note = "p-value: log loss on test patients against calibration patients"
    try:
        parts = (cal.y_index, test.y_index), (cal.groups, test.groups)
        # What cannot have seen either part says how hard each is; without it chance hides a leak into a small model.
        reference = out_of_fold_losses((cal.matrix, test.matrix), *parts)
        verdict = unseen_rows_verdict(losses, *parts, reference=reference)
    except CannotJudge as error:
        return claim("test_unseen", passed=False, note=str(error))
    return above("test_unseen", verdict.p_value, verdict.tail, f"{note} (z = {verdict.z:.2f})")


def _metrics(case: GateCase) -> RuleVerdict:
    """The metrics the artefact carries are those found here; one that is missing refuses."""
    recorded = case.predictor.bundle.manifest.metrics
    missing = sorted(case.metrics.keys() - recorded.keys())
    if missing:
        return claim("metrics_reproduce", passed=False, note=f"not recorded: {', '.join(missing)}")
    difference = max(abs(case.metrics[name] - recorded[name]) for name in case.metrics)
    return at_most(
        "metrics_reproduce", difference, _METRICS_TOLERANCE, "largest difference between recorded and recomputed"
    )
