"""The rules of the deployment gate: each looks at the artefact and at rows, and trusts no recorded number."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ArtefactError, CannotJudge
from ml_core.features.columns import with_role
from ml_core.lab.config import ModelConfig
from ml_core.lab.judging.recalibration_rules import enough_outcomes_rules, skill_rule, skill_rules, strangers_rule
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
    group_floor_rule,
)
from ml_core.lab.measuring.calibration import calibrate, needed_rows
from ml_core.lab.measuring.comparison import out_of_fold_losses, unseen_rows_verdict
from ml_core.lab.measuring.coverage_law import DesignEffects
from ml_core.lab.measuring.coverage_verdicts import CoverageOf, coverage_verdict, same_law_verdict
from ml_core.lab.measuring.evaluation import evaluate, log_losses
from ml_core.lab.measuring.group_coverage import CellRows, cells_verdict, group_verdict
from ml_core.lab.measuring.metric_ranges import skill_half_width
from ml_core.lab.measuring.weighted_coverage import weighted_verdict
from ml_core.lab.training.counted_rows import row_weights, weighted_evaluation, weighted_rows
from ml_core.lab.training.declared_groups import calibrate_cells, cell_rows, group_facts
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.native_models import native_answers
from ml_core.lab.training.onnx_export import SKLEARN_LIMIT, TREE_LIMIT
from ml_core.lab.training.packing import split_facts, split_shares
from ml_core.serve.model.bundle import NATIVE_FILES
from ml_core.serve.model.groupings import GroupedCalibration, GroupedRows
from ml_core.serve.model.manifest import GroupFacts
from ml_core.serve.model.prediction_sets import ConformalCalibration
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.promotion_record import RuleVerdict
from ml_core.serve.model.scorer import Scorecard
from ml_core.serve.model.weighted_sets import WeightedCalibration, effective_rows

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
    trained : names, as texts, of people whose rows trained the scorer; looked at where it was calibrated anew
    """

    predictor: Predictor
    rows: LabelledRows
    config: ModelConfig
    folder: Path
    trained: Collection[str] = ()

    @property
    def is_recalibrated(self) -> bool:
        """Its scorer was judged before, by more rows than calibrated it now."""
        return self.predictor.bundle.manifest.recalibration is not None

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
        if bundle.weighted is not None:
            return weighted_evaluation(bundle.weighted, level, test, self.test_proba).metrics
        sets = self.test_cells[0].sets(self.test_proba, level)
        return evaluate(
            self.test_proba,
            test.y_index,
            bundle.calibration,
            level,
            test.groups,
            self.predictor.classes,
            test.returning,
            sets=sets,
        ).metrics

    @cached_property
    def test_cells(self) -> tuple[CellRows, GroupedRows | None]:
        """The calibrations behind the test rows, and the groups of their patients."""
        bundle = self.predictor.bundle
        return cell_rows(bundle.manifest.groups, bundle.calibration, bundle.grouped, self.test)

    @cached_property
    def calibration_effects(self) -> DesignEffects:
        """How much less the calibration rows say than independent ones would."""
        bundle, cal = self.predictor.bundle, self.calibration
        cells, _ = cell_rows(bundle.manifest.groups, bundle.calibration, bundle.grouped, cal)
        return cells.design_effects(self.calibration_proba, cal.y_index, cal.groups, bundle.manifest.confidence_level)


def gate_verdicts(case: GateCase) -> list[RuleVerdict]:
    """Verdict of every rule, in the order people read them."""
    rules = [_promise(case), _split(case), *_same_weights(case)]
    rules += _enough(case)
    if not len(case.test) or not len(case.calibration):
        return rules
    rules += _performance(case)
    rules += _coverage(case)
    rules += _coverage_by_group(case)
    rules += _scorer_is_the_model(case)
    rules += _reproduces(case)
    rules += [] if case.in_time else _same_law(case)  # a later time may have another law, and coverage is judged above
    return [*rules, _unseen(case), _metrics(case)]


def _promise(case: GateCase) -> RuleVerdict:
    """The artefact promises what the configuration asks for."""
    manifest, asked = case.predictor.bundle.manifest, case.config.conformal
    declared = group_facts(asked, case.rows.features)
    known, by = manifest.groups, asked.promised_by
    if declared is not None and by is not None:
        declared = declared.model_copy(update={"calibrated_by": by.name})
    weighs = "class_conditional" if manifest.weighting is not None else manifest.guarantee
    ours, theirs = (
        (guarantee, promise.confidence_level, promise.training_conditional)
        for guarantee, promise in ((weighs, manifest), (asked.guarantee, asked))
    )
    same = ours == theirs and _rules_of(known) == _rules_of(declared)
    found, wanted = (
        f"{guarantee}{_by(groups)} at {level}"
        + (f" with confidence {confidence}" if confidence else "")
        + _known(groups)
        for (guarantee, level, confidence), groups in ((ours, known), (theirs, declared))
    )
    return claim("promise_matches", same, f"promises {found}; asked for {wanted}")


