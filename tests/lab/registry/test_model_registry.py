from __future__ import annotations

import os
import socket
import stat
import threading

import pytest

from ml_core.base.errors import RegistryError, RegistryUnreachable
from ml_core.lab.registry.model_registry import CHALLENGER, CHAMPION, ModelRegistry, quiet_environment
from ml_core.serve.model.bundle import read_bundle
from tests.homes import MODEL, Home, registered_home, road_model, settings_in


@pytest.fixture
def home(tmp_path) -> Home:
    return registered_home(tmp_path / "home")


def test_a_version_is_found_by_alias_number_and_run(home):
    registry = home.registry
    by_alias = registry.by_alias(MODEL, CHALLENGER)
    assert by_alias == registry.by_version(MODEL, "1") == registry.by_run(MODEL, by_alias.run_id)
    assert (by_alias.aliases, by_alias.model_hash) == ((CHALLENGER,), road_model().model_hash)


def test_a_version_is_found_by_uri(home):
    registry = home.registry
    run = registry.by_version(MODEL, "1").run_id
    for uri in (f"models:/{MODEL}/1", f"models:/{MODEL}@challenger", f"runs:/{run}/model"):
        assert registry.by_uri(uri).version == "1"
    assert registry.fixed_uri(f"models:/{MODEL}@challenger") == f"models:/{MODEL}/1"


@pytest.mark.parametrize("uri", ["models:/", "models:/a/b/c", "s3://bucket/x", "/etc/passwd", "runs:/short/model", ""])
def test_other_uris_are_refused(home, uri):
    for read in (home.registry.by_uri, home.registry.fixed_uri):
        with pytest.raises(RegistryError, match="is no models:/NAME"):
            read(uri)


def test_production_means_the_champion(home):
    registry = home.registry
    registry.set_alias(registry.by_version(MODEL, "1"), CHAMPION)
    assert registry.by_alias(MODEL, "Production").aliases == (CHALLENGER, CHAMPION)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda r: r.by_alias(MODEL, CHAMPION), "no version of readmission_risk has the alias champion"),
        (lambda r: r.by_alias("nobody", CHAMPION), "nobody"),
        (lambda r: r.by_version(MODEL, "99"), "99"),
        (lambda r: r.by_version(MODEL, "x"), "version"),
        (lambda r: r.by_run(MODEL, "0" * 32), "no version came out of that run"),
        (lambda r: r.by_uri(f"runs:/{'0' * 32}/model"), "0 registered versions"),
        (lambda r: r.versions("nobody"), "nobody"),
    ],
    ids=["alias", "model", "version", "no number", "run", "run uri", "versions"],
)
def test_what_is_not_there_is_a_one_line_registry_error(home, ask, words):
    with pytest.raises(RegistryError, match=words) as caught:
        ask(home.registry)
    assert "\n" not in str(caught.value)


def test_metrics_of_a_version_are_those_of_its_logged_model(home):
    assert home.registry.metrics(home.challenger()) == pytest.approx(road_model().evaluation.metrics)


def test_tags_are_set_and_taken_away(home):
    registry, version = home.registry, home.challenger()
    registry.set_tags(version, {"stage": "Production", "absent": None})
    assert home.challenger().tags["stage"] == "Production"
    registry.set_tags(home.challenger(), {"stage": None})
    assert "stage" not in home.challenger().tags


def test_a_download_is_private_whole_and_gone_afterwards(home):
    with home.registry.bundle_folder(home.challenger()) as folder:
        place = next(p for p in folder.parents if p.name.startswith("surety-model-"))
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert read_bundle(folder).model_hash == road_model().model_hash
        assert not (folder.parents[1] / "registered_model_meta").exists()
    assert not place.exists()


def test_everything_lies_in_home_unless_told_otherwise(home):
    registry, place = home.registry, home.settings.home
    experiment = registry.experiment("somebody")
    assert registry.experiment("somebody") == experiment
    with registry.session("x") as mlflow:
        location = mlflow.get_experiment(experiment).artifact_location
    assert location == (place / "mlartifacts" / "somebody").as_uri()
    assert registry.uri == f"sqlite:///{place / 'mlflow.db'}"


def test_a_relative_home_gives_absolute_places(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    assert ModelRegistry(settings_in(Path("rel"))).uri == f"sqlite:///{tmp_path}/rel/mlflow.db"


def test_the_environment_is_left_as_it_was_and_stdout_is_clean(home, capsys):
    home.registry.versions(MODEL)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert capsys.readouterr().out == ""


def test_the_users_tracking_uri_decides(home, tmp_path, monkeypatch):
    uri = f"sqlite:///{home.settings.home}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    registry = ModelRegistry(settings_in(tmp_path / "another"))
    assert (registry.uri, registry.names()) == (uri, [MODEL])
    assert os.environ["MLFLOW_TRACKING_URI"] == uri


@pytest.mark.timeout(90)  # MLflow itself would try for minutes
def test_a_server_that_is_not_there_is_told_at_once(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:secret@127.0.0.1:{port}")
    with pytest.raises(RegistryUnreachable, match="cannot be reached") as caught:
        ModelRegistry(settings_in(tmp_path))
    assert "secret" not in str(caught.value)


@pytest.mark.timeout(90)  # MLflow itself would try for minutes
def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(RegistryUnreachable, match="cannot be reached"):
            ModelRegistry(settings_in(tmp_path))


def test_mlflow_is_told_to_give_up_within_ten_seconds_unless_the_user_says_otherwise(monkeypatch):
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    quiet_environment()
    assert (
        int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) * (1 + int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])) < 10
    )
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    quiet_environment()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


@pytest.mark.timeout(90)  # MLflow itself would try for minutes
def test_a_server_that_falls_silent_later_is_given_up_as_well(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as server:
        answered = threading.Thread(target=_answer_once, args=(server,), daemon=True)
        answered.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        registry = ModelRegistry(settings_in(tmp_path))
        with pytest.raises(RegistryUnreachable):
            registry.by_alias(MODEL, CHAMPION)


def _answer_once(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")
