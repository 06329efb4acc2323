"""Rules for a scorer that was calibrated anew: by the gate on few answered records, and against the champion it has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import FloatArray, IntArray
from ml_core.base.errors import CannotJudge
from ml_core.lab.config import GateConfig
from ml_core.lab.judging.rule_verdicts import above, at_least, at_most, claim, enough_rows_rules
from ml_core.lab.measuring.comparison import paired_auc_difference
from ml_core.lab.measuring.coverage_law import DesignEffects
from ml_core.lab.measuring.coverage_verdicts import CoverageOf, coverage_verdict
from ml_core.lab.measuring.evaluation import score_metrics, squared_errors
from ml_core.lab.measuring.group_coverage import cells_verdict
from ml_core.lab.measuring.metric_ranges import mean_interval, skill_half_width
from ml_core.lab.measuring.weighted_coverage import WeightedRows, weighted_verdict
from ml_core.lab.training.declared_groups import cell_rows
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.weighting import sets_of_bundle
from ml_core.serve.model.bundle import ONNX_FILE, Bundle
from ml_core.serve.model.promotion_record import RuleVerdict

__all__ = [
    "CalibratedAnew",
    "enough_outcomes_rules",
    "has_the_same_scorer",
    "restores_coverage",
    "skill_rule",
    "skill_rules",
    "strangers_rule",
]


def enough_outcomes_rules(
    all_rows: IntArray, held_out: IntArray, classes: Sequence[object], gate: GateConfig, min_held_out: int
) -> list[RuleVerdict]:
    """``rows_class_<label>`` of all answered records, which judge the scorer, and ``held_out_class_<label>``.

    Parameters
    ----------
    all_rows, held_out : class indices of all records, and of those that did not calibrate
    """
    rules = enough_rows_rules(all_rows, classes, gate.min_positives)
    note = "records of the class that did not calibrate"
    counts = np.bincount(held_out, minlength=len(classes))
    pairs = zip(classes, counts, strict=True)
    return rules + [at_least(f"held_out_class_{label}", float(n), min_held_out, note) for label, n in pairs]


def strangers_rule(rows: LabelledRows, trained: Collection[str]) -> RuleVerdict:
    """``calibration_unseen``: nobody whose records calibrate or judge has trained the scorer."""
    known = sum(str(name) in trained for name in np.unique(rows.groups).tolist())
    return at_most("calibration_unseen", float(known), 0.0, "people whose rows trained the scorer, found again here")


def skill_rules(
    gate: GateConfig, proba: FloatArray, y_index: IntArray, groups: npt.NDArray[np.generic]
) -> list[RuleVerdict]:
    """``roc_auc``, ``brier`` and ``brier_skill`` of the scorer on all answered records, none of which trained it.

    The floors are those of the gate. The records are few, so each is moved by the half width of the metric's 95 %
    interval, people as clusters: a scorer is refused where it is shown to be below a floor.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1]; y_index, groups : shape (n,)
    """
    metrics, most = score_metrics(proba, y_index), gate.brier_limit(proba.shape[1])
    by = f"moved by chance on {y_index.size} answered records, none of which trained the scorer"
    area, brier = _auc_half(proba, y_index, groups), _half(squared_errors(proba, y_index), groups)
    note = f"floor {gate.min_roc_auc:g}, {by}" + (f". {gate.roc_auc_note}" if gate.roc_auc_note else "")
    return [
        at_least("roc_auc", None if area is None else metrics.get("roc_auc"), gate.min_roc_auc - (area or 0.0), note),
        *([] if most is None else [at_most("brier", metrics["brier"], most + brier, f"limit {most:g}, {by}")]),
        skill_rule(gate, metrics.get("brier_skill"), skill_half_width(proba, y_index, groups), by),
    ]


def skill_rule(gate: GateConfig, skill: float | None, half_width: float, by: str) -> RuleVerdict:
    """``brier_skill``: not shown to be at the floor or below it.

    Parameters
    ----------
    half_width : of the skill's 95 % interval, by which the floor is moved
    by : what moved it, in words
    """
    note = f"gain over the base rate; floor {gate.min_brier_skill:g}, {by}"
    return above("brier_skill", skill, gate.min_brier_skill - half_width, note)


def _half(values: FloatArray, groups: npt.NDArray[np.generic]) -> float:
    """Half width of the 95 % interval of the mean; 0 where the rows cannot give one."""
    interval = mean_interval(values, groups)
    return 0.0 if interval is None else (interval[1] - interval[0]) / 2


def _auc_half(proba: FloatArray, y_index: IntArray, groups: npt.NDArray[np.generic]) -> float | None:
    """The same for the area under the curve (K > 2: mean over classes); None where the rows cannot give it."""
    n_classes = proba.shape[1]
    try:
        found = [
            paired_auc_difference(y_index == k, proba[:, k], np.zeros(y_index.size), groups)
            for k in (range(n_classes) if n_classes > 2 else (1,))
        ]
    except CannotJudge:
        return None
    return float(np.mean([d.difference - d.lower_bound_95 for d in found]))


# --- against the champion -------------------------------------------------------------------------------------------


def has_the_same_scorer(challenger: Bundle, champion: Bundle) -> bool:
    """The challenger was calibrated anew and has the very ``model.onnx`` of the champion."""
    ours, theirs = challenger.manifest.files[ONNX_FILE], champion.manifest.files[ONNX_FILE]
    manifest = challenger.manifest
    is_anew = manifest.recalibration is not None or manifest.weighting is not None
    return is_anew and ours.sha256 == theirs.sha256


@dataclass(frozen=True)
class CalibratedAnew:
    """A challenger with the champion's scorer, and the answered records of both.

    Attributes
    ----------
    challenger, champion : with one scorer
    rows : all answered records, with the parts ``calibration`` and ``test`` of the challenger
    proba : shape (n, K), by that scorer
    """

    challenger: Bundle
    champion: Bundle
    rows: LabelledRows
    proba: FloatArray

    def weighted(self, bundle: Bundle, part: str) -> WeightedRows:
        """Rows of a part with a model's sets, weighted as the challenger weighs them: alike where it does not."""
        rows, proba = self.rows.part(part), self.proba[self.rows.parts == part]
        ratio = None if self.challenger.weighted is None else self.challenger.weighted.ratio
        weights = np.ones(len(rows)) if ratio is None else ratio.weights(rows.matrix)
        return WeightedRows(sets_of_bundle(bundle, rows, proba), rows.y_index, weights, rows.groups)

    def champions_coverage(self) -> tuple[CoverageOf, ...]:
        """Coverage of the champion's sets against the band of a valid model.

        On all records, since none of them calibrated it; where it was calibrated anew itself, on test people alone.
        """
        manifest, rows, proba = self.champion.manifest, self.rows, self.proba
        level = manifest.confidence_level
        if self.challenger.weighted is not None:
            calibration, test = (self.weighted(self.champion, part) for part in ("calibration", "test"))
            alike = replace(calibration, weights=np.ones(calibration.y_index.size))
            return weighted_verdict(alike, test, level, float(level), manifest.classes)
        if manifest.recalibration is not None:
            proba, rows = proba[rows.parts == "test"], rows.part("test")
        if self.champion.grouped is not None:
            cells, _ = cell_rows(manifest.groups, self.champion.calibration, self.champion.grouped, rows)
            about = (proba, rows.y_index, rows.groups, level, float(level), manifest.classes)
            return cells_verdict(cells, *about)
        names = ["calibration_effect", *(f"calibration_effect_class_{label}" for label in manifest.classes)]
        effects = [manifest.metrics.get(name) for name in names]
        known = [effect for effect in effects if effect is not None]
        return coverage_verdict(
            self.champion.calibration,
            proba,
            rows.y_index,
            rows.groups,
            level,
            float(level),
            manifest.classes,
            DesignEffects(known[0], tuple(known[1:])) if len(known) == len(names) else None,
        )


