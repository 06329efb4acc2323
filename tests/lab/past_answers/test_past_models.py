"""The model behind an answer is found by its hash wherever it still is, and by nothing but its hash."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace

import pytest

import ml_core.lab.past_answers.past_models
import ml_core.serve.model.bundle
from ml_core.lab.past_answers.past_models import NoModel, PastModel, PastModels
from ml_core.lab.registry.importer import import_version
from ml_core.serve.features.versions import get_feature_version
from tests.homes import MODEL, bento_store, registered_home, road_model
from tests.serve.answering.stored import Home
from tests.toy_models import NAME, toy_model


@pytest.fixture
def store(tmp_path):
    with bento_store(tmp_path / "bento") as folder:
        yield folder


@pytest.fixture
def home(tmp_path, store) -> Home:
    """Models in ``SURETY_HOME/models``; no MLflow."""
    return Home(tmp_path / "home")


@pytest.fixture
def registered(tmp_path, store):
    """A model in MLflow alone."""
    return registered_home(tmp_path / "registered")


def lineage(home: Home, **changes):
    """What an answer of the toy model says of it."""
    model_hash = toy_model().model_hash
    return {"model_name": NAME, "model_version": "1", "model_hash": model_hash, "bento_tag": home.v1, **changes}


def road_lineage(**changes):
    """What an answer of the registered model says of it."""
    model_hash = road_model().model_hash
    tag = f"{MODEL}:v1-{model_hash[:8]}"
    return {"model_name": MODEL, "model_version": "1", "model_hash": model_hash, "bento_tag": tag, **changes}


def missing(found) -> str:
    assert isinstance(found, NoModel)
    assert found.state == "model_missing"
    return found.note


def test_a_model_is_found_by_its_tag(home):
    found = PastModels(home.settings).find(lineage(home))
    assert isinstance(found, PastModel)
    assert (found.place, found.predictor.bundle.model_hash) == (home.v1, toy_model().model_hash)
    assert found.calibration_id("champion") == toy_model().bundle.calibration.calibration_id
    assert found.calibration_id("scorecard") == toy_model().bundle.scorecard_calibration.calibration_id


def test_a_model_needs_no_gate_to_be_asked_again(home):
    found = PastModels(home.settings).find(lineage(home, model_hash=home.hash_of(home.v3), bento_tag=home.v3))
    assert found.place == home.v3


def test_a_model_is_found_under_another_tag_of_its_hash(home):
    other = f"{NAME}:v9-{toy_model().model_hash[:8]}"
    home.folder(home.v1).rename(home.folder(other))
    assert PastModels(home.settings).find(lineage(home)).place == other


def test_the_log_of_a_bento_with_a_model_of_another_name(home):
    settings = home.settings.model_copy(update={"model_name": "something_else"})
    home.folder(home.v1).rename(home.folder(f"{NAME}:v9-{toy_model().model_hash[:8]}"))
    assert isinstance(PastModels(settings).find(lineage(home)), PastModel)


def test_another_model_under_the_tag_is_not_taken_for_it(home):
    shutil.rmtree(home.folder(home.v1))
    shutil.copytree(home.folder(home.v2), home.folder(home.v1))
    note = missing(PastModels(home.settings).find(lineage(home)))
    assert home.hash_of(home.v2)[:12] in note


def test_a_damaged_model_is_missing_and_says_what_is_wrong_with_it(home):
    file = home.file(home.v1)
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    note = missing(PastModels(home.settings).find(lineage(home)))
    assert "model.onnx: its sha256" in note


def test_a_model_that_is_nowhere_is_missing_and_no_registry_is_made(home):
    shutil.rmtree(home.folder(home.v1))
    note = missing(PastModels(home.settings).find(lineage(home)))
    assert "there is no such file" in note
    assert f"surety import-model --model {NAME} --version 1" in note
    assert not (home.settings.home / "mlflow.db").exists()


def test_each_model_is_looked_for_once(home):
    models = PastModels(home.settings)
    first = models.find(lineage(home))
    shutil.rmtree(home.folder(home.v1))
    assert models.find(lineage(home)) is first


def test_mlflow_is_asked_where_no_store_has_the_model(registered):
    found = PastModels(registered.settings).find(road_lineage())
    assert isinstance(found, PastModel)
    assert (found.place, found.predictor.bundle.model_hash) == (f"MLflow: {MODEL} version 1", road_model().model_hash)


def test_a_version_whose_tags_were_lost_is_known_by_its_number_and_checked_by_its_hash(registered):
    registered.registry.set_tags(registered.challenger(), {"model_hash": None})
    assert isinstance(PastModels(registered.settings).find(road_lineage()), PastModel)
    wrong = PastModels(registered.settings).find(road_lineage(model_hash="0" * 64))
    assert "manifest.json: has sha256" in missing(wrong)


def test_the_bento_store_is_enough_when_mlflow_has_moved_away(registered):
    imported = import_version(registered.registry, registered.challenger(), registered.settings)
    (registered.settings.home / "mlflow.db").unlink()
    shutil.rmtree(registered.settings.home / "mlartifacts")
    assert PastModels(registered.settings).find(road_lineage()).place == imported.tag


def test_an_installation_without_mlflow_says_so(registered, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert "MLflow is not installed here" in missing(PastModels(registered.settings).find(road_lineage()))


@pytest.mark.parametrize("where", ["store", "mlflow"])
def test_an_edited_feature_module_is_told_with_both_hashes(home, registered, monkeypatch, where):
    edited = replace(get_feature_version("v1"), module_hash="e" * 64)
    for module in (ml_core.serve.model.bundle, ml_core.lab.past_answers.past_models):
        monkeypatch.setattr(module, "get_feature_version", lambda _: edited)
    settings, facts = (home.settings, lineage(home)) if where == "store" else (registered.settings, road_lineage())
    found = PastModels(settings).find(facts)
    assert isinstance(found, NoModel)
    assert found.state == "feature_module_changed"
    trained = toy_model().bundle.manifest.feature_module_sha256
    assert all(word in found.note for word in ("ml_core/serve/features/v1.py", "e" * 64, trained))


def test_an_edited_column_table_is_told_as_well(home, monkeypatch):
    here = get_feature_version("v1")
    edited = replace(here, columns=(*here.columns[:-1], replace(here.columns[-1], doc="Something else.")))
    for module in (ml_core.serve.model.bundle, ml_core.lab.past_answers.past_models):
        monkeypatch.setattr(module, "get_feature_version", lambda _: edited)
    found = PastModels(home.settings).find(lineage(home))
    assert (found.state, found.note.startswith("the column table of v1 was edited")) == ("feature_module_changed", True)
