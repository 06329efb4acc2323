"""Every kind of foreign model is adopted and equal to the original, or refused with the cause and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_core.base.errors import ArtefactError
from ml_core.lab.training.asked_columns import asked_columns
from ml_core.lab.training.conversion import check_equals, convert_classifier
from ml_core.lab.training.foreign_files import open_foreign
from ml_core.serve.model.scorer import OnnxScorer
from tests.lab.training.foreign_kinds import KINDS, fitted, saved, table

ROOT = Path(__file__).resolve().parents[3]


def brought(kind, folder, n):
    """Through MLflow's folder to a graph that equals the original on the rows and ``n`` drawn ones."""
    model, rows = fitted(kind)
    foreign = open_foreign(saved(kind, model, folder / "m"), "models:/m/1", kind.n_classes, trust_pickle=True)
    assert len(foreign.labels) == kind.n_classes
    asked = asked_columns(foreign.name, kind.features, foreign.names, foreign.n_features, foreign.categories)
    converted = convert_classifier(foreign.model, asked, kind.n_classes)
    check_equals(foreign.name, converted, asked, foreign.proba, (rows.columns,), kind.n_classes, n=n, seed=3)
    return model, asked, converted


def adopted_or_refused(kind, folder, n):
    if kind.refused:
        with pytest.raises(ArtefactError) as caught:
            brought(kind, folder, n)
        assert kind.refused in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    model, asked, converted = brought(kind, folder, n)
    # the file that was logged is the model that was fitted, so its answers are those of the object itself
    rows = fitted(kind)[1]
    scorer = OnnxScorer(converted.onnx, len(asked.features.feature_names), kind.n_classes)
    found = scorer.proba(rows.matrix[:400])
    if hasattr(model, "predict_proba"):
        taken = asked.asked({name: values[:400] for name, values in rows.columns.items()})
        assert np.abs(found - model.predict_proba(taken)).max() <= converted.limit
    for size in (1, 7):
        parts = [scorer.proba(rows.matrix[at : at + size]) for at in range(0, 140, size)]
        assert np.array_equal(np.concatenate(parts), found[:140])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.is_slow], ids=lambda kind: kind.name)
def test_a_foreign_model_is_adopted_and_equal_or_refused(kind, tmp_path):
    adopted_or_refused(kind, tmp_path, 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_foreign_model_is_equal_on_ten_thousand_rows_that_requests_may_hold(kind, tmp_path):
    adopted_or_refused(kind, tmp_path, 10_000)


def test_the_table_of_the_docs_is_this_list():
    assert table() in (ROOT / "docs" / "foreign-models.md").read_text()


def test_most_kinds_are_adopted():
    assert sum(not kind.refused for kind in KINDS) >= 44
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 51