def _rules_of(groups: GroupFacts | None) -> object:
    """What two models must agree in to know the same groups."""
    return None if groups is None else (groups.declared, groups.calibrated_by)


def _by(groups: GroupFacts | None) -> str:
    return "" if groups is None or groups.calibrated_by is None else f" by {groups.calibrated_by}"


def _known(groups: GroupFacts | None) -> str:
    return "" if groups is None else f", groups: {', '.join(grouping.name for grouping in groups.declared)}"


def _split(case: GateCase) -> RuleVerdict:
    """The artefact names the split by which the rows are judged here, and the newest row it has seen."""
    training, config = case.predictor.bundle.manifest.training, case.config
    same = training.split_salt == config.split.salt and training.split_shares == split_shares(config)
    in_time = {name: value for name, value in training.params.items() if name in _OF_TIME}
    asked = {name: value for name, value in split_facts(config, case.rows).items() if name in _OF_TIME}
    what = "salt, shares and times" if in_time or asked else "salt and shares"
    note = f"{what} of the manifest against those of the configuration"
    return claim("split_matches", same and (in_time == asked or case.is_recalibrated), note)


def _same_weights(case: GateCase) -> list[RuleVerdict]:
    """Where the rows have weights, the artefact's promise is for the population that they stand for."""
    weighting = case.predictor.bundle.manifest.weighting
    column = None if weighting is None else weighting.column
    if case.rows.weights is None and column is None:
        return []
    wanted = with_role(case.rows.features.columns, "weight")
    same = case.rows.weights is not None and wanted is not None and column == wanted.name
    return [claim("weights_match", same, f"weighted by {column or 'nothing'}; the rows have {wanted and wanted.name}")]


def _enough(case: GateCase) -> list[RuleVerdict]:
    classes, manifest = case.predictor.classes, case.predictor.bundle.manifest
    level, needed = manifest.confidence_level, needed_rows(manifest.confidence_level, manifest.training_conditional)
    if case.is_recalibrated:
        counted = (case.rows.y_index, case.test.y_index)
        rules = enough_outcomes_rules(*counted, classes, case.config.gate, case.config.recalibrate.min_held_out)
        rules.append(strangers_rule(case.rows, case.trained))
    else:
        rules = enough_rows_rules(case.test.y_index, classes, case.config.gate.min_positives)
    counts = np.bincount(case.calibration.y_index, minlength=len(classes))
    note = f"calibration rows; fewer mean nothing at {level}"
    pairs = zip(classes, counts, strict=True)
    return rules + [at_least(f"calibration_rows_class_{c}", float(n), needed, note) for c, n in pairs]


def _performance(case: GateCase) -> list[RuleVerdict]:
    gate = case.config.gate
    if case.is_recalibrated:
        rows = case.rows
        return skill_rules(gate, case.predictor.score(rows.matrix), rows.y_index, rows.groups)
    metrics, most, test = case.metrics, gate.brier_limit(len(case.predictor.classes)), case.test
    half = skill_half_width(case.test_proba, test.y_index, test.groups, test.weights)
    return [
        at_least("roc_auc", finite_metric(metrics, "roc_auc"), gate.min_roc_auc, gate.roc_auc_note),
        *([] if most is None else [at_most("brier", finite_metric(metrics, "brier"), most)]),
        skill_rule(gate, finite_metric(metrics, "brier_skill"), half, f"moved by chance on {len(test)} test rows"),
    ]


def _coverage(case: GateCase) -> list[RuleVerdict]:
    """Coverage of the test rows; of patients seen before by itself, where the configuration says a floor for them.

    A split in time puts no upper limit: its test rows are later ones and may be easier. That the scores are what they
    claim to be is then shown by ``calibration_reproduces`` and ``metrics_reproduce`` alone.
    """
    gate, everybody = case.config.gate, np.ones(len(case.test), dtype=np.bool_)
    weighted = case.predictor.bundle.weighted
    if weighted is not None:
        return _weighted_coverage(case, weighted)
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
    bundle, test = case.predictor.bundle, case.test
    about = (
        case.test_proba[chosen],
        test.y_index[chosen],
        test.groups[chosen],
        bundle.manifest.confidence_level,
        floor,
        case.predictor.classes,
        case.calibration_effects,
    )
    if bundle.grouped is None:
        return coverage_verdict(bundle.calibration, *about)
    return cells_verdict(case.test_cells[0].only(chosen), *about)


def _of_returning(case: GateCase) -> dict[object, str]:
    """What to say of the patients seen before, by class."""
    found, metrics = dict[object, str](), case.metrics
    for label in case.predictor.classes:
        n = metrics.get(f"n_returning_class_{label}")
        if n is not None:
            covered = metrics[f"{_RETURNING}_class_{label}"]
            found[label] = f"{n:.0f} of the rows are of {case.rows.subjects} seen before, covered {covered:.4f}"
    return found


