"""The rules of a promotion: what a challenger must show against the champion, on patients that neither model saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import CannotJudge, ConfigError, DataError, InvalidRows
from ml_core.features.columns import ColumnArrays
from ml_core.lab.config import PromotionConfig
from ml_core.lab.data.frames import to_arrays
from ml_core.lab.judging.rule_verdicts import above, at_least, at_most, claim, finite_metric
from ml_core.lab.measuring.comparison import paired_auc_difference
from ml_core.lab.measuring.evaluation import evaluate
from ml_core.lab.training.declared_groups import cell_rows
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.weighting import sets_of_bundle
from ml_core.serve.model.bundle import Bundle
from ml_core.serve.model.promotion_record import GateReport, RuleVerdict

__all__ = ["GATE_RULE", "ScoredModel", "compare", "gate_rule", "score", "shared_rows"]

GATE_RULE = "gate"
"""The rule of a promotion that stands for the whole deployment gate."""

_ABOUT_SETS = frozenset({"mean_set_size", "singleton_share", "empty_share"})
_HIGHER_IS_BETTER = frozenset({"roc_auc", "brier_skill", "singleton_share"})


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A model's probabilities (n, K) and metrics on the shared test rows."""

    proba: npt.NDArray[np.float64]
    metrics: dict[str, float]


def gate_rule(gate: GateReport) -> RuleVerdict:
    """The verdict of the deployment gate, with the rules that refuse."""
    failed = "; ".join(f"{r.rule} ({r.note})" if r.note else r.rule for r in gate.rules if not r.passed)
    return claim(GATE_RULE, gate.passed, f"the deployment gate refuses by: {failed}" if failed else "passed")


def compare(
    limits: PromotionConfig,
    y_index: npt.NDArray[np.int64],
    groups: npt.NDArray[np.generic],
    new: ScoredModel,
    old: ScoredModel,
    alarms: tuple[str, ...] = (),
    weights: npt.NDArray[np.float64] | None = None,
) -> list[RuleVerdict]:
    """The rules that compare two models on the same rows; a missing metric refuses.

    Parameters
    ----------
    y_index, groups : shape (n,), class index and patient of each row
    alarms : coverage and drift alarms of the champion that are on. With any (and ``yield_to_alarm``), the challenger
        need only not be worse, and set sizes are not compared: sets that miss their coverage target are too small, and
        those calibrated on other patients are too small or too large.
    weights : shape (n,), how much each row counts; None where all count alike
    """
    note = f"{_shown(old.metrics, 'roc_auc')} to {_shown(new.metrics, 'roc_auc')} on {len(y_index)} rows"
    difference, bound = _auc_gain(y_index, groups, new.proba, old.proba, weights)
    alarms = alarms if limits.yield_to_alarm else ()
    if alarms:
        why = f"{note}; not being worse is enough while the champion has alarms: {', '.join(alarms)}"
        rules = [at_most("roc_auc_worse_by", None if difference is None else -difference, limits.max_regression, why)]
    else:
        rules = [
            at_least("roc_auc_gain", difference, limits.min_improvement, note),
            above(
                "roc_auc_gain_lower_bound", bound, 0.0, "lower end of the 95 % interval, paired, subjects as clusters"
            ),
        ]
    for name in limits.secondary_metrics:
        if alarms and name in _ABOUT_SETS:
            continue
        before, after = finite_metric(old.metrics, name), finite_metric(new.metrics, name)
        worse = None if before is None or after is None else after - before
        if worse is not None and name in _HIGHER_IS_BETTER:
            worse = -worse
        shown = f"{_shown(old.metrics, name)} to {_shown(new.metrics, name)}"
        rules.append(at_most(f"{name}_worse_by", worse, limits.max_regression, shown))
    return rules


def _auc_gain(
    y_index: npt.NDArray[np.int64],
    groups: npt.NDArray[np.generic],
    new: npt.NDArray[np.float64],
    old: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64] | None,
) -> tuple[float | None, float | None]:
    """Gain of the ROC AUC and its lower bound; K > 2: mean of one class against the rest.

    The mean of the classes' bounds is a bound of their mean: a standard deviation of a mean is at most the mean of the
    standard deviations.
    """
    n_classes = new.shape[1]
    try:
        found = [
            paired_auc_difference((y_index == k).astype(np.int64), new[:, k], old[:, k], groups, weights)
            for k in (range(n_classes) if n_classes > 2 else (1,))
        ]
    except CannotJudge:
        return None, None
    return float(np.mean([d.difference for d in found])), float(np.mean([d.lower_bound_95 for d in found]))


def shared_rows(
    challenger: Bundle, champion: Bundle, test: LabelledRows
) -> tuple[LabelledRows, ColumnArrays | None, RuleVerdict]:
    """The test rows unseen by both models, the same as the champion reads them, and whether there are any.

    Two splits by patient must be the same split. Where a model was split in time, of the challenger's test rows those
    count that the champion had not seen either: rows newer than all it was trained and calibrated on, or rows of its
    test patients.
    """
    name, ours, theirs = "test_rows_shared", challenger.manifest.training, champion.manifest.training
    in_time = any(training.params.get("split_by") == "time" for training in (ours, theirs))
    if not in_time and (ours.split_salt, ours.split_shares) != (theirs.split_salt, theirs.split_shares):
        problem = f"the champion was trained with another split: its test {test.subjects} differ"
        return test, None, claim(name, passed=False, note=problem)
    if champion.manifest.classes != test.classes:
        return test, None, claim(name, passed=False, note="the champion knows other classes")
    try:
        shared = test.only(test.unseen_by(theirs)) if in_time else test
        columns = to_arrays(shared.frame, champion.features)
        cell_rows(champion.manifest.groups, champion.calibration, champion.grouped, shared)
    except (ConfigError, DataError, InvalidRows) as error:
        return test, None, claim(name, passed=False, note=f"the champion cannot read the challenger's rows: {error}")
    found = f"{len(shared)} rows of {len(np.unique(shared.groups))} {test.subjects} unseen by both"
    return shared, columns, claim(name, passed=len(shared) > 0, note=found)


def score(bundle: Bundle, test: LabelledRows, proba: npt.NDArray[np.float64]) -> ScoredModel:
    """The model's metrics on test rows of which it gave these probabilities (n, K)."""
    manifest, level = bundle.manifest, bundle.manifest.confidence_level
    sets = sets_of_bundle(bundle, test, proba)
    about = (proba, test.y_index, bundle.calibration, level, test.groups, manifest.classes)
    return ScoredModel(proba, evaluate(*about, sets=sets, weights=test.weights).metrics)


def _shown(metrics: dict[str, float], name: str) -> str:
    value = metrics.get(name)
    return "missing" if value is None else f"{value:.4f}"
