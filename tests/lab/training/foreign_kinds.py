"""Foreign classifiers as people train them elsewhere: the kinds that docs/foreign-models.md lists."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from ml_core.features.columns import Column
from ml_core.lab.training.asked_columns import raw_frame
from ml_core.lab.training.conversion import drawn_columns
from ml_core.serve.features.versions import FeatureVersion
from tests.oracles import learner_library

NUMBERS, TEXTS = ("age", "glucose", "bmi"), ("ward", "sex")
WARDS = ("cardiology", "surgery", "oncology", "geriatrics", "maternity", "other")


def column_table(*, gaps: bool) -> tuple[Column, ...]:
    """Three numbers, two categories of texts and one of whole numbers, with or without missing values."""
    return (
        Column("patient", "text", "Who.", role="group", pattern=".+"),
        Column("age", "int", "Years.", low=0, high=110),
        Column("glucose", "float", "mg/dL.", low=30, high=600, nullable=gaps),
        Column("bmi", "float", "kg/m2.", low=10, high=80, nullable=gaps),
        Column("ward", "category", "Where.", levels=WARDS, nullable=gaps),
        Column("sex", "category", "f or m.", levels=("f", "m")),
        Column("source", "category", "How admitted.", levels=(1, 2, 3, 7, 9)),
        Column("ill", "category", "The label.", role="label", levels=(0, 1)),
    )


def transform(columns) -> np.ndarray:
    """Numbers as they are, one column for each level."""
    parts = [columns[name][:, None] for name in NUMBERS]
    for name, n in (("ward", len(WARDS)), ("sex", 2), ("source", 5)):
        parts.append(columns[name][:, None] == np.arange(n))
    return np.hstack(parts).astype(np.float32)


FEATURES = (*NUMBERS, *(f"ward_{ward}" for ward in WARDS), "sex_f", "sex_m", *(f"source_{s}" for s in (1, 2, 3, 7, 9)))


@cache
def version(*, gaps: bool) -> FeatureVersion:
    return FeatureVersion("v9", column_table(gaps=gaps), FEATURES, transform, "0" * 64)


@dataclass(frozen=True, eq=False)
class Rows:
    """What a foreign model is trained on."""

    frame: pd.DataFrame
    matrix: np.ndarray
    columns: dict[str, np.ndarray]
    y: np.ndarray


@cache
def learning(*, gaps: bool, n_classes: int, n: int = 1_200) -> Rows:
    features = version(gaps=gaps)
    columns = drawn_columns(features.features, n, np.random.default_rng(4))
    rng = np.random.default_rng(5)
    lie = np.nan_to_num(columns["glucose"] - 300) / 150 + (columns["age"] > 60) + np.isin(columns["ward"], (1, 2)) * 1.5
    lie += np.isin(columns["source"], (0, 3)) + rng.normal(size=n)
    y = np.digitize(lie, np.quantile(lie, np.linspace(0, 1, n_classes + 1)[1:-1]))
    return Rows(raw_frame(features.features, columns, frozenset()), features.transform(columns), columns, y)


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of foreign model.

    Attributes
    ----------
    name : as in docs
    flavor : of MLflow
    fit : rows to the fitted model
    refused : words of the message where it cannot be adopted
    gaps, n_classes : of the rows
    full_table : whether the column table forbids missing values where the rows have none
    is_slow : whether it is left to the slow tests
    """

    name: str
    flavor: str
    fit: Callable[[Rows], Any]
    refused: str = ""
    gaps: bool = True
    n_classes: int = 2
    full_table: bool = True
    is_slow: bool = False

    @property
    def features(self) -> FeatureVersion:
        """Of the artefact."""
        return version(gaps=self.gaps or not self.full_table)


def on_matrix(model, **more):
    return lambda rows: model().fit(rows.matrix, rows.y, **more)


def on_features(model):
    return lambda rows: model().fit(pd.DataFrame(rows.matrix, columns=list(FEATURES)), rows.y)


def on_columns(model, columns=None):
    return lambda rows: model().fit(rows.frame if columns is None else rows.frame[list(columns)], rows.y)


