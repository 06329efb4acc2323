"""The card of a model with groups of patients: what is promised to whom, what was pooled, and what was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ml_core.lab.config import CardConfig
from ml_core.lab.registry.model_card import ModelCard, card_record, card_text
from ml_core.lab.training.training_reference import SHARED_BY
from tests.toy_models import grouped_rows, grouped_toy, toy_model, toy_rows


def card_of(packed=None, rows=None) -> str:
    packed, rows = packed or grouped_toy(), rows or grouped_rows()
    record = card_record(packed, CardConfig(), rows)
    return card_text(ModelCard("toy_risk", "9", packed.model_hash, packed.bundle, record, None))


def test_a_card_with_groups_says_what_is_promised_pooled_and_measured() -> None:
    card = card_of()
    assert "for each class in each group by `sex`" in card
    facts = grouped_toy().bundle.manifest.groups
    assert facts is not None
    female = facts.cells[0]
    assert f"| female | female | 0: {female.rows['0']}, 1: {female.rows['1']} | its own rows |" in card
    assert "| unknown | unknown |" in card
    for found in grouped_toy().evaluation.by_group:
        covered = found.metrics["coverage_class_0"]
        assert (
            f"| {found.cell} | 0: {found.metrics['n_class_0']:,.0f}, 1: {found.metrics['n_class_1']:,.0f} | {covered:.3f} |"
            in card
        )


def test_metrics_that_few_rows_share_are_not_recorded() -> None:
    """Coverage of four patients of unknown sex would tell of each of them."""
    record = card_record(grouped_toy(), CardConfig(), grouped_rows())
    found = {(one.grouping, one.cell): one.metrics for one in record.by_group}[("sex", "unknown")]
    assert found["n_class_1"] < SHARED_BY <= found["n_class_0"]
    assert "coverage_class_1" not in found
    assert "coverage_class_0" in found
    tiny = replace(grouped_toy().evaluation.by_group[0], n=SHARED_BY - 1)
    evaluation = replace(grouped_toy().evaluation, by_group=(tiny,))
    (few,) = card_record(replace(grouped_toy(), evaluation=evaluation), CardConfig(), grouped_rows()).by_group
    assert "coverage" not in few.metrics
    assert "roc_auc" not in few.metrics


def test_the_ranges_of_a_model_with_groups_are_about_its_own_sets() -> None:
    record = card_record(grouped_toy(), CardConfig(), grouped_rows())
    assert record.ranges is not None
    values = {one.metric: one.value for one in record.ranges}
    metrics = grouped_toy().evaluation.metrics
    for name in ("coverage", "coverage_class_0", "coverage_class_1", "mean_set_size"):
        assert np.isclose(values[name], metrics[name])


def test_a_card_without_groups_says_nothing_of_them() -> None:
    assert "in each group" not in card_of(toy_model(), toy_rows())
