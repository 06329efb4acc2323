from __future__ import annotations

import subprocess

import pytest

from ml_core.lab.registry.tracking import code_state, register, travelling_code
from tests.homes import MODEL, registered_home, road_config, road_model, road_rows


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