def filled(*steps):
    return make_pipeline(SimpleImputer(), *steps)


def scaled(model):
    return filled(StandardScaler(), model)


def by_type(numeric=None, encoder=None):
    encoder = encoder or OneHotEncoder(handle_unknown="ignore")
    numeric = numeric or make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), encoder)
    return ColumnTransformer([("n", numeric, list(NUMBERS)), ("t", texts, list(TEXTS))], remainder="passthrough")


def categorised(rows: Rows) -> pd.DataFrame:
    frame = rows.frame.copy()
    for name in TEXTS:
        frame[name] = frame[name].astype("category")
    return frame


TREES = {"n_estimators": 12, "random_state": 0}
LOGISTIC = lambda **more: LogisticRegression(max_iter=300, **more)  # noqa: E731
XGB = lambda **more: xgboost.XGBClassifier(**{"n_estimators": 15, "max_depth": 4, "n_jobs": 1, **more})  # noqa: E731
LGB = lambda **more: learner_library("lightgbm").LGBMClassifier(n_estimators=15, n_jobs=1, verbose=-1, **more)  # noqa: E731
CAT = lambda **more: learner_library("catboost").CatBoostClassifier(  # noqa: E731
    iterations=15, depth=4, thread_count=1, verbose=0, allow_writing_files=False, **more
)
HIST = lambda **more: HistGradientBoostingClassifier(max_iter=15, **more)  # noqa: E731


def early_stopped(rows: Rows):
    model = XGB(n_estimators=200, learning_rate=0.5, early_stopping_rounds=3)
    return model.fit(rows.matrix[:800], rows.y[:800], eval_set=[(rows.matrix[800:], rows.y[800:])], verbose=False)


def xgb_booster(rows: Rows):
    data = xgboost.DMatrix(rows.matrix, rows.y, feature_names=list(FEATURES))
    return xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 12)


def lgb_booster(rows: Rows):
    lightgbm = learner_library("lightgbm")
    return lightgbm.train(
        {"objective": "binary", "num_threads": 1, "verbose": -1}, lightgbm.Dataset(rows.matrix, rows.y), 12
    )


def apart(rows: Rows):
    """Labels that two columns of categories tell only together."""
    return (np.isin(rows.columns["ward"], (1, 2, 4)) ^ np.isin(rows.columns["source"], (0, 3))).astype(int)


def labelled(model, names):
    return lambda rows: model().fit(rows.matrix, np.asarray(names)[rows.y])


