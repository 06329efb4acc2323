"""Foreign models become artefacts that answer as the original does, from the raw columns of a request."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from ml_core.base.errors import ArtefactError, ScorerDisagrees
from ml_core.features.columns import Column
from ml_core.lab.training.asked_columns import asked_columns, raw_frame
from ml_core.lab.training.conversion import check_equals, convert_classifier, drawn_columns
from ml_core.lab.training.foreign_models import pack_foreign
from ml_core.lab.training.labelled_rows import LabelledRows, label_rows
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.features.table_versions import table_version
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.model.bundle import TREES_FILE
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.trees import TreeForm
from tests.homes import road_config
from tests.lab.training.foreign_kinds import FEATURES, TREES, learning, version

V2 = get_feature_version("v2")
TEXTS, NUMBERS = ("age", "gender", "A1Cresult", "insulin"), ("time_in_hospital", "number_inpatient", "num_medications")


def encounters(n: int, seed: int) -> pd.DataFrame:
    """Rows that the column table of v2 allows, with a label that some of them explain."""
    rng = np.random.default_rng(seed)
    columns = drawn_columns(V2.features, n, rng)
    listed = [column for column in V2.features if column.dtype != "text"]
    frame = raw_frame(listed, columns, frozenset())
    for column in V2.features:
        if column.dtype == "text":
            frame[column.name] = columns[column.name]
    frame["encounter_id"], frame["patient_nbr"] = np.arange(1, n + 1) + seed * 10**6, np.arange(1, n + 1) + seed * 10**6
    lie = columns["number_inpatient"] / 20 + (columns["insulin"] == 2) + (columns["gender"] == 1) + rng.normal(size=n)
    frame["readmission_30d"] = (lie > np.median(lie)).astype(int)
    return frame


@pytest.fixture(scope="module")
def rows() -> LabelledRows:
    """Nobody of these was seen by a model of this file."""
    return label_rows(encounters(3_000, 2), "v2", road_config().split, "rows.parquet")


CONFIG = road_config(model="foreign_risk", feature_version="v2")


def adopted(model, folder: Path, rows: LabelledRows, notes: list[str] | None = None) -> PackedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(model, str(folder / "m"), serialization_format="cloudpickle", pip_requirements=[])
    note = (notes if notes is not None else []).append
    return pack_foreign(folder / "m", "models:/m/1", CONFIG, rows, folder / "made", note, trust_pickle=True)


def encoded(encoder, numbers="passthrough"):
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), encoder)
    return ColumnTransformer([("texts", texts, list(TEXTS)), ("numbers", numbers, list(NUMBERS))])


PIPELINES = {
    "one-hot and logistic": lambda: make_pipeline(encoded(OneHotEncoder(), StandardScaler()), LogisticRegression()),
    "ordinal and forest": lambda: make_pipeline(encoded(OrdinalEncoder()), RandomForestClassifier(**TREES)),
    "one-hot and histogram": lambda: make_pipeline(encoded(OneHotEncoder(sparse_output=False)), HistGradientBoostingClassifier(max_iter=20)),
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_from_texts_answers_records_as_the_original_does(name, rows, tmp_path):
    learned, notes = encounters(2_000, 1), []
    model = PIPELINES[name]().fit(learned[[*TEXTS, *NUMBERS]], learned["readmission_30d"])
    made = adopted(model, tmp_path, rows, notes)
    assert "takes 7 raw columns" in notes[0]
    assert "10000 more a request may hold" in notes[1]
    predictor = Predictor(made.bundle)
    fresh = encounters(300, 3)
    records = fresh.drop(columns="readmission_30d").astype(object).where(fresh.notna(), None).to_dict("records")
    found = predictor.predict(predictor.reader.arrays([predictor.reader.read(record) for record in records]))
    assert np.abs(found.proba - model.predict_proba(fresh[[*TEXTS, *NUMBERS]])).max() < 1e-9
    assert made.evaluation.metrics["roc_auc"] > 0.6


def test_a_model_of_trees_over_features_keeps_its_trees(rows, tmp_path):
    forest = RandomForestClassifier(**TREES).fit(rows.matrix, rows.y_index)
    made = adopted(forest, tmp_path, rows)
    form = TreeForm.from_bytes((made.folder / TREES_FILE).read_bytes())
    assert len(form.roots) == len(forest.estimators_)
    assert form.cover[form.roots].tolist() == [tree.tree_.weighted_n_node_samples[0] for tree in forest.estimators_]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (("gender", "diag_1"), "takes diag_1, a column of dtype text .*: make it a category"),
        (("gender", "admission_type_id"), "the raw column admission_type_id, which the features of v2 do not hold"),
        (("gender", "weight"), r"takes 1 column\(s\) that v2 has neither as features nor as raw columns: weight"),
    ],
)
def test_a_column_that_cannot_be_read_is_named(columns, words, rows, tmp_path):
    learned = encounters(400, 1).assign(weight=1.0)
    encoder = OneHotEncoder(handle_unknown="ignore")
    model = make_pipeline(encoder, LogisticRegression()).fit(learned[list(columns)], learned["readmission_30d"])
    with pytest.raises(ArtefactError, match=words):
        adopted(model, tmp_path, rows)


def test_a_text_without_an_encoder_is_refused(rows, tmp_path):
    class Lengths(LogisticRegression):
        """Whatever it does with texts, no graph can."""

        def fit(self, X, y):
            self.feature_names_in_ = np.array(list(X.columns), dtype=object)
            return super().fit(np.zeros((len(y), X.shape[1])), y)

    learned = encounters(400, 1)
    model = Lengths().fit(learned[["gender", "number_inpatient"]], learned["readmission_30d"])
    graph_error = "column gender: holds texts, and the model has no step that encodes them"
    asked = asked_columns("model", V2, ["gender", "number_inpatient"], 2)
    with pytest.raises(ArtefactError, match=graph_error):
        convert_classifier(model, asked, 2)


def checked(model, asked, proba, **changes):
    converted = replace(convert_classifier(model, asked, 2), **changes)
    return check_equals("model", converted, asked, proba, (learning(gaps=True, n_classes=2).columns,), 2, n=500, seed=1)


def test_another_model_is_found_out_by_the_rows():
    rows = learning(gaps=True, n_classes=2)
    one, other = (RandomForestClassifier(n_estimators=5, random_state=seed).fit(rows.matrix, rows.y) for seed in (0, 1))
    asked = asked_columns("model", version(gaps=True), None, len(FEATURES))
    assert checked(one, asked, one.predict_proba) < 1e-12
    with pytest.raises(ScorerDisagrees):
        checked(one, asked, other.predict_proba)


def test_a_threshold_that_is_off_by_one_32_bit_step_is_found_out():
    """Only rows at thresholds can tell: without them the two models agree."""
    rows = learning(gaps=True, n_classes=2)
    model = RandomForestClassifier(n_estimators=5, max_depth=4, random_state=0).fit(rows.matrix, rows.y)
    asked = asked_columns("model", version(gaps=True), None, len(FEATURES))
    known = convert_classifier(model, asked, 2).thresholds
    trees = model.estimators_[0].tree_
    node = int(np.flatnonzero((trees.feature >= 0) & (trees.feature < 3))[0])
    before = trees.threshold[node]
    single = np.float32(before)
    originals = model.predict_proba

    def off(matrix):
        trees.threshold[node] = np.nextafter(single, np.float32(-np.inf)) - 1e-9
        try:
            return originals(matrix)
        finally:
            trees.threshold[node] = before

    assert checked(model, asked, off, thresholds=()) < 1e-12
    with pytest.raises(ScorerDisagrees):
        checked(model, asked, off, thresholds=[(trees.feature[node], before)] * len(known))


def test_classes_may_stand_in_another_order():
    rows = learning(gaps=True, n_classes=2)
    model = RandomForestClassifier(**TREES).fit(rows.matrix, np.where(rows.y == 1, "ill", "well"))
    asked = asked_columns("model", version(gaps=True), None, len(FEATURES))
    converted = convert_classifier(model, asked, 2, order=[1, 0])
    turned = lambda matrix: model.predict_proba(matrix)[:, ::-1]  # noqa: E731
    assert check_equals("model", converted, asked, turned, (rows.columns,), 2, n=200, seed=1) < 1e-12
    assert converted.trees is None


def test_features_may_stand_in_another_order():
    rows = learning(gaps=True, n_classes=2)
    frame = pd.DataFrame(rows.matrix, columns=list(FEATURES))[list(FEATURES[::-1])]
    model = RandomForestClassifier(**TREES).fit(frame, rows.y)
    asked = asked_columns("model", version(gaps=True), FEATURES[::-1], len(FEATURES))
    converted = convert_classifier(model, asked, 2)
    assert check_equals("model", converted, asked, model.predict_proba, (rows.columns,), 2, n=200, seed=1) < 1e-12
    assert converted.trees is not None


def test_drawn_rows_have_what_the_table_allows():
    columns = drawn_columns(version(gaps=True).features, 5_000, np.random.default_rng(0))
    assert {0.0, 110.0} <= set(columns["age"])
    assert (columns["age"] == np.round(columns["age"])).all()
    assert {30.0, 600.0} <= set(columns["glucose"])
    assert 0.1 < np.isnan(columns["glucose"]).mean() < 0.2
    assert set(columns["ward"]) == {-1, 0, 1, 2, 3, 4, 5}
    assert set(columns["sex"]) == {0, 1}


def test_flags_and_moments_of_a_described_table_are_read_back_or_refused():
    columns = (
        Column("who", "text", "Who.", role="group", pattern=".+"),
        Column("smokes", "bool", "Flag.", nullable=True, transform="as_is"),
        Column("ward", "category", "Where.", levels=("a", "b", "c"), nullable=True, transform="one_hot"),
        Column("since", "datetime", "When.", transform="date_parts"),
        Column("age", "int", "Years.", low=0, high=110, transform="as_is"),
        Column("ill", "category", "The label.", role="label", levels=(0, 1)),
    )
    features = table_version(columns)
    drawn = drawn_columns(features.features, 600, np.random.default_rng(1))
    y = ((drawn["smokes"] == 1) | (drawn["ward"] == 2)).astype(int)
    names = ["smokes", "ward", "age"]
    frame = raw_frame([column for column in columns if column.name in names], drawn, frozenset())[names]
    model = make_pipeline(
        ColumnTransformer([("t", OneHotEncoder(handle_unknown="ignore"), ["ward"])], remainder="passthrough"),
        SimpleImputer(),
        RandomForestClassifier(**TREES),
    ).fit(frame.astype({"smokes": float}), y)
    asked = asked_columns("model", features, names, 3)
    proba = lambda given: model.predict_proba(given.astype({"smokes": float}))  # noqa: E731
    assert check_equals("model", convert_classifier(model, asked, 2), asked, proba, (drawn,), 2, n=500, seed=1) < 1e-12
    with pytest.raises(ArtefactError, match="takes since, a column of dtype datetime"):
        asked_columns("model", features, [*names, "since"], 4)
