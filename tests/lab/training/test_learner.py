from __future__ import annotations

import json
import re

import numpy as np
import pytest

import ml_core.lab.measuring.calibration
from ml_core.base.errors import CalibrationDisagrees, CalibrationTooSmall, ConfigError, DataError, ScorerDisagrees
from ml_core.lab.training import xgboost_learner as training
from ml_core.lab.training.xgboost_learner import learner_params
from ml_core.serve.model.bundle import MANIFEST_FILE, REQUIRED_FILES, TREES_FILE, XGBOOST_FILE
from ml_core.serve.model.conformity_scores import true_label_scores
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.scorer import Scorecard
from tests.homes import road_config, road_model, road_rows, trained


def small(rows, share: float):
    """A random part of the rows, by patient."""
    from dataclasses import replace

    kept = np.array([hash_of(g) < share for g in rows.groups.tolist()])
    return replace(
        rows, frame=rows.frame[kept], y_index=rows.y_index[kept], groups=rows.groups[kept], parts=rows.parts[kept]
    )


def hash_of(group: str) -> float:
    import hashlib

    return int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32


def test_the_same_rows_seed_and_libraries_give_the_same_model_hash():
    assert trained(road_config()).model_hash == road_model().model_hash


def test_another_seed_gives_another_hash():
    assert trained(road_config(seed=8)).model_hash != road_model().model_hash


def test_the_manifest_names_no_time_host_run_or_place():
    raw = (road_model().folder / MANIFEST_FILE).read_text()
    assert not re.search(r"20\d\d-\d\d-\d\d|/tmp|/home|/work|run_id|host", raw)
    facts = json.loads(raw)
    assert facts["training"]["table"] == "v1"
    assert facts["training"]["rows"] == road_rows().counts
    assert facts["libraries"].keys() >= {"xgboost", "onnxruntime", "mapie", "numpy", "scikit-learn"}


def test_the_folder_holds_every_file_and_no_pickle():
    assert {p.name for p in road_model().folder.iterdir()} == {*REQUIRED_FILES, XGBOOST_FILE, TREES_FILE, MANIFEST_FILE}


def test_calibration_scores_are_those_of_the_scorer_that_serves_on_the_calibration_patients():
    model, rows = road_model(), road_rows().part("calibration")
    scores = true_label_scores(Predictor(model.bundle).scorer.proba(rows.matrix), rows.y_index)
    for k, kept in enumerate(model.bundle.calibration.scores):
        assert np.array_equal(kept, np.sort(scores[rows.y_index == k]))


def test_the_scorecard_is_calibrated_on_the_same_patients_in_its_own_scores():
    model, rows = road_model(), road_rows().part("calibration")
    scores = true_label_scores(Scorecard(model.bundle.fallback["scorecard"]).proba(rows.matrix), rows.y_index)
    for k, kept in enumerate(model.bundle.scorecard_calibration.scores):
        assert np.array_equal(kept, np.sort(scores[rows.y_index == k]))


def test_the_prior_is_the_share_of_each_label_in_training():
    y = road_rows().part("train").y_index
    assert road_model().bundle.fallback["prior"] == {"0": pytest.approx(1 - y.mean()), "1": pytest.approx(y.mean())}


def test_it_is_evaluated_on_the_test_patients_alone():
    model, test = road_model(), road_rows().part("test")
    assert np.array_equal(model.test_groups, test.groups)
    assert np.array_equal(model.test_y_index, test.y_index)
    assert np.array_equal(model.test_proba, Predictor(model.bundle).scorer.proba(test.matrix))
    assert model.evaluation.metrics["n_class_1"] == test.y_index.sum()


def test_every_class_is_covered_on_patients_never_seen():
    metrics = road_model().evaluation.metrics
    assert min(metrics["coverage_class_0"], metrics["coverage_class_1"]) > 0.85
    assert metrics["roc_auc"] > 0.75


def test_a_scorer_that_differs_from_xgboost_registers_nothing(monkeypatch):
    real = training.booster_proba
    monkeypatch.setattr(training, "booster_proba", lambda *args: real(*args) + 1e-4)
    with pytest.raises(ScorerDisagrees):
        trained(road_config())


def test_a_threshold_mapie_does_not_find_registers_nothing(monkeypatch):
    real = ml_core.lab.measuring.calibration.mapie_thresholds
    wrong = lambda *args: tuple(np.nextafter(t, 0) for t in real(*args))  # noqa: E731
    monkeypatch.setattr(ml_core.lab.measuring.calibration, "mapie_thresholds", wrong)
    with pytest.raises(CalibrationDisagrees):
        trained(road_config())


def test_a_class_too_small_for_the_level_is_named():
    with pytest.raises(CalibrationTooSmall, match=r"class 1 has \d+ calibration rows; confidence 0.999 needs 999"):
        trained(road_config(conformal={"confidence_level": "0.999"}))


def test_a_part_without_a_class_is_named():
    rows = road_rows()
    only_zero = rows.part("train", "validation", "test")
    with pytest.raises(DataError, match="calibration subjects have no row of class 0"):
        trained(road_config(), only_zero)


@pytest.mark.parametrize("name", ["objective", "nthread", "seed", "tree_method"])
def test_what_decides_guarantee_or_reproducibility_cannot_be_configured(name):
    config = road_config(training={"params": {name: "1"}})
    with pytest.raises(ConfigError, match=f"training.params.{name}"):
        learner_params(config.training, 2, 7, 1)


def test_a_synonym_replaces_the_default_it_stands_for():
    params = learner_params(road_config(training={"params": {"eta": 0.2, "lambda": 3}}).training, 3, 7, 1)
    assert (params["learning_rate"], params["reg_lambda"], params["num_class"]) == (0.2, 3, 3)
    assert "eta" not in params


def test_a_hyper_parameter_xgboost_refuses_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"training\.params"):
        trained(road_config(training={"rounds": 2, "params": {"max_depth": -4}}))
