from __future__ import annotations

import numpy as np
import onnx
import pytest
import xgboost
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml_core.base.errors import ArtefactError, ScorerDisagrees
from ml_core.lab.training.booster_trees import xgboost_trees
from ml_core.lab.training.onnx_export import (
    SKLEARN_LIMIT,
    check_agrees,
    sklearn_to_onnx,
    xgboost_to_onnx,
)
from ml_core.lab.training.xgboost_learner import booster_proba
from ml_core.serve.model.scorer import OnnxScorer

D = 5


def drawn(n_classes: int, n: int = 3_000):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(n, D)).astype(np.float32)
    labels = np.digitize(features[:, 0] + rng.normal(size=n), np.linspace(-0.7, 0.7, n_classes - 1))
    features[rng.random(features.shape) < 0.1] = np.nan
    return features, labels


def boosted(n_classes: int) -> xgboost.Booster:
    features, labels = drawn(n_classes)
    params = (
        {"objective": "binary:logistic"} if n_classes == 2 else {"objective": "multi:softprob", "num_class": n_classes}
    )
    names = [f"name {i}" for i in range(D)]
    return xgboost.train({**params, "nthread": 1}, xgboost.DMatrix(features, labels, feature_names=names), 20)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_the_converted_booster_scores_alike_missing_values_included(n_classes):
    booster, (features, _) = boosted(n_classes), drawn(n_classes)
    scorer = OnnxScorer(xgboost_to_onnx(booster, D), D, n_classes)
    limit = xgboost_trees(booster).rounding
    assert check_agrees(scorer, features, booster_proba(booster, features), limit) <= limit < 3e-6


def test_bytes_depend_on_the_model_alone():
    first, second = xgboost_to_onnx(boosted(2), D), xgboost_to_onnx(boosted(2), D)
    assert first == second
    model = onnx.load_from_string(first)
    assert (model.graph.name, model.producer_name, model.producer_version, model.doc_string) == (
        "surety",
        "surety",
        "",
        "",
    )


def test_the_booster_keeps_its_own_feature_names():
    booster = boosted(2)
    xgboost_to_onnx(booster, D)
    assert booster.feature_names[0] == "name 0"


def test_another_model_disagrees():
    features, _ = drawn(2)
    scorer = OnnxScorer(xgboost_to_onnx(boosted(2), D), D, 2)
    other = booster_proba(boosted(2), features) + np.array([4e-6, -4e-6])
    with pytest.raises(ScorerDisagrees, match="differs from the trained model"):
        check_agrees(scorer, features, other, xgboost_trees(boosted(2)).rounding)


def test_a_difference_that_is_no_number_disagrees():
    features, _ = drawn(2)
    scorer = OnnxScorer(xgboost_to_onnx(boosted(2), D), D, 2)
    with pytest.raises(ScorerDisagrees):
        check_agrees(scorer, features, np.full((len(features), 2), np.nan), 1.0)


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
        make_pipeline(SimpleImputer(), RandomForestClassifier(n_estimators=15, max_depth=6, random_state=0)),
    ],
    ids=["logistic", "forest"],
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_scikit_learn_pipelines_convert(model, n_classes):
    features, labels = drawn(n_classes)
    model.fit(features, labels)
    scorer = OnnxScorer(sklearn_to_onnx(model, D), D, n_classes)
    assert check_agrees(scorer, features, model.predict_proba(features), SKLEARN_LIMIT) <= SKLEARN_LIMIT


def test_what_has_no_conversion_is_refused_in_one_line():
    class Guess:
        def predict_proba(self, features):
            return np.full((len(features), 2), 0.5)

    with pytest.raises(ArtefactError, match="Guess: cannot be converted"):
        sklearn_to_onnx(Guess(), D)
