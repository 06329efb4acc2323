"""Why an answer is what it is: by raw columns, to the sum, and refused with the reason where nobody can say so."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import orjson
import pytest
import xgboost

from ml_core.lab.config import TrainingConfig
from ml_core.lab.training.booster_trees import xgboost_trees
from ml_core.lab.training.learner import train_model
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.model import explanations
from ml_core.serve.model.explanations import Explainer, Explanation
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.trees import TreeForm
from tests.toy_models import table_toy, toy_config, toy_model, toy_rows


def explainer(packed=None, **changes) -> Explainer:
    """Of the toy model, with other parts of its artefact."""
    bundle = replace((packed or toy_model()).bundle, **changes)
    return Explainer(bundle, Predictor(bundle).reader)


def explained(packed=None, n=200, **changes) -> tuple[list[Explanation], np.ndarray]:
    """Explanations of test rows, and their log-odds."""
    packed = packed or toy_model()
    features = packed.bundle.features.transform({k: v[:n] for k, v in toy_rows().part("test").columns.items()})
    proba = Predictor(packed.bundle).score(features)
    found = explainer(packed, **changes).explain("champion", features, proba.argmax(axis=1))
    return found, np.log(proba[:, 1]) - np.log(proba[:, 0])


def by_columns(one: Explanation) -> dict[tuple[str, ...], float]:
    return {each.columns: each.contribution for each in one.contributions}


@pytest.mark.parametrize("packed", [toy_model, table_toy])
def test_contributions_are_of_raw_columns_and_add_up_to_the_log_odds_of_the_answer(packed):
    found, log_odds = explained(packed())
    for one, expected in zip(found, log_odds.tolist(), strict=True):
        assert (one.label, one.method, one.scale, one.per, one.reason) == (
            1,
            "tree_shap",
            "log_odds",
            "raw_column",
            None,
        )
        assert set(by_columns(one)) == {("age",), ("glucose",), ("bmi",), ("bp_systolic",)}
        assert one.margin == pytest.approx(expected, abs=1e-9)
        assert one.base_value + sum(by_columns(one).values()) == pytest.approx(expected, abs=1e-9)


def test_the_largest_comes_first_and_its_sign_is_told_in_a_word():
    found, _ = explained()
    for one in found:
        sizes = [abs(each.contribution) for each in one.contributions]
        assert sizes == sorted(sizes, reverse=True)
        assert all((each.effect == "raises") == (each.contribution > 0) for each in one.contributions)


def test_a_raw_column_has_the_sum_of_its_features():
    """Measured, flag and distance of one measurement are one line."""
    packed, n = toy_model(), 50
    booster = xgboost.Booster(model_file=bytearray((packed.folder / "model.ubj").read_bytes()))
    booster.feature_names = None
    features = packed.bundle.features.transform({k: v[:n] for k, v in toy_rows().part("test").columns.items()})
    native = booster.predict(xgboost.DMatrix(features), pred_contribs=True)
    found, _ = explained(n=n)
    for column in ("glucose", "bmi"):
        own = [i for i, name in enumerate(packed.bundle.features.feature_names) if name.startswith(column)]
        ours = [by_columns(one)[column,] for one in found]
        assert np.allclose(ours, native[:, own].sum(axis=1), rtol=0, atol=1e-5)


def test_features_of_several_columns_are_a_line_of_their_own():
    """The model sees the ratio alone: nobody can say how much of it is of the one or the other."""
    v2 = get_feature_version("v2")
    lines = explanations._Lines.of(v2)
    assert lines.names[0] == ("age",)
    assert ("num_lab_procedures", "time_in_hospital") in lines.names
    assert {len(names) for names in lines.names[: lines.names.index(("time_in_hospital",))]} == {1}
    where = v2.feature_names.index("labs_per_day")
    assert lines.names[lines.of_feature[where]] == ("num_lab_procedures", "time_in_hospital")
    shares = np.random.default_rng(1).normal(size=(9, len(v2.feature_names)))
    assert np.allclose(lines.sums(shares).sum(axis=1), shares.sum(axis=1), rtol=0, atol=1e-12)


def test_where_nobody_says_what_features_are_made_of_they_are_the_lines():
    bundle = toy_model().bundle
    found, _ = explained(features=replace(bundle.features, sources=None))
    assert {one.per for one in found} == {"feature"}
    assert {names for one in found for names in by_columns(one)} == {(name,) for name in bundle.features.feature_names}


def three_labels() -> tuple[Explainer, TreeForm, np.ndarray]:
    """The toy's rows with three labels."""
    rows, bundle = toy_rows(), toy_model().bundle
    labels = np.digitize(np.nan_to_num(rows.matrix[:, 1], nan=120.0), [110.0, 150.0])
    params = {"objective": "multi:softprob", "num_class": 3, "nthread": 1, "max_depth": 3}
    form = xgboost_trees(xgboost.train(params, xgboost.DMatrix(rows.matrix, labels), 8))
    reader = Predictor(bundle).reader
    asked = [reader.read(entry["record"]) for entry in bundle.golden]
    proba = form.probabilities(bundle.features.transform(reader.arrays(asked)))
    golden = [{**entry, "proba": row} for entry, row in zip(bundle.golden, proba.tolist(), strict=True)]
    manifest = bundle.manifest.model_copy(update={"classes": ("home", "nurse", "ward")})
    return explainer(manifest=manifest, trees=form.to_bytes(), golden=golden), form, rows.matrix[:300]


