"""`surety home`: what is typed, what is said, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from tests import oracles
from tests.cli.typing_surety import Told
from tests.lab.home_care.lived_in import MODEL, lived_in, said_by_database, said_by_folder

Typed = Callable[..., Told]


@pytest.fixture
def lived(tmp_path: Path, run: Typed) -> Settings:
    """The home of whoever types, with something of every kind in it."""
    oracles.cluster_packages()
    return lived_in(tmp_path / "home", rows=8)


@pytest.fixture
def with_api_keys(lived: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("SURETY_API_KEYS_FILE", str(lived.api_keys_file))
    return lived


def test_a_home_moves_to_a_database_and_is_used_there(
    with_api_keys: Settings, run: Typed, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, objects = with_api_keys.home, str(tmp_path / "objects")
    planned = run("home", "copy", "--to", database_url, "--objects", objects, "--dry-run").result
    assert planned["models"] == [MODEL]
    told = run("home", "copy", "--to", database_url, "--objects", objects)
    assert (told.code, told.result["is_final"], told.result["models"][0]["verified"]) == (0, True, True)
    assert str(home / "log.key") in told.err
    assert run("home", "copy", "--to", database_url, "--objects", objects).result["changed"] == 0
    for name, value in {
        "HOME": tmp_path / "ward-1",
        "DATABASE": database_url,
        "OBJECTS": objects,
        "LOG_KEY_FILE": home / "log.key",
        "SUBJECT_KEY_FILE": home / "subject.key",
    }.items():
        monkeypatch.setenv(f"SURETY_{name}", str(value))
    monkeypatch.delenv("SURETY_API_KEYS_FILE")
    checked = run("home", "check")
    assert (checked.code, checked.result["whole"], checked.result["found"]) == (0, True, [])
    assert [each["name"] for each in run("keys", "list").result] == ["ward-7"]
    assert run("log", "verify").code == 0
    assert run("home", "migrate").result["changed"] == 0
    back = run("home", "copy", "--to", str(tmp_path / "back"))
    assert (back.code, back.result["is_final"]) == (0, True)
    assert said_by_folder(tmp_path / "back") == said_by_folder(home) == said_by_database(database_url, objects)


def test_what_is_wrong_ends_with_three(lived: Settings, run: Typed) -> None:
    (model,) = lived.models.glob("*/*")
    next(model.rglob("model.onnx")).unlink()
    told = run("home", "check", "--quick")
    assert (told.code, told.result["whole"], told.result["found"][0]["what"]) == (3, False, "models")


def test_nothing_to_look_at_ends_with_four(run: Typed) -> None:
    told = run("home", "check")
    assert (told.code, "empty" in told.err) == (4, True)


def test_addresses_that_are_none_are_wrong_usage(run: Typed, tmp_path: Path) -> None:
    assert run("home", "copy", "--to", "s3://bucket").code == 2
    assert run("home", "copy", "--to", str(tmp_path / "x"), "--objects", str(tmp_path / "y")).code == 2


def test_a_home_that_is_not_there_is_said_in_one_line(run: Typed, database_url: str, tmp_path: Path) -> None:
    told = run("home", "copy", "--to", database_url, "--objects", str(tmp_path / "objects"))
    assert (told.code, told.err.count("\n")) == (1, 1)
    assert "is no folder: it names the home to copy" in told.err


def test_the_password_of_a_database_is_shown_nowhere(lived: Settings, run: Typed, tmp_path: Path) -> None:
    away = "postgresql://surety:hunter2@127.0.0.1:1/home"
    told = run("home", "copy", "--to", away, "--objects", str(tmp_path / "objects"))
    assert told.code == 1
    assert "hunter2" not in told.out + told.err
    assert open_home(lived).journal.texts()