def restores_coverage(case: CalibratedAnew, alarms: tuple[str, ...]) -> list[RuleVerdict]:
    """What a challenger must show that is the champion with another calibration. Their scores are the same.

    ``recalibration_needed``: a coverage or drift alarm of the champion is on, or the coverage of its sets lies outside
    the band of a valid model, below or above (a valid champion is found outside by chance in at most 4 % of cases).
    After a drift alarm, what the challenger has that the champion lacks is a reference of the patients who come now.
    ``coverage_restored_class_<label>``: where the champion's sets held a class too rarely, the challenger's hold it no
    less often on the records that did not calibrate; ``coverage_restored`` where only all classes together were.
    That the challenger covers as promised is judged beside these.

    Parameters
    ----------
    alarms : coverage and drift alarms of the champion that are on
    """
    found = case.champions_coverage()
    low = [row for row in found if row.coverage is None or row.coverage < row.limit]
    high = [row for row in found if row.strict_coverage is not None and row.strict_coverage > row.upper]
    reasons = [f"alarm {alarm}" for alarm in alarms]
    reasons += [f"coverage{_of(row)} {row.coverage or 0:.3f} is below {row.limit:.3f}" for row in low]
    reasons += [f"coverage{_of(row)} {row.strict_coverage or 0:.3f} is above {row.upper:.3f}" for row in high]
    n = sum(row.n_test for row in found if row.label is None)
    nothing = f"the champion covers as a valid model does on {n} answered records; no coverage or drift alarm is on"
    rules = [
        claim("same_scorer", passed=True, note="model.onnx is the champion's, so the scores of both are the same"),
        claim("recalibration_needed", passed=bool(reasons), note="; ".join(reasons) or nothing),
    ]
    new, old = (case.weighted(bundle, "test") for bundle in (case.challenger, case.champion))
    accused = {"all" if row.label is None else str(row.label) for row in low}
    accused |= {alarm.partition(":")[2] for alarm in alarms}
    named = {str(label): (f"_class_{label}", k) for k, label in enumerate(case.challenger.manifest.classes)}
    if not accused & named.keys():
        named["all"] = ("", -1)
    for label in sorted(accused & named.keys()):
        suffix, k = named[label]
        before, after = old.coverage(k), new.coverage(k)
        if before is not None:
            note = f"{int(new.of_class(k).sum())} records that did not calibrate; the limit is the champion's"
            rules.append(at_least(f"coverage_restored{suffix}", after, before, note))
    return rules


def _of(row: CoverageOf) -> str:
    return "" if row.label is None else f" of class {row.label}"