def test_of_several_labels_the_predicted_one_is_explained():
    found, form, matrix = three_labels()
    predictions = np.arange(300) % 3
    told = found.explain("champion", matrix, predictions)
    margins = form.margins(matrix)
    for row, (one, k) in enumerate(zip(told, predictions.tolist(), strict=True)):
        assert (one.label, one.scale) == (("home", "nurse", "ward")[k], "margin")
        total = one.base_value + sum(by_columns(one).values())
        assert (one.margin, total) == (margins[row, k], pytest.approx(margins[row, k], abs=1e-9))


def test_answers_of_the_scorecard_are_explained_by_its_own_terms():
    bundle = toy_model().bundle
    features = toy_rows().part("test").matrix[:100]
    told = explainer().explain("scorecard", features, np.zeros(100, dtype=np.int64))
    card = bundle.fallback["scorecard"]
    weights = np.diff(card["coefficients"], axis=0)[0]
    for one, row in zip(told, features, strict=True):
        terms = np.nan_to_num((row.astype(float) - card["center"]) / card["scale"] * weights)
        glucose = [i for i, name in enumerate(bundle.features.feature_names) if name.startswith("glucose")]
        assert (one.method, one.scale) == ("linear", "log_odds")
        assert by_columns(one)["glucose",] == pytest.approx(terms[glucose].sum(), abs=1e-9)
        assert one.margin == pytest.approx(one.base_value + terms.sum(), abs=1e-9)
        assert one.base_value == pytest.approx(np.diff(card["intercept"])[0])


@cache
def logistic() -> PackedModel:
    """A logistic regression of the toy's rows."""
    folder = Path(tempfile.mkdtemp(prefix="surety-toy-")) / "bundle"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    config = toy_config(training=TrainingConfig(learner="logistic_regression"))
    return train_model(config, toy_rows(), folder, lambda _: None)


def test_a_logistic_regression_is_explained_by_its_own_terms():
    found, log_odds = explained(logistic())
    for one, expected in zip(found, log_odds.tolist(), strict=True):
        assert (one.method, one.scale, one.per, one.reason) == ("linear", "log_odds", "raw_column", None)
        assert one.margin == pytest.approx(expected, abs=1e-5)
        assert one.base_value + sum(by_columns(one).values()) == pytest.approx(one.margin, abs=1e-9)


def test_the_base_of_a_logistic_regression_is_the_mean_over_its_training_rows():
    packed, train = logistic(), toy_rows().part("train")
    proba = Predictor(packed.bundle).score(train.matrix)
    ((one, *_), _) = explained(packed, n=1)
    assert one.base_value == pytest.approx(np.mean(np.log(proba[:, 1]) - np.log(proba[:, 0])), abs=1e-5)


def test_terms_that_are_not_the_models_are_not_shown():
    other = orjson.dumps({**orjson.loads(logistic().bundle.linear), "intercept": [0.0, 1.0]})
    found, _ = explained(logistic(), n=3, linear=other)
    assert {"linear.json: does not give the model's golden answers" in one.reason for one in found} == {True}


def test_a_prior_has_no_explanation():
    (one,) = explainer().explain("prior", np.zeros((1, 11), np.float32), np.zeros(1, dtype=np.int64))
    assert one == Explanation(reason="no model gave this answer: its set holds every label, whatever the record says")


def other_trees() -> bytes:
    form = TreeForm.from_bytes(toy_model().bundle.trees)
    return replace(form, base=form.base + 0.1).to_bytes()


def without_native(manifest):
    return manifest.model_copy(update={"files": {k: v for k, v in manifest.files.items() if k != "model.ubj"}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda bundle: {"trees": b""}, "train or import it again"),
        (
            lambda bundle: {"trees": b"", "manifest": without_native(bundle.manifest)},
            "only trees, and logistic regressions",
        ),
        (lambda bundle: {"trees": other_trees()}, "does not give the model's golden answers"),
        (lambda bundle: {"trees": b"PK"}, "cannot be read"),
    ],
)
def test_what_cannot_be_explained_says_why_every_time(changes, words):
    bundle = toy_model().bundle
    made = explainer(**changes(bundle))
    for _ in range(2):
        told = made.explain("champion", toy_rows().matrix[:3], np.zeros(3, dtype=np.int64))
        assert [words in one.reason for one in told] == [True] * 3
        assert {(one.label, one.margin, one.contributions) for one in told} == {(None, None, ())}


def test_contributions_that_do_not_add_up_are_not_shown(monkeypatch):
    made = explainer()
    rows, zeros = toy_rows().matrix[:5], np.zeros(5, dtype=np.int64)
    made.explain("champion", rows, zeros)
    shap = made._model._by_label[1]
    monkeypatch.setattr(shap, "base", shap.base + 1e-4)
    assert {one.reason for one in made.explain("champion", rows, zeros)} == {
        "its contributions do not add up to the model's output"
    }


def test_an_explanation_comes_back_from_json():
    for one in explained(n=5)[0]:
        assert Explanation.from_json(orjson.loads(orjson.dumps(one))) == one


def test_nothing_is_made_before_it_is_asked_for():
    predictor = Predictor(toy_model().bundle)
    assert "explainer" not in vars(predictor)
    assert predictor.explainer._model is None
