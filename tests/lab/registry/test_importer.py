from __future__ import annotations

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ml_core.base.errors import ArtefactError, RegistryError
from ml_core.base.journal import Journal
from ml_core.lab.registry.importer import import_version, stored_path
from ml_core.serve.model.bundle import MANIFEST_FILE, ONNX_FILE, read_bundle
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL
from ml_core.serve.model.vouching import Vouchers, keep_gate
from tests.homes import MODEL, Home, bento_store, registered_home, remade, road_model
from tests.toy_models import passed_gate


@pytest.fixture
def home(tmp_path) -> Home:
    return registered_home(tmp_path / "home")


@pytest.fixture
def store(tmp_path):
    with bento_store(tmp_path / "bento") as folder:
        yield folder


def test_the_tag_follows_from_name_version_and_hash(home, store):
    found = import_version(home.registry, home.challenger(), home.settings)
    assert found.tag == f"{MODEL}:v1-{road_model().model_hash[:8]}"
    assert read_bundle(Path(found.path) / BUNDLE_IN_BENTO_MODEL).model_hash == road_model().model_hash


def test_importing_twice_is_importing_once(home, store):
    first = import_version(home.registry, home.challenger(), home.settings)
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    second = import_version(home.registry, home.challenger(), home.settings)
    assert (first.is_new, second.is_new, second.tag) == (True, False, first.tag)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before
    assert [e["event"] for e in Journal(home.settings.journal).entries()] == ["model.imported"]


def test_where_it_came_from_stands_in_labels_and_metadata(home, store):
    import bentoml

    info = bentoml.models.get(import_version(home.registry, home.challenger(), home.settings).tag).info
    expected = {
        "mlflow_name": MODEL,
        "mlflow_version": "1",
        "mlflow_run_id": home.challenger().run_id,
        "model_hash": road_model().model_hash,
    }
    assert (dict(info.labels), dict(info.metadata)) == (expected, expected)


def test_the_gate_report_travels_beside_the_artefact_and_is_refreshed(home, store):
    assert import_version(home.registry, home.challenger(), home.settings).gate == "none"
    for passed, word in ((False, "refused"), (True, "passed")):
        report = passed_gate(road_model().model_hash, passed=passed)
        keep_gate(home.settings, report, "1")
        found = import_version(home.registry, home.challenger(), home.settings)
        assert found.gate == word
        assert Vouchers(home.settings).verdict_beside(Path(found.path)) == report


def test_a_dry_run_stores_nothing(home, store):
    found = import_version(home.registry, home.challenger(), home.settings, dry_run=True)
    assert (found.tag, found.is_new) == (f"{MODEL}:v1-{road_model().model_hash[:8]}", True)
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("damage", ["no model.yaml", "no bundle", "flipped byte", "code of MLflow", "empty folder"])
def test_half_an_import_is_noticed_and_redone(home, store, damage):
    tag = import_version(home.registry, home.challenger(), home.settings).tag
    folder = stored_path(tag)
    if damage == "no model.yaml":
        (folder / "model.yaml").unlink()
    elif damage == "no bundle":
        shutil.rmtree(folder / BUNDLE_IN_BENTO_MODEL)
    elif damage == "flipped byte":
        onnx = folder / BUNDLE_IN_BENTO_MODEL / ONNX_FILE
        onnx.write_bytes(onnx.read_bytes()[:-1] + b"\x00")
    elif damage == "code of MLflow":  # as versions before left it there
        (folder / "mlflow_model" / "code").mkdir()
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    found = import_version(home.registry, home.challenger(), home.settings)
    assert (found.tag, found.is_new) == (tag, True)
    assert read_bundle(stored_path(tag) / BUNDLE_IN_BENTO_MODEL).model_hash == road_model().model_hash


def test_a_broken_neighbour_does_not_stop_an_import(home, store):
    (store / MODEL / "v9-00000000").mkdir(parents=True)
    found = import_version(home.registry, home.challenger(), home.settings)
    assert read_bundle(Path(found.path) / BUNDLE_IN_BENTO_MODEL).model_hash == road_model().model_hash


def test_an_artefact_that_is_not_the_registered_one_is_refused(home, store, tmp_path):
    version = home.challenger()
    wrong = type(version)(**{**{f: getattr(version, f) for f in version.__slots__}, "tags": {"model_hash": "0" * 64}})
    with pytest.raises(ArtefactError, match=MANIFEST_FILE):
        import_version(home.registry, wrong, home.settings)
    assert list(store.iterdir()) == []


def test_the_model_of_another_name_is_refused(home, store):
    registry = home.registry
    with registry.session("x") as mlflow:
        mlflow.register_model(f"models:/{home.challenger().model_id}", "impostor")
    with pytest.raises(ArtefactError, match="is of the model readmission_risk, not of impostor"):
        import_version(registry, registry.by_version("impostor", "1"), home.settings)


def test_a_model_that_is_not_ours_is_refused_in_one_line(home, store):
    from sklearn.linear_model import LogisticRegression

    registry = home.registry
    experiment = registry.experiment("other")
    with registry.session("x") as mlflow, mlflow.start_run(experiment_id=experiment):
        model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
        mlflow.sklearn.log_model(
            model,
            name="m",
            registered_model_name="foreign",
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
        )
    with pytest.raises(RegistryError, match="is no surety model") as caught:
        import_version(registry, registry.by_version("foreign", "1"), home.settings)
    assert "\n" not in str(caught.value)


def test_a_name_bentoml_cannot_take_is_refused_in_one_line(home, store, tmp_path):
    registry, name = home.registry, "x" * 80
    from ml_core.lab.registry.tracking import register
    from tests.homes import road_config, road_rows

    remade(road_model().folder, tmp_path / "b", name=name)
    renamed = replace(road_model(), folder=tmp_path / "b", bundle=read_bundle(tmp_path / "b"))
    version, _ = register(registry, renamed, road_config(model=name), road_rows(), {})
    with pytest.raises(RegistryError, match="BentoML cannot store it") as caught:
        import_version(registry, version, home.settings)
    assert "\n" not in str(caught.value)


def killed_at(step: int, work) -> bool:
    """Run ``work`` in a child that is killed at its n-th change below a Bento store; whether it came that far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, args: tuple) -> None:
            nonlocal seen
            if event in CHANGES and "bento" in str(args[0]):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


CHANGES = {
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "shutil.copytree",
    "shutil.copyfile",
    "shutil.move",
    "shutil.rmtree",
}


def test_killed_at_any_point_the_next_import_makes_it_whole(home, store):
    tag = f"{MODEL}:v1-{road_model().model_hash[:8]}"
    registry, version = home.registry, home.challenger()
    killed = []
    for step in (1, 4, 10, 20, 40, 60, 75, 90, 105, 120, 10_000):
        killed.append(killed_at(step, lambda: import_version(registry, version, home.settings)))
        found = import_version(registry, version, home.settings)
        assert found.tag == tag
        assert read_bundle(Path(found.path) / BUNDLE_IN_BENTO_MODEL).model_hash == road_model().model_hash
        shutil.rmtree(store / MODEL)
    assert sum(killed) >= 5
    assert not killed[-1]
