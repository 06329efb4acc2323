"""Fitted trees of every library and kind, rows to ask them, and what their libraries say: for tests of what is made of trees."""

from __future__ import annotations

import numpy as np
import xgboost
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from ml_core.serve.model.trees import LEAF, MEMBER, TreeForm
from tests.oracles import learner_library

D, CATEGORICAL = 6, (4, 5)


def rows(n: int = 1_500, *, gaps: float = 0.1, zeros: float = 0.0):
    """Four numbers and two columns of whole numbers, (n, 6), and their lie from which labels are made."""
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(n, D)).astype(np.float32)
    matrix[:, 4], matrix[:, 5] = rng.integers(0, 12, n), rng.integers(0, 60, n)
    lie = (
        matrix[:, 0] + np.where(np.isin(matrix[:, 4], [1, 3, 7]), 1.5, 0) + (matrix[:, 5] % 7 < 3) + rng.normal(size=n)
    )
    matrix[rng.random(matrix.shape) < zeros] = 0.0
    matrix[rng.random(matrix.shape) < gaps] = np.nan
    return matrix, lie


def labels(lie, n_classes):
    return np.digitize(lie, np.quantile(lie, np.linspace(0, 1, n_classes + 1)[1:-1]))


def asked(form: TreeForm, n: int, *, gaps: bool = True) -> np.ndarray:
    """Rows with, in each, two values at a threshold or a 32-bit step beside it, and here and there an extreme."""
    rng = np.random.default_rng(8)
    known, _ = rows(gaps=0.1 if gaps else 0.0)
    found = known[rng.integers(len(known), size=n)]
    numeric = np.flatnonzero((form.rule != LEAF) & (form.rule != MEMBER) & np.isfinite(form.threshold))
    for row in range(n if len(numeric) else 0):
        for node in rng.choice(numeric, 2):
            at = np.float32(form.threshold[node])
            found[row, form.feature[node]] = np.nextafter(at, at + np.float32(rng.integers(-1, 2)))
    extreme = rng.random(found.shape) < 0.02
    found[extreme] = rng.choice(np.array([0, -0.0, -1e30, 1e30, 1e-36, -1e-35, 3e9], np.float32), extreme.sum())
    for column in CATEGORICAL:  # codes; some that nobody has seen
        found[:, column] = np.where(np.isnan(found[:, column]), np.nan, np.clip(np.trunc(found[:, column]), -1, 200))
    return found


def booster(n_classes, **params):
    matrix, lie = rows()
    goal = (
        {"objective": "binary:logistic"} if n_classes == 2 else {"objective": "multi:softprob", "num_class": n_classes}
    )
    return xgboost.train(
        {**goal, "max_depth": 5, "nthread": 1, **params}, as_dmatrix(matrix, labels(lie, n_classes)), 12
    )


def as_dmatrix(matrix, label=None):
    return xgboost.DMatrix(matrix, label, feature_types=["q"] * 4 + ["c"] * 2, enable_categorical=True)


def fitted(model, n_classes, gaps=0.1, zeros=0.0):
    matrix, lie = rows(gaps=gaps, zeros=zeros)
    return model.fit(matrix, labels(lie, n_classes))


def xgb(**params):
    return lambda k: (model := booster(k, **params), lambda matrix: model.predict(as_dmatrix(matrix)))


def several_outputs(k):
    matrix, lie = rows()
    goal = {"objective": "multi:softprob", "num_class": max(k, 3), "multi_strategy": "multi_output_tree", "nthread": 1}
    model = xgboost.train(goal, xgboost.DMatrix(matrix, labels(lie, max(k, 3))), 12)
    return model, lambda matrix: model.predict(xgboost.DMatrix(matrix))


def sk(kind, gaps=0.1, zeros=0.0, **params):
    def made(k):
        model = fitted(kind(**params), k, gaps, zeros)
        return model, model.predict_proba

    return made


def lgb(gaps=0.1, zeros=0.0, **params):
    return lambda k: sk(
        learner_library("lightgbm").LGBMClassifier, gaps, zeros, n_estimators=12, n_jobs=1, verbose=-1, **params
    )(k)


def cat(gaps=0.1, **params):
    return lambda k: sk(
        learner_library("catboost").CatBoostClassifier, gaps, iterations=12, depth=4, thread_count=1, verbose=0,
        allow_writing_files=False, **params,
    )(k)  # fmt: skip


FOREST = {"n_estimators": 8, "random_state": 0}
BY_SET = {"categorical_feature": list(CATEGORICAL)}
KINDS = {
    "xgboost": xgb(),
    "xgboost, dart": xgb(booster="dart", rate_drop=0.3),
    "xgboost, base score": xgb(base_score=0.3),
    "xgboost, parallel trees": xgb(num_parallel_tree=3, subsample=0.5),
    "xgboost, several outputs": several_outputs,
    "xgboost, sets": xgb(max_cat_to_onehot=1),
    "xgboost, one against the rest": xgb(max_cat_to_onehot=100),
    "lightgbm": lgb(),
    "lightgbm, no gap seen": lgb(gaps=0.0),
    "lightgbm, dart": lgb(boosting_type="dart"),
    "lightgbm, forest": lgb(boosting_type="rf", subsample=0.6, subsample_freq=1, zeros=0.3),
    "lightgbm, zero is missing": lgb(zero_as_missing=True, zeros=0.3),
    "lightgbm, zeros": lgb(zeros=0.3),
    "lightgbm, nothing is missing": lgb(use_missing=False, zeros=0.3),
    "lightgbm, sigmoid": lgb(sigmoid=2.0),
    "lightgbm, sets": lgb(max_cat_to_onehot=1, min_data_per_group=5, cat_smooth=1, **BY_SET),
    "lightgbm, sets, zero is missing": lgb(zero_as_missing=True, zeros=0.3, **BY_SET),
    "catboost": cat(),
    "catboost, no gap seen": cat(gaps=0.0),
    "catboost, missing is most": cat(nan_mode="Max"),
    "catboost, by depth": cat(grow_policy="Depthwise"),
    "catboost, by leaf": cat(grow_policy="Lossguide", max_leaves=20),
    "tree": sk(DecisionTreeClassifier, max_depth=8, random_state=0),
    "forest": sk(RandomForestClassifier, **FOREST),
    "forest, no gap seen": sk(RandomForestClassifier, gaps=0.0, **FOREST),
    "extra trees": sk(ExtraTreesClassifier, **FOREST),
    "histogram": sk(HistGradientBoostingClassifier, max_iter=12),
    "histogram, no gap seen": sk(HistGradientBoostingClassifier, gaps=0.0, max_iter=12),
    "gradient boosting": sk(GradientBoostingClassifier, gaps=0.0, n_estimators=8),
    "gradient boosting, exponential": sk(GradientBoostingClassifier, gaps=0.0, n_estimators=8, loss="exponential"),
}
TWO_CLASSES_ONLY = {"xgboost, several outputs", "gradient boosting, exponential", "lightgbm, sigmoid"}
CASES = [(name, k) for name in KINDS for k in (2, 3) if k == 2 or name not in TWO_CLASSES_ONLY]
"""Kind and number of classes."""


def native(proba, matrix):
    found = np.asarray(proba(matrix), dtype=np.float64)
    return np.column_stack([1.0 - found, found]) if found.ndim == 1 else found
