"""Names for MLflow: taken by it, another one for another text, and read back."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric, _validate_param

from ml_core.lab.registry.mlflow_names import MOST_CHARACTERS, in_batches, mlflow_name, name_from_mlflow

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400)


@given(TEXTS)
@example("<30")
@example("a/b")
@example("..")
@example("/")
@example("a\n")
@example("\N{GRINNING FACE}" * 80)
def test_mlflow_takes_every_text(text):
    for name in (mlflow_name(text), mlflow_name(f"coverage_class_{text}")):
        _validate_metric(name, 1.0, 0, 0)
        _validate_param(name, "x")
        assert len(name) <= MOST_CHARACTERS


@given(TEXTS, TEXTS)
@example("x:3c", "x<")
@example("<" * 100, "<" * 101)
@example("a" * 300, "a" * 301)
def test_different_texts_have_different_names(one, other):
    assert (mlflow_name(one) == mlflow_name(other)) == (one == other)


@given(TEXTS)
@example("3c:3c")
def test_what_fits_is_read_back(text):
    safe = mlflow_name(text)
    if len(safe) < MOST_CHARACTERS or ":-" not in safe:
        assert name_from_mlflow(safe) == text


def test_usual_names_stay_as_they_are():
    for name in ("roc_auc", "coverage_class_1", "n_class_very high", "split_by", "v2.1-b"):
        assert mlflow_name(name) == name


def test_batches_hold_everything_once():
    values = {f"coverage_class_<{i}": float(i) for i in range(250)}
    parts = list(in_batches(values))
    assert max(map(len, parts)) <= 100
    assert {name_from_mlflow(name): value for part in parts for name, value in part.items()} == values