def _weighted_coverage(case: GateCase, weighted: WeightedCalibration) -> list[RuleVerdict]:
    """Coverage among patients of the mix that comes now, and what the weighted calibration rows are worth."""
    level = case.predictor.bundle.manifest.confidence_level
    calibration = weighted_rows(weighted, level, case.calibration, case.calibration_proba)
    test = weighted_rows(weighted, level, case.test, case.test_proba)
    floors = coverage_floor_rules(
        weighted_verdict(calibration, test, level, case.config.gate.min_coverage, case.predictor.classes)
    )
    again = row_weights(weighted.ratio, case.calibration, case.calibration_proba)
    same = all(np.array_equal(mine, theirs) for mine, theirs in zip(again, weighted.weights, strict=True))
    note = "equally weighted calibration rows worth as much"
    by_survey = case.rows.weights is not None
    needed = needed_rows(level) if by_survey else case.config.recalibrate.min_effective_rows
    worth = zip(case.predictor.classes, weighted.weights, strict=True)
    return [
        *floors,
        *(at_least(f"effective_rows_class_{label}", effective_rows(w), needed, note) for label, w in worth),
        claim("weights_reproduce", passed=same, note="stored weights of the calibration rows against recomputed ones"),
    ]


def _coverage_by_group(case: GateCase) -> list[RuleVerdict]:
    """For each declared grouping, its class and cell that lies lowest against its floor."""
    rows, by = case.test_cells
    if by is None or case.predictor.bundle.weighted is not None:  # which promises coverage in another mix
        return []
    gate, test, promised = case.config.gate, case.test, case.config.conformal.promised_by
    verdicts = group_verdict(
        rows,
        by,
        case.test_proba,
        test.y_index,
        test.groups,
        case.predictor.bundle.manifest.confidence_level,
        [
            gate.min_coverage if promised is not None and name == promised.name else gate.min_group_coverage
            for name in by.groupings.names
        ],
        case.predictor.classes,
        case.calibration_effects,
        gate.min_group_rows,
    )
    return [group_floor_rule(name, [v for v in verdicts if v.grouping == name]) for name in by.groupings.names]


def _scorer_is_the_model(case: GateCase) -> list[RuleVerdict]:
    """``model.onnx`` gives what the model gives in its library's own form, where the artefact holds that.

    A model of scikit-learn has no such form but a pickle. What training found when it compared the two must then be
    recorded, and not above the limit.
    """
    manifest = case.predictor.bundle.manifest
    found = [_agrees(case, file) for file in NATIVE_FILES if file in manifest.files]
    learner = manifest.training.learner
    if not found and learner is not None:
        note = (
            f"bound of the difference from {learner.estimator} on {learner.compared_rows} rows, recorded in training: "
        )
        note += "the artefact holds no second form of the model that could be asked again"
        compared = learner.difference_below if learner.compared_rows else None
        found = [at_most("scorer_was_compared", compared, SKLEARN_LIMIT, note)]
    return found


def _agrees(case: GateCase, file: str) -> RuleVerdict:
    try:
        native = native_answers(case.folder, file, case.calibration.matrix, len(case.predictor.classes))
        difference = float(np.abs(native.proba - case.calibration_proba).max())
    except (ArtefactError, ValueError) as error:
        return at_most("scorer_is_the_model", None, TREE_LIMIT, str(error))
    return at_most("scorer_is_the_model", difference, native.limit, f"model.onnx against {file}")


def _reproduces(case: GateCase) -> list[RuleVerdict]:
    """The stored calibration scores are those of these very scorers on the calibration patients."""
    bundle = case.predictor.bundle
    scorecard = Scorecard(bundle.fallback.get("scorecard", {})).proba(case.calibration.matrix)
    note = "largest difference between stored and recomputed calibration scores"
    by_model = _distance(case, bundle.calibration, bundle.grouped, case.calibration_proba)
    by_scorecard = _distance(case, bundle.scorecard_calibration, bundle.grouped_scorecard, scorecard)
    return [
        at_most("calibration_reproduces", by_model, 0.0, note),
        at_most("scorecard_reproduces", by_scorecard, _SCORECARD_TOLERANCE, note),
    ]


def _distance(
    case: GateCase,
    whole: ConformalCalibration,
    grouped: GroupedCalibration | None,
    proba: npt.NDArray[np.float64],
) -> float | None:
    """Largest difference between calibrations, score by score; None where they have other numbers of rows."""
    rows, facts = case.calibration, case.predictor.bundle.manifest.groups
    own = (
        ()
        if grouped is None
        else tuple(c for c, is_own in zip(grouped.calibrations, grouped.is_own, strict=True) if is_own)
    )
    stored = (whole, *own)
    again = (
        calibrate(proba, rows.y_index, len(case.predictor.classes), whole.guarantee),
        *calibrate_cells(facts, rows, proba, whole.confidence),
    )
    if [one.sizes for one in stored] != [one.sizes for one in again]:
        return None
    pairs = [pair for s, a in zip(stored, again, strict=True) for pair in zip(s.scores, a.scores, strict=True)]
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
    note = f"p-value: log loss on test {case.rows.subjects} against calibration {case.rows.subjects}"
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
