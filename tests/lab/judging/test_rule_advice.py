"""A refusal is one line: what was found, what was allowed, and what to do."""

import pytest

from ml_core.lab.judging.rule_advice import refusal
from ml_core.serve.model.promotion_record import RuleVerdict


def verdict(rule, value=0.5, limit=0.9, note="why"):
    return RuleVerdict(rule=rule, value=value, limit=limit, passed=False, note=note)


@pytest.mark.parametrize(
    ("rule", "todo"),
    [
        ("rows_class_yes", "lower gate.min_positives"),
        ("calibration_rows_class_3", "leave the class out (data.leave_out_labels)"),
        ("roc_auc", "lower gate.min_roc_auc where such a model is worth using"),
        ("roc_auc_gain", "the champion, which stays"),
        ("brier_skill", "no better than the shares of the classes"),
        ("brier", "gate.max_brier"),
        ("coverage", "calibration and test rows are not alike"),
        ("coverage_class_yes", "calibration and test rows are not alike"),
        ("coverage_by_age", "gate.min_group_coverage"),
        ("coverage_proven_class_yes", "gate.prove: false"),
        ("test_unseen", "Name the group column"),
        ("test_rows_shared", "--start-over"),
        ("promise_matches", "train again"),
    ],
)
def test_each_rule_has_its_own_advice(rule, todo):
    told = refusal(verdict(rule))
    assert told.startswith(f"{rule} is 0.5, the limit is 0.9 (why): ")
    assert todo in told
    assert "\n" not in told


def test_a_rule_without_a_number_or_advice_still_says_why():
    assert refusal(verdict("artefact", None, None, "its hash differs")) == "artefact: its hash differs"
