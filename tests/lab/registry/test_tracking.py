from __future__ import annotations

import subprocess
import sys

import pytest

from ml_core.lab.registry.tracking import _own_module, code_state, register, travelling_code
from ml_core.lab.training.labelled_rows import label_rows
from ml_core.lab.training.learner import train_model
from ml_core.serve.features.table_versions import STANDARD, table_version
from ml_core.serve.features.versions import get_feature_version, module_version, register_version
from tests.homes import MODEL, registered_home, road_config, road_model, road_rows
from tests.toy_models import toy_config, toy_frame


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return registered_home(tmp_path_factory.mktemp("tracking") / "home")


@pytest.fixture(scope="module")
def run(home):
    with home.registry.session("run") as mlflow:
        return mlflow.MlflowClient().get_run(home.challenger().run_id)


def test_parameters_and_metrics_are_tracked(run):
    assert run.data.params["max_depth"] == "3"
    assert run.data.params["rows_calibration"] == str(road_rows().counts["calibration"])
    assert run.data.params["split_salt"] == road_config().split.salt
    assert run.data.metrics["roc_auc"] == pytest.approx(road_model().evaluation.metrics["roc_auc"])
    assert "coverage_class_1" in run.data.metrics


def test_data_and_code_can_be_found_again(run, home):
    assert (run.data.tags["delta_table"], run.data.tags["delta_version"]) == ("v1", "0")
    assert run.data.tags["model_hash"] == road_model().model_hash
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "table v1 version 0"
    assert home.challenger().tags["model_hash"] == road_model().model_hash


def test_no_row_is_tracked(run):
    (dataset,) = run.inputs.dataset_inputs
    patients = road_rows().groups[:50].tolist()
    assert not any(patient in dataset.dataset.to_dictionary().__repr__() for patient in patients)


def test_plots_are_kept_as_pictures(run, home):
    with home.registry.session("run") as mlflow:
        names = {f.path for f in mlflow.MlflowClient().list_artifacts(run.info.run_id, "plots")}
    assert names == {f"plots/{n}.png" for n in ("calibration_curve", "roc", "set_sizes", "coverage")}


def test_the_very_same_model_is_registered_once(home):
    version, is_new = register(home.registry, road_model(), road_config(), road_rows(), {})
    assert (version.version, is_new, version.aliases) == ("1", False, ("challenger",))
    assert len(home.registry.versions(MODEL)) == 1


def test_the_commit_is_known_only_where_git_keeps_this_code(monkeypatch, tmp_path):
    from ml_core.lab.registry import tracking

    package = tmp_path / "ml_core"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(tracking, "_PACKAGE", package)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_state() == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "of something else"], check=True)
    assert code_state() == {}
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    clean = code_state()
    (package / "new.py").write_text("")
    assert (len(clean["code_commit"]), clean["code_dirty"], code_state()["code_dirty"]) == (40, "false", "true")


READ = """
import pathlib, sys
sys.path = [p for p in sys.path if not (pathlib.Path(p) / "ml_core").is_dir()]
sys.path.insert(0, sys.argv[1])
from ml_core.serve.model.bundle import read_bundle
from ml_core.serve.model.predictor import Predictor, check_golden
bundle = read_bundle(pathlib.Path(sys.argv[2]))
check_golden(Predictor(bundle))
print(bundle.features.name, bundle.features.source)
"""
DECADES = """
import numpy as np
FEATURE_NAMES = ("decades", "glucose")
def transform(columns):
    return np.stack([columns["age"] / 10, columns["glucose"]], axis=1).astype(np.float32)
"""


@pytest.mark.parametrize("transform", [STANDARD, "tens"])
def test_what_travels_is_enough_for_a_column_table_and_for_a_module_of_ones_own(tmp_path, transform):
    (tmp_path / "tens.py").write_text(DECADES)
    register_version(module_version(tmp_path / "tens.py"))
    version = table_version(get_feature_version("v1").columns, transform)
    rows = label_rows(toy_frame(), version.name, toy_config().split, "toy cohort")
    model = train_model(toy_config(feature_version=version.name), rows, tmp_path / "bundle", lambda _: None)
    travelling_code(tmp_path / "code")
    _own_module(model, tmp_path / "code")
    command = [sys.executable, "-I", "-c", READ, str(tmp_path / "code"), str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    beside = tmp_path / "code" / "surety_features" / "tens.py"
    assert done.stdout.split() == [version.name, str(beside if transform == "tens" else None)]


def test_only_what_the_pyfunc_needs_travels(tmp_path):
    root = travelling_code(tmp_path)
    files = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    assert files >= {
        "__init__.py",
        "base/errors.py",
        "features/columns.py",
        "serve/features/v1.py",
        "serve/features/v2.py",
        "serve/model/predictor.py",
        "lab/data/frames.py",
    }
    assert not any(
        p.endswith((".pyc", "model_registry.py", "feature_store.py", "settings.py", "config.py")) for p in files
    )
    never = (
        "serve/answering",
        "serve/log",
        "serve/http",
        "serve/running",
        "lab/journeys",
        "lab/training",
        "lab/registry",
    )
    assert not any(p.startswith(never) for p in files)
