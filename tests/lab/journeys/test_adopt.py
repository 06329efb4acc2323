"""Foreign classifiers from MLflow become models of ours, or are refused in one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from mlflow.pyfunc import PythonModel

from ml_core.base.documents import read_document
from ml_core.base.errors import ArtefactError, ConfigError, DataError, RegistryError
from ml_core.base.journal import Journal
from ml_core.lab.config import DataConfig
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.journeys.adopt import adopt, adoption_config
from ml_core.lab.judging.deployment_gate import validate_deployment
from ml_core.lab.judging.promoter import promote_version
from ml_core.lab.training.labelled_rows import label_rows
from ml_core.serve.model.bundle import read_bundle, verify_folder
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL, ModelLoader
from ml_core.serve.model.promotion_record import GateReport, gate_name
from tests.homes import MODEL, Home, bento_store, registered_home, road_config, settings_in

NAME = "foreign_risk"


class Wrapped(PythonModel):
    """As people wrap a classifier, so that predict gives what their callers want."""

    def __init__(self, **models):
        vars(self).update(models)

    def predict(self, context, model_input, params=None):
        return next(iter(vars(self).values())).predict_proba(model_input)


@pytest.fixture(scope="module")
def learning():
    """Rows the foreign models were trained on: another cohort than the one that calibrates."""
    return label_rows(make_cohort(4_000, seed=91)[0], "v1", road_config().split, "elsewhere")


@pytest.fixture(scope="module")
def logged(tmp_path_factory, learning) -> tuple[Path, dict[str, str]]:
    """A home in whose MLflow foreign models lie, and their URIs."""
    import xgboost
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    home = registered_home(tmp_path_factory.mktemp("foreign") / "home")
    X, y = learning.matrix, learning.y_index
    names = list(learning.features.feature_names)
    tree = {"n_estimators": 60, "max_depth": 3, "learning_rate": 0.1, "n_jobs": 1}
    linear = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
    filled = np.nan_to_num(X) / 100
    sklearn_models = {
        "cloudpickle": (linear.fit(X, y), "cloudpickle"),
        "skops": (linear, "skops"),
        "no proba": (LinearSVC().fit(filled, y), "cloudpickle"),
        "no nan": (LogisticRegression(max_iter=500).fit(filled, y), "cloudpickle"),
        "too narrow": (LogisticRegression().fit(filled[:, :3], y), "cloudpickle"),
        "forest": (never_saw_a_gap(learning), "cloudpickle"),
        "other labels": (LogisticRegression(max_iter=500).fit(filled, np.where(y == 1, "yes", "no")), "cloudpickle"),
    }
    booster = lambda objective, **more: xgboost.train(  # noqa: E731
        {"objective": objective, "nthread": 1, **more}, xgboost.DMatrix(X, y, feature_names=names), 20
    )
    stopped = xgboost.XGBClassifier(**{**tree, "n_estimators": 300, "learning_rate": 0.5}, early_stopping_rounds=5)
    xgboost_models = {
        "xgb": (xgboost.XGBClassifier(**tree).fit(X, y), "ubj"),
        "xgb stopped": (stopped.fit(X[:3_000], y[:3_000], eval_set=[(X[3_000:], y[3_000:])], verbose=False), "ubj"),
        "booster": (booster("binary:logistic"), "json"),
        "regression": (booster("reg:squarederror"), "ubj"),
        "shuffled": (
            xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X, y, feature_names=names[::-1]), 5),
            "ubj",
        ),
    }
    uris = {}
    registry = home.registry
    experiment = registry.experiment("others")
    with registry.session("x") as mlflow, mlflow.start_run(experiment_id=experiment) as run:
        for name, (model, form) in sklearn_models.items():
            trusted = {"skops_trusted_types": ["numpy.dtype"]} if form == "skops" else {}
            info = mlflow.sklearn.log_model(
                model, name="m", serialization_format=form, pip_requirements=["scikit-learn"], **trusted
            )
            uris[name] = info.model_uri
        for name, (model, form) in xgboost_models.items():
            uris[name] = mlflow.xgboost.log_model(
                model, name="m", model_format=form, pip_requirements=["xgboost"]
            ).model_uri
        for name, models in {"wrapped": {"model": linear}, "two": {"a": linear, "b": linear}}.items():
            info = mlflow.pyfunc.log_model(name="m", python_model=Wrapped(**models), pip_requirements=["scikit-learn"])
            uris[name] = info.model_uri
        mlflow.register_model(uris["xgb"], "their_risk")
        mlflow.xgboost.log_model(xgboost_models["xgb"][0], name="from_run", pip_requirements=["xgboost"])
        uris |= {
            "registered": "models:/their_risk/1",
            "run": f"runs:/{run.info.run_id}/from_run",
            "ours": f"models:/{MODEL}/1",
        }
    return home.settings.home, uris


@pytest.fixture(scope="module")
def calibration(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "calibration.parquet"
    make_cohort(8_000, seed=17)[0].to_parquet(path)
    return path


@pytest.fixture
def home(logged, tmp_path) -> Home:
    import shutil

    shutil.copytree(logged[0], tmp_path / "home")
    return Home(settings_in(tmp_path / "home"), road_config(model=NAME))


@pytest.fixture
def bring(home, logged, calibration):
    def adopted(name: str, **options):
        return adopt(logged[1][name], calibration, home.config, home.settings, lambda _: None, **options)

    return adopted


def test_an_xgboost_classifier_is_converted_calibrated_gated_and_imported(home, bring, logged, tmp_path):
    with bento_store(tmp_path / "bento"):
        found = bring("registered")
        assert found.gate.passed
        assert found.gate.judged_on == "file calibration.parquet, test subjects"
        assert found.tag == f"{NAME}:v1-{found.model_hash[:8]}"
        loaded = ModelLoader(home.settings).load(found.tag)
        assert (loaded.model_hash, loaded.gate.passed) == (found.model_hash, True)
    manifest = loaded.predictor.bundle.manifest
    assert (manifest.source.uri, manifest.source.flavor) == ("models:/their_risk/1", "xgboost")
    assert manifest.source.model_class == "xgboost.sklearn.XGBClassifier"
    assert (manifest.training.table, manifest.training.table_version) == ("", -1)
    assert home.registry.by_alias(NAME, "challenger").version == "1"
    assert read_document((home.settings.home / gate_name(found.model_hash)), GateReport) == found.gate
    events = [e["event"] for e in Journal(home.settings.journal).entries()]
    assert events == ["model.registered", "trust.began", "gate.judged", "model.imported"]


def test_it_answers_as_the_original_does_and_covers_every_class(home, bring, learning, tmp_path):
    import xgboost

    with bento_store(tmp_path / "bento"):
        loaded = ModelLoader(home.settings).load(bring("xgb").tag)
    tree = {"n_estimators": 60, "max_depth": 3, "learning_rate": 0.1, "n_jobs": 1}
    original = xgboost.XGBClassifier(**tree).fit(learning.matrix, learning.y_index)
    fresh = label_rows(make_cohort(6_000, seed=55)[0], "v1", road_config().split, "fresh")
    found = loaded.predictor.predict(fresh.columns)
    assert np.abs(found.proba - original.predict_proba(fresh.matrix)).max() < 1e-6
    covered = found.sets[np.arange(len(fresh)), fresh.y_index]
    assert min(covered[fresh.y_index == k].mean() for k in (0, 1)) > 0.86


@pytest.mark.parametrize("name", ["xgb stopped", "booster", "run", "shuffled"])
def test_native_xgboost_models_need_no_trust(bring, name, tmp_path):
    with bento_store(tmp_path / "bento"):
        assert len(bring(name, dry_run=True).model_hash) == 64


@pytest.mark.parametrize("name", ["cloudpickle", "skops"])
def test_scikit_learn_models_are_loaded_only_when_trusted(bring, name, tmp_path):
    with bento_store(tmp_path / "bento"):
        with pytest.raises(ArtefactError, match="can run any code: repeat with --trust-pickle"):
            bring(name)
        found = bring(name, trust_pickle=True)
    assert found.metrics["roc_auc"] > 0.7


def test_a_forest_that_never_saw_a_gap_answers_one_as_the_original_does(home, bring, learning, tmp_path):
    with bento_store(tmp_path / "bento"):
        loaded = ModelLoader(home.settings).load(bring("forest", trust_pickle=True).tag)
    record = {"age": 70, "glucose": None, "bmi": None, "bp_systolic": 150.0}
    reader = loaded.predictor.reader
    columns = reader.arrays([reader.read(record)])
    matrix = loaded.predictor.bundle.features.transform(columns)
    assert np.isnan(matrix).any()
    found = loaded.predictor.proba(columns)
    assert np.abs(found - never_saw_a_gap(learning).predict_proba(matrix)).max() < 1e-12
    assert set(loaded.predictor.bundle.manifest.files) >= {"model.onnx", "trees.npz"}


def never_saw_a_gap(learning):
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_estimators=25, max_depth=6, random_state=0)
    return forest.fit(np.nan_to_num(learning.matrix, nan=100.0), learning.y_index)


def test_a_model_inside_a_pyfunc_is_unwrapped_where_it_is_trusted(bring):
    with pytest.raises(ArtefactError, match="repeat with --trust-pickle"):
        bring("wrapped", dry_run=True)
    inner, outer = (bring(name, trust_pickle=True, dry_run=True) for name in ("cloudpickle", "wrapped"))
    assert outer.metrics == inner.metrics


def test_a_pyfunc_of_two_models_is_refused_with_what_to_do(bring):
    with pytest.raises(ArtefactError, match=r"holds 2 classifiers .*: log the classifier itself with its own flavor"):
        bring("two", trust_pickle=True, dry_run=True)


def test_the_same_model_and_rows_give_the_same_hash(bring):
    assert bring("xgb", dry_run=True).model_hash == bring("xgb", dry_run=True).model_hash


def test_a_dry_run_registers_nothing(home, bring):
    found = bring("xgb", dry_run=True)
    assert (found.version, found.tag, found.gate) == (None, None, None)
    assert NAME not in home.registry.names()


def test_a_model_the_gate_refuses_is_registered_but_not_imported(home, logged, calibration, tmp_path):
    strict = road_config(model=NAME, gate={"min_roc_auc": 0.99})
    with bento_store(tmp_path / "bento") as store:
        found = adopt(logged[1]["xgb"], calibration, strict, home.settings, lambda _: None)
        assert (found.tag, found.version, list(store.iterdir())) == (None, "1", [])
    assert found.gate.failed_rules == ("roc_auc",)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no proba", "LinearSVC is no classifier with predict_proba"),
        ("no nan", "missing values are NaN"),
        ("too narrow", "takes 3 features, v1 has 11"),
        ("other labels", "predicts no, yes, and the labels of .* are 0, 1: name the levels of the label column"),
        ("regression", "objective reg:squarederror"),
    ],
)
def test_what_cannot_become_one_of_ours_is_refused_in_one_line(bring, home, name, words):
    with pytest.raises(ArtefactError, match=words) as caught:
        bring(name, trust_pickle=True)
    assert "\n" not in str(caught.value)
    assert NAME not in home.registry.names()


def test_one_of_ours_is_imported_without_calibration(bring):
    with pytest.raises(RegistryError, match="is a surety model already"):
        bring("ours")


@pytest.mark.parametrize(
    "uri", ["models:/nobody/1", "models:/their_risk@champion", f"models:/m-{'0' * 32}", "ftp://x", "models:/"]
)
def test_an_uri_with_nothing_behind_it_is_a_one_line_error(home, calibration, uri):
    with pytest.raises(RegistryError) as caught:
        adopt(uri, calibration, home.config, home.settings, lambda _: None)
    assert "\n" not in str(caught.value)


def test_a_model_file_outside_its_folder_is_refused(home, logged, calibration):
    registry = home.registry
    import yaml

    with registry.session("x") as mlflow:
        place = Path(
            mlflow.get_logged_model(logged[1]["booster"].removeprefix("models:/")).artifact_location.removeprefix(
                "file://"
            )
        )
    described = yaml.safe_load((place / "MLmodel").read_text())
    kept = (place / "MLmodel").read_text()
    described["flavors"]["xgboost"]["data"] = "../../../../etc/passwd"
    try:
        (place / "MLmodel").write_text(yaml.safe_dump(described))
        with pytest.raises(ArtefactError, match="names no model file beside it"):
            adopt(logged[1]["booster"], calibration, home.config, home.settings, lambda _: None)
    finally:
        (place / "MLmodel").write_text(kept)


def test_the_source_block_holds_the_hash_of_the_foreign_file(home, bring, logged, tmp_path):
    with bento_store(tmp_path / "bento"):
        folder = Path(ModelLoader(home.settings)._find(bring("booster").tag)[0]) / BUNDLE_IN_BENTO_MODEL
    manifest, _, _ = verify_folder(folder)
    with home.registry.downloaded(logged[1]["booster"]) as mlflow_model:
        assert manifest.source.model_sha256 == hashlib.sha256((mlflow_model / "model.json").read_bytes()).hexdigest()
    assert read_bundle(folder).manifest.source.uri == logged[1]["booster"]


def test_it_cannot_be_judged_without_rows(home, bring, calibration, tmp_path):
    with bento_store(tmp_path / "bento"):
        bring("xgb")
    version = home.registry.by_alias(NAME, "challenger")
    with pytest.raises(DataError, match="give the rows with --data"):
        validate_deployment(home.registry, version, home.config, home.settings)
    assert validate_deployment(home.registry, version, home.config, home.settings, data=calibration).passed
    assert promote_version(home.registry, version, home.config, home.settings, data=calibration).decision == "promoted"


def test_without_a_configuration_the_defaults_hold(calibration):
    config = adoption_config(NAME, "v1", calibration, None)
    assert (config.model, config.feature_version, config.data) == (NAME, "v1", DataConfig(source=calibration))


@pytest.mark.parametrize(("name", "version", "words"), [("x", "v1", "model"), (NAME, "v2", "feature_version")])
def test_a_configuration_of_another_model_or_version_is_refused(tmp_path, calibration, name, version, words):
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {NAME}\nfeature_version: v1\ndata: {{source: x.parquet}}\n")
    with pytest.raises(ConfigError, match=words):
        adoption_config(name, version, calibration, path)
