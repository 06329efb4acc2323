"""What to do about a rule of a gate or a promotion that says no, in words."""

from __future__ import annotations

from ml_core.serve.model.promotion_record import RuleVerdict

__all__ = ["refusal"]

_AGAIN = "the artefact is not what the configuration asks for: train again"
_ALIKE = (
    "calibration and test rows are not alike: several rows of one subject without a group column, copied rows, or a table "
    "whose later rows are of another kind? Name the group, or split in time (split.by)"
)
_ADVICE = (
    ("rows_class_", "add rows of that class, or lower gate.min_positives: the gate then sees less"),
    ("calibration_rows_class_", "add rows of that class, lower conformal.confidence_level, or leave the class out "
     "(data.leave_out_labels)"),
    ("roc_auc", "the columns do not tell the classes apart as well as asked: add columns, or lower gate.min_roc_auc where such a "
     "model is worth using"),
    ("brier_skill", "the probabilities are no better than the shares of the classes: add columns or rows"),
    ("brier", "the probabilities are off by more than gate.max_brier allows; with more than two classes use gate.min_brier_skill"),
    ("coverage_proven", "more test rows, or gate.prove: false"),
    ("coverage_ceiling", _ALIKE),
    ("coverage_by_", "one group is covered too rarely: promise coverage there (guarantee: class_and_group), or lower "
     "gate.min_group_coverage and say so on the card"),
    ("coverage", _ALIKE),
    ("calibration_same_law", _ALIKE),
    ("test_unseen", "the model knows its test rows: one subject's rows in several parts, or copied rows? Name the group column"),
    ("promise_matches", _AGAIN),
    ("split_matches", _AGAIN),
    ("metrics_reproduce", _AGAIN),
    ("calibration_reproduces", _AGAIN),
    ("scorecard_reproduces", _AGAIN),
    ("scorer_is_the_model", _AGAIN),
    ("auc_gain", "it is not better enough than the champion, which stays: promotion.min_improvement"),
)  # fmt: skip
"""By the beginning of a rule's name; the first that fits counts."""


def refusal(rule: RuleVerdict) -> str:
    """One line: what was found, what was allowed, what that means, and what to do.

    Examples
    --------
    >>> refusal(RuleVerdict(rule="brier_skill", value=-0.25, limit=0.0, passed=False, note="gain over the base rate"))
    'brier_skill is -0.25, the limit is 0 (gain over the base rate): the probabilities are no better than the shares of the classes: add columns or rows'
    """
    numbers = "" if rule.value is None or rule.limit is None else f" is {rule.value:.4g}, the limit is {rule.limit:.4g}"
    note = f" ({rule.note})" if rule.note and numbers else f": {rule.note}" if rule.note else ""
    advice = next((text for name, text in _ADVICE if rule.rule.startswith(name)), "")
    return f"{rule.rule}{numbers}{note}{f': {advice}' if advice else ''}"
