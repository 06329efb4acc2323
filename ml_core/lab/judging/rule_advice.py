"""What to do about a rule of a gate or a promotion that says no, in words."""

from __future__ import annotations

from ml_core.serve.model.promotion_record import RuleVerdict

__all__ = ["refusal"]

_AGAIN = "the artefact is not what the configuration asks for: train again"
_ALIKE = (
    "calibration and test rows are not alike: several rows of one subject without a group column, copied rows, or "
    "a table "
    "whose later rows are of another kind? Name the group, or split in time (split.by)"
)
_ADVICE = {
    "rows_class_": "add rows of that class, or lower gate.min_positives: the gate then sees less",
    "calibration_rows_class_": (
        "add rows of that class, lower conformal.confidence_level, or leave the class out (data.leave_out_labels)"
    ),
    "roc_auc_gain": "it is not better enough than the champion, which stays (promotion.min_improvement)",
    "roc_auc": (
        "the columns do not tell the classes apart as well as asked: add columns, or lower gate.min_roc_auc where "
        "such a "
        "model is worth using"
    ),
    "brier_skill": "the probabilities are no better than the shares of the classes: add columns or rows",
    "brier": (
        "the probabilities are off by more than gate.max_brier allows; where that limit does not fit the classes' "
        "shares, "
        "gate.min_brier_skill does"
    ),
    "coverage_proven": "more test rows, or gate.prove: false",
    "coverage_by_": (
        "a group is covered too rarely: promise coverage there (guarantee: class_and_group), or lower "
        "gate.min_group_coverage and say so on the card"
    ),
    "coverage": _ALIKE,
    "calibration_same_law": _ALIKE,
    "test_rows_shared": (
        "the two models have other columns or another split; where nothing is served yet, `surety run PROJECT "
        "--start-over` puts the earlier models aside"
    ),
    "test_unseen": (
        "the model knows its test rows: rows of one subject in several parts, or copied rows? Name the group column"
    ),
    **dict.fromkeys(
        (
            "promise_matches",
            "split_matches",
            "metrics_reproduce",
            "calibration_reproduces",
            "scorecard_reproduces",
            "scorer_is_the_model",
        ),
        _AGAIN,
    ),
}
"""By the beginning of a rule's name; the first that fits counts."""


def refusal(rule: RuleVerdict) -> str:
    """One line: what was found, what was allowed, what that means, and what to do.

    Examples
    --------
    >>> refusal(RuleVerdict(rule="coverage_proven", value=0.85, limit=0.88, passed=False))
    'coverage_proven is 0.85, the limit is 0.88: more test rows, or gate.prove: false'
    """
    numbers = "" if rule.value is None or rule.limit is None else f" is {rule.value:.4g}, the limit is {rule.limit:.4g}"
    note = f" ({rule.note})" if rule.note and numbers else f": {rule.note}" if rule.note else ""
    advice = next((text for name, text in _ADVICE.items() if rule.rule.startswith(name)), "")
    return f"{rule.rule}{numbers}{note}{f': {advice}' if advice else ''}"
