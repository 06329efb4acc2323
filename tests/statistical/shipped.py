"""Classification tasks from the data sets shipped with scikit-learn, scored out of fold."""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from tests.toy_scores import ScoredRows

TASKS = (
    "breast_cancer", "digits: 8", "digits: 5 and above", "digits", "wine: last", "wine", "iris: versicolor", "iris",
    "diabetes: above P75", "diabetes: above P85",
)  # fmt: skip


def _labels(task: str) -> tuple[np.ndarray, np.ndarray]:
    name, _, rule = task.partition(": ")
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    match rule:
        case "":
            return x, y
        case "8":
            return x, y == 8
        case "5 and above":
            return x, y >= 5
        case "last":
            return x, y == 2
        case "versicolor":
            return x, y == 1
    return x, y > np.quantile(y, int(rule.removeprefix("above P")) / 100)


@cache
def scored_task(task: str, model: str) -> ScoredRows:
    """Rows of a task with probabilities of models that did not see them (5 folds).

    ``logistic`` gives distinct scores, ``trees`` the float32 scores of a small XGBoost model, with ties.
    """
    x, y = _labels(task)
    y = y.astype(np.int64)
    classifier = (
        make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2_000))
        if model == "logistic"
        else XGBClassifier(n_estimators=15, max_depth=2, learning_rate=0.3, n_jobs=1, random_state=0)
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    proba = cross_val_predict(classifier, x, y, cv=folds, method="predict_proba").astype(np.float64)
    return ScoredRows(proba, y, np.arange(y.size))
