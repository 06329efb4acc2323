"""Learners by name and by import path: each makes an artefact of its own, the same for the same rows and seed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_core.base.errors import ConfigError
from ml_core.lab.config import TrainingConfig
from ml_core.lab.judging.gate_rules import GateCase, gate_verdicts
from ml_core.lab.training.labelled_rows import LabelledRows, label_rows
from ml_core.lab.training.learning_task import class_factors, learning_task
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.model.bundle import CATBOOST_FILE, LIGHTGBM_FILE, NATIVE_FILES, read_bundle
from ml_core.serve.model.predictor import Predictor
from tests.homes import remade, road_config, road_rows, trained
from tests.many_classes import AWKWARD, columns, configuration, table
from tests.oracles import learner_library
from tests.own_versions import install

BOOSTERS = {"lightgbm": LIGHTGBM_FILE, "catboost": CATBOOST_FILE}
QUICK: dict[str, dict[str, Any]] = {
    "logistic_regression": {},
    "hist_gradient_boosting": {},
    "random_forest": {"n_estimators": 20},
    "sklearn.naive_bayes:GaussianNB": {},
    "sklearn.neural_network:MLPClassifier": {"hidden_layer_sizes": [8], "max_iter": 30},
}


def model_of(learner: str, **training: Any) -> PackedModel:
    params = training.pop("params", QUICK.get(learner, {}))
    return trained(road_config(training={"learner": learner, "rounds": 30, "params": params, **training}))


@pytest.mark.parametrize("learner", QUICK)
def test_a_learner_makes_an_artefact_without_a_pickle_and_says_what_it_is(learner):
    found = model_of(learner)
    manifest = found.bundle.manifest
    assert manifest.training.learner is not None
    assert manifest.training.learner.name == learner
    assert manifest.training.learner.estimator.startswith("sklearn.")
    assert manifest.training.learner.compared_rows == len(road_rows().part("calibration"))
    assert not set(NATIVE_FILES) & manifest.files.keys()
    assert found.evaluation.metrics["roc_auc"] > 0.75
    assert min(found.evaluation.metrics[f"coverage_class_{k}"] for k in (0, 1)) > 0.85


@pytest.mark.parametrize("learner", BOOSTERS)
def test_a_booster_keeps_its_own_form_and_the_gate_compares_it(learner, tmp_path):
    learner_library(learner)
    found = model_of(learner)
    assert found.model_hash == model_of(learner).model_hash
    kept = [name for name in NATIVE_FILES if name in found.bundle.manifest.files]
    assert kept == [BOOSTERS[learner]]
    assert judged(found.folder, learner)["scorer_is_the_model"]
    other = (model_of(learner, params={"learning_rate": 0.2}).folder / kept[0]).read_bytes()
    remade(found.folder, tmp_path / "b", {kept[0]: other})
    assert not judged(tmp_path / "b", learner)["scorer_is_the_model"]
    remade(found.folder, tmp_path / "c", {kept[0]: b"{}"})
    assert not judged(tmp_path / "c", learner)["scorer_is_the_model"]


def test_a_learner_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "catboost", None)
    with pytest.raises(ConfigError, match=r"catboost is not installed: pip install 'surety-bundle\[learners\]'"):
        model_of("catboost")


def test_a_model_without_a_second_form_is_judged_by_what_training_recorded(tmp_path):
    found = model_of("logistic_regression")
    assert judged(found.folder, "logistic_regression")["scorer_was_compared"]
    training = found.bundle.manifest.training
    assert training.learner is not None
    for facts in ({"compared_rows": 0}, {"difference_below": 1e-3}):
        wrong = training.model_copy(update={"learner": training.learner.model_copy(update=facts)})
        place = tmp_path / next(iter(facts))
        remade(found.folder, place, training=wrong.model_dump())
        assert not judged(place, "logistic_regression")["scorer_was_compared"]


def judged(folder: Path, learner: str) -> dict[str, bool]:
    """Verdicts of the gate on a model folder, by rule."""
    bundle = read_bundle(folder)
    config = road_config(training={"learner": learner})
    rules = gate_verdicts(GateCase(Predictor(bundle), road_rows(), config, folder))
    return {rule.rule: rule.passed for rule in rules}


@pytest.mark.parametrize("learner", QUICK)
def test_the_same_seed_gives_the_same_hash(learner):
    assert model_of(learner).model_hash == model_of(learner).model_hash


def test_names_that_are_nearly_right_are_told():
    for params, match in (
        ({"max_dept": 3}, "max_dept: is no hyper-parameter of XGBoost; max_depth is meant"),
        ({"learning_rat": 0.1, "max_depth": 2}, "learning_rate is meant"),
        ({"zzzz": 1}, "zzzz: is no hyper-parameter of XGBoost; known are "),
    ):
        with pytest.raises(ConfigError, match=match):
            model_of("xgboost", params=params)
    with pytest.raises(ConfigError, match="LogisticRegression; max_iter is meant"):
        model_of("logistic_regression", params={"max_itr": 3})
    with pytest.raises(ValueError, match="lightgbm is meant"):
        TrainingConfig(learner="ligthgbm")


@pytest.mark.parametrize(
    ("learner", "params", "match"),
    [
        ("logistic_regression", {"random_state": 3}, "set by surety"),
        ("logistic_regression", {"C": -1.0}, "training.params"),
        ("xgboost", {"max_depth": -4}, "training.params"),
        ("sklearn.linear_model:RidgeClassifier", {}, "no classifier class with fit and predict_proba"),
        ("sklearn.linear_model:Nothing", {}, "has no Nothing"),
        ("no_such_package.models:Nothing", {}, "PYTHONPATH"),
        ("sklearn.neighbors:KNeighborsClassifier", {"n_neighbours": 3}, "n_neighbors is meant"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_to_do(learner, params, match):
    with pytest.raises(ConfigError, match=match):
        model_of(learner, params=params)


# --- weights of classes -----------------------------------------------------------------------------------------------


def test_balanced_classes_weigh_the_same_together():
    y = np.array([0] * 90 + [1] * 10)
    factors = class_factors(TrainingConfig(class_weight="balanced"), (0, 1), y, None)
    assert factors is not None
    assert factors * np.bincount(y) == pytest.approx([50.0, 50.0])
    own = np.where(y == 1, 9.0, 1.0)  # rows that stand for nine others need no more
    again = class_factors(TrainingConfig(class_weight="balanced"), (0, 1), y, own)
    assert again == pytest.approx([1.0, 1.0])


def test_a_table_of_class_weights_takes_labels_of_any_text():
    asked = TrainingConfig(class_weight={"<30": 2.0, "0%": 3})
    factors = class_factors(asked, AWKWARD, np.arange(4), None)
    assert factors is not None
    assert factors.tolist() == [2.0, 1.0, 3.0, 1.0]
    with pytest.raises(ConfigError, match=r"class_weight\.<3O: is no label of these rows; <30 is meant"):
        class_factors(TrainingConfig(class_weight={"<3O": 2.0}), AWKWARD, np.arange(4), None)


@pytest.mark.parametrize("learner", ["xgboost", "logistic_regression"])
def test_a_weighted_class_gets_larger_probabilities_and_keeps_its_coverage(learner):
    plain, heavy = model_of(learner), model_of(learner, class_weight={1: 6.0})
    assert heavy.test_proba[:, 1].mean() > 1.5 * plain.test_proba[:, 1].mean()
    assert heavy.evaluation.metrics["coverage_class_1"] > 0.85
    assert heavy.bundle.manifest.training.params["class_weight"] == '{"1": 6.0}'


def test_scale_pos_weight_is_for_two_classes(monkeypatch, tmp_path):
    assert model_of("xgboost", params={"scale_pos_weight": 6}).test_proba[:, 1].mean() > 0.2
    rows = several(monkeypatch, tmp_path)
    config = configuration(training={"rounds": 5, "params": {"scale_pos_weight": 2}})
    with pytest.raises(ConfigError, match=r"these rows have 4: use training\.class_weight"):
        trained(road_config(**config), rows)


def several(monkeypatch: pytest.MonkeyPatch, folder: Any) -> LabelledRows:
    install(monkeypatch, folder, "v901", columns())
    return label_rows(table(3_000, 5), "v901", road_config().split, "parts")


def test_several_classes_are_learned_by_any_learner(monkeypatch, tmp_path):
    rows = several(monkeypatch, tmp_path)
    for learner in ("logistic_regression", "hist_gradient_boosting", "sklearn.neural_network:MLPClassifier"):
        training = {"learner": learner, "rounds": 20, "params": QUICK[learner]}
        found = trained(road_config(**configuration(training=training)), rows)
        assert found.evaluation.metrics["roc_auc"] > 0.9
        assert found.test_proba.shape[1] == len(AWKWARD)


def test_weights_of_classes_are_those_of_their_rows():
    task = learning_task(road_config(training={"class_weight": {1: 3.0}}), road_rows(), lambda _: None)
    assert task.train.weights is not None
    assert set(task.train.weights.tolist()) == {1.0, 3.0}
    assert learning_task(road_config(), road_rows(), lambda _: None).train.weights is None