KEEPS = "keeps rows it was trained on, and an artefact holds no training row: train trees, a linear model or a small network instead"
SK, XG, LG, CB = "sklearn", "xgboost", "lightgbm", "catboost"
KINDS = (
    Kind("logistic regression, imputed and scaled", SK, on_features(lambda: scaled(LOGISTIC()))),
    Kind("logistic regression without an imputer, columns may be missing", SK, on_matrix(LOGISTIC), "put an imputer or an encoder with handle_unknown into it, or forbid such values in the column table", gaps=False, full_table=False),
    Kind("logistic regression, class_weight", SK, on_matrix(lambda: scaled(LOGISTIC(class_weight="balanced")))),
    Kind("logistic regression, three classes", SK, on_matrix(lambda: scaled(LOGISTIC())), n_classes=3),
    Kind("logistic regression, text labels", SK, labelled(lambda: scaled(LOGISTIC()), ["no", "yes"])),
    Kind("logistic regression, boolean labels", SK, labelled(lambda: scaled(LOGISTIC()), [False, True])),
    Kind("stochastic gradient descent, log loss", SK, on_matrix(lambda: scaled(SGDClassifier(loss="log_loss", random_state=0)))),
    Kind("Gaussian naive Bayes", SK, on_matrix(lambda: filled(GaussianNB()))),
    Kind("Bernoulli naive Bayes", SK, on_matrix(lambda: filled(BernoulliNB(binarize=0.5)))),
    Kind("linear discriminant analysis", SK, on_matrix(lambda: scaled(LinearDiscriminantAnalysis()))),
    Kind("quadratic discriminant analysis", SK, on_matrix(lambda: scaled(QuadraticDiscriminantAnalysis(reg_param=0.1))), n_classes=3),
    Kind("multi-layer perceptron", SK, on_matrix(lambda: scaled(MLPClassifier((12,), max_iter=60, random_state=0)))),
    Kind("decision tree, gaps", SK, on_matrix(lambda: DecisionTreeClassifier(max_depth=6, random_state=0))),
    Kind("random forest, gaps", SK, on_matrix(lambda: RandomForestClassifier(**TREES))),
    Kind("random forest that never saw a gap", SK, lambda rows: RandomForestClassifier(**TREES).fit(np.nan_to_num(rows.matrix), rows.y)),
    Kind("random forest, class_weight, three classes", SK, on_matrix(lambda: RandomForestClassifier(class_weight="balanced", **TREES)), n_classes=3),
    Kind("extra trees", SK, on_matrix(lambda: ExtraTreesClassifier(**TREES))),
    Kind("gradient boosting, imputed", SK, on_matrix(lambda: filled(GradientBoostingClassifier(n_estimators=10)))),
    Kind("histogram gradient boosting, gaps", SK, on_features(HIST)),
    Kind("histogram gradient boosting, categories of a DataFrame", SK, lambda rows: HIST().fit(categorised(rows), rows.y)),
    Kind("histogram gradient boosting, categorical features", SK, on_matrix(lambda: HIST(categorical_features=[9, 10])), n_classes=3),
    Kind("AdaBoost", SK, on_matrix(lambda: filled(AdaBoostClassifier(n_estimators=10, random_state=0)))),
    Kind("AdaBoost, three classes", SK, on_matrix(lambda: filled(AdaBoostClassifier(DecisionTreeClassifier(max_depth=2), n_estimators=8, random_state=0))), n_classes=3),
    Kind("bagging of trees", SK, on_matrix(lambda: BaggingClassifier(DecisionTreeClassifier(max_depth=4), n_estimators=6, max_features=0.7, random_state=0))),
    Kind("soft voting", SK, on_matrix(lambda: VotingClassifier([("a", scaled(LOGISTIC())), ("b", RandomForestClassifier(**TREES)), ("c", HIST())], voting="soft", weights=[2, 1, 1]))),
    Kind("hard voting", SK, on_matrix(lambda: VotingClassifier([("a", scaled(LOGISTIC())), ("b", HIST())])), "is no classifier with predict_proba: train it with voting='soft'"),
    Kind("stacking", SK, on_matrix(lambda: StackingClassifier([("a", scaled(LOGISTIC())), ("b", HIST())], cv=2)), is_slow=True),
    Kind("stacking with passthrough", SK, on_matrix(lambda: filled(StackingClassifier([("a", GaussianNB()), ("b", HIST())], cv=2, passthrough=True))), n_classes=3, is_slow=True),
    Kind("calibrated by sigmoid", SK, on_matrix(lambda: CalibratedClassifierCV(HIST(), cv=2))),
    Kind("calibrated by isotonic regression", SK, on_matrix(lambda: CalibratedClassifierCV(RandomForestClassifier(**TREES), method="isotonic", cv=2)), n_classes=3),
    Kind("calibrated by temperature", SK, on_matrix(lambda: CalibratedClassifierCV(scaled(LOGISTIC()), method="temperature", cv=2))),
    Kind("linear support vectors, calibrated", SK, on_matrix(lambda: scaled(CalibratedClassifierCV(LinearSVC(), cv=2)))),
    Kind("grid search", SK, on_matrix(lambda: GridSearchCV(scaled(LOGISTIC()), {"logisticregression__C": [0.1, 1]}, cv=2)), is_slow=True),
    Kind("pipeline from texts: impute, one-hot, scale", SK, on_columns(lambda: make_pipeline(by_type(), LOGISTIC()))),
    Kind("pipeline from texts: ordinal codes, forest", SK, on_columns(lambda: make_pipeline(by_type(encoder=OrdinalEncoder()), RandomForestClassifier(**TREES)))),
    Kind("pipeline from texts: target encoding", SK, on_columns(lambda: make_pipeline(by_type(encoder=TargetEncoder()), LOGISTIC()))),
    Kind("XGBoost, calibrated by isotonic regression", SK, on_features(lambda: CalibratedClassifierCV(XGB(), method="isotonic", cv=2))),
    Kind("pipeline from texts into XGBoost", SK, on_columns(lambda: make_pipeline(by_type(numeric="passthrough"), XGB()))),
    Kind("pipeline from texts into LightGBM", SK, on_columns(lambda: make_pipeline(by_type(numeric="passthrough"), LGB()))),
    Kind("pipeline from texts, voting of two", SK, on_columns(lambda: VotingClassifier([("a", make_pipeline(by_type(), LOGISTIC())), ("b", make_pipeline(by_type(numeric="passthrough"), HIST()))], voting="soft"))),
    Kind("pipeline from texts, calibrated", SK, on_columns(lambda: CalibratedClassifierCV(make_pipeline(by_type(), LOGISTIC()), cv=2))),
    Kind("one-hot that refuses what it never saw, all levels seen", SK, on_columns(lambda: make_pipeline(by_type(encoder=OneHotEncoder()), LOGISTIC()))),
    Kind("one-hot that refuses what it never saw, a level unseen", SK, lambda rows: make_pipeline(by_type(encoder=OneHotEncoder()), LOGISTIC()).fit(rows.frame[rows.frame.ward != "surgery"], rows.y[rows.frame.ward != "surgery"]), "let it ignore or impute what it never saw, or narrow the column table"),
    Kind("rare levels grouped", SK, on_columns(lambda: make_pipeline(by_type(encoder=OneHotEncoder(min_frequency=0.15, handle_unknown="infrequent_if_exist")), LOGISTIC()))),
    Kind("polynomials of scaled numbers", SK, on_columns(lambda: make_pipeline(by_type(make_pipeline(SimpleImputer(), RobustScaler(), PolynomialFeatures(2))), LOGISTIC()))),
    Kind("bins, one-hot", SK, on_columns(lambda: make_pipeline(by_type(make_pipeline(SimpleImputer(), KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf"))), LOGISTIC()))),
    Kind("principal components", SK, on_matrix(lambda: filled(MinMaxScaler(), PCA(5, whiten=True), LOGISTIC()))),
    Kind("the best features of a union", SK, on_matrix(lambda: filled(FeatureUnion([("p", PCA(3)), ("k", SelectKBest(k=6))]), StandardScaler(), LOGISTIC()))),
    Kind("imputer with indicators", SK, on_matrix(lambda: make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), LOGISTIC()))),
    Kind("a Python function in the pipeline", SK, on_matrix(lambda: filled(FunctionTransformer(np.cbrt), LOGISTIC())), "calls the Python function cbrt, which a graph cannot: compute it in the feature version instead"),
    Kind("nearest neighbours", SK, on_matrix(lambda: filled(KNeighborsClassifier())), KEEPS),
    Kind("support vectors with a kernel", SK, on_matrix(lambda: scaled(SVC(probability=True))), KEEPS, is_slow=True),
    Kind("Gaussian process", SK, lambda rows: scaled(GaussianProcessClassifier()).fit(rows.matrix[:80], rows.y[:80]), KEEPS),
    Kind("XGBoost", XG, on_features(XGB)),
    Kind("XGBoost, a booster", XG, xgb_booster),
    Kind("XGBoost, three classes", XG, on_features(XGB), n_classes=3),
    Kind("XGBoost, dart", XG, on_features(lambda: XGB(booster="dart", rate_drop=0.3))),
    Kind("XGBoost, linear booster", XG, on_features(lambda: XGB(booster="gblinear", max_depth=None))),
    Kind("XGBoost, base score and class weight", XG, on_features(lambda: XGB(base_score=0.2, scale_pos_weight=3))),
    Kind("XGBoost, early stopping", XG, early_stopped),
    Kind("XGBoost, random forest", XG, on_features(lambda: xgboost.XGBRFClassifier(n_estimators=12, max_depth=5, n_jobs=1))),
    Kind("XGBoost, categories of a DataFrame", XG, lambda rows: XGB(enable_categorical=True, max_cat_to_onehot=1).fit(categorised(rows), rows.y)),
    Kind("XGBoost, leaves of several outputs", XG, on_features(lambda: XGB(multi_strategy="multi_output_tree")), n_classes=3),
    Kind("XGBoost, a ranking objective", XG, lambda rows: xgboost.train({"objective": "rank:pairwise"}, xgboost.DMatrix(rows.matrix, rows.y), 3), "has the objective rank:pairwise; binary:logistic or multi:softprob is needed"),
    Kind("LightGBM", LG, on_features(LGB)),
    Kind("LightGBM, a booster", LG, lgb_booster),
    Kind("LightGBM, three classes", LG, on_features(LGB), n_classes=3),
    Kind("LightGBM, categories of a DataFrame", LG, lambda rows: LGB(min_data_per_group=5, cat_smooth=1).fit(categorised(rows), rows.y)),
    Kind("LightGBM, dart", LG, on_features(lambda: LGB(boosting_type="dart"))),
    Kind("LightGBM, random forest", LG, on_features(lambda: LGB(boosting_type="rf", subsample=0.6, subsample_freq=1))),
    Kind("LightGBM, zero is missing", LG, on_features(lambda: LGB(zero_as_missing=True))),
    Kind("LightGBM, linear leaves", LG, on_features(lambda: LGB(linear_tree=True)), "has linear models in its leaves: train it without linear_tree", gaps=False),
    Kind("CatBoost", CB, on_features(CAT)),
    Kind("CatBoost, three classes", CB, on_features(CAT), n_classes=3),
    Kind("CatBoost, grown by depth", CB, on_features(lambda: CAT(grow_policy="Depthwise"))),
    Kind("CatBoost, categories one by one", CB, lambda rows: CAT(cat_features=[*TEXTS, "source"], one_hot_max_size=20).fit(rows.frame, rows.y), gaps=False),
    Kind("CatBoost, categories by statistics of their labels", CB, lambda rows: CAT(cat_features=[*TEXTS, "source"], max_ctr_complexity=1, one_hot_max_size=2).fit(rows.frame, rows.y), gaps=False),
    Kind("CatBoost, categories, three classes", CB, lambda rows: CAT(cat_features=list(TEXTS), max_ctr_complexity=1).fit(rows.frame, rows.y), gaps=False, n_classes=3),
    Kind("CatBoost, categories in combination", CB, lambda rows: CAT(cat_features=[*TEXTS, "source"], one_hot_max_size=1, max_ctr_complexity=4).fit(rows.frame, apart(rows)), "has splits of several columns at once: train it with max_ctr_complexity=1", gaps=False),
    Kind("CatBoost, categories that may be missing", CB, lambda rows: CAT(cat_features=list(TEXTS), max_ctr_complexity=1).fit(rows.frame, rows.y), "forbid such values in the column table", gaps=False, full_table=False),
)  # fmt: skip


def fitted(kind: Kind) -> tuple[Any, Rows]:
    """The fitted model and the rows that it was trained on."""
    rows = learning(gaps=kind.gaps, n_classes=kind.n_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind.fit(rows), rows


def saved(kind: Kind, model: Any, folder: Path) -> Path:
    """The folder that MLflow makes of it."""
    flavor = importlib.import_module(f"mlflow.{kind.flavor}")
    more = {"serialization_format": "cloudpickle"} if kind.flavor in ("sklearn", "lightgbm") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flavor.save_model(model, str(folder), pip_requirements=[], **more)
    return folder


def table() -> str:
    """The table of docs/foreign-models.md."""
    lines = ["| trained as | flavor | becomes |", "|---|---|---|"]
    for kind in KINDS:
        becomes = f"refused: *{kind.refused}*" if kind.refused else "adopted, equal"
        lines.append(f"| {kind.name} | {kind.flavor} | {becomes} |")
    return "\n".join(lines)
