"""The secret keys of a home on many machines: from outside, and the same everywhere, or the start is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.key_register import check_outside_keys
from tests.postgres import Server

SUBJECTS, LOG, NEWER = "5a" * 32, "10" * 32, "77" * 32


@pytest.fixture
def url(database_server: Server) -> str:
    return database_server.new_database()


def machine(folder: Path, url: str, name: str, *, subjects: str = SUBJECTS, log: str = LOG) -> Settings:
    """A machine with its files of keys."""
    home = folder / name
    home.mkdir(exist_ok=True)
    for file, content in (("subjects.txt", subjects), ("log.txt", log)):
        (home / file).write_text(content)
    files = {"subject_key_file": home / "subjects.txt", "log_key_file": home / "log.txt"}
    return Settings(home=home, database=url, machine=name, **files)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Homes that a test opened are given back."""
    from ml_core.serve.home import homes

    before = set(homes._opened)
    yield
    for key in homes._opened.keys() - before:
        homes._opened[key].close()


def test_machines_with_the_same_keys_may_start(tmp_path: Path, url: str) -> None:
    for name in ("a", "b", "a"):
        check_outside_keys(machine(tmp_path, url, name))


@pytest.mark.parametrize(
    ("missing", "variable"),
    [("subject_key_file", "SURETY_SUBJECT_KEY_FILE"), ("log_key_file", "SURETY_LOG_KEY_FILE")],
)
def test_a_machine_without_a_key_is_refused_and_told_how_to_make_one(
    tmp_path: Path, url: str, missing: str, variable: str
) -> None:
    settings = machine(tmp_path, url, "a").model_copy(update={missing: None})
    with pytest.raises(ConfigError, match=rf"{variable}: must name a file .*openssl rand"):
        check_outside_keys(settings)


@pytest.mark.parametrize(
    ("other", "variable"), [({"subjects": NEWER}, "SURETY_SUBJECT_KEY_FILE"), ({"log": NEWER}, "SURETY_LOG_KEY_FILE")]
)
def test_a_machine_with_another_key_is_refused(tmp_path: Path, url: str, other: dict[str, str], variable: str) -> None:
    check_outside_keys(machine(tmp_path, url, "a"))
    with pytest.raises(ConfigError, match=f"{variable}: lacks 1 of the 1 keys") as refused:
        check_outside_keys(machine(tmp_path, url, "b", **other))
    assert not any(key in str(refused.value) for key in (SUBJECTS, LOG, NEWER))
    check_outside_keys(machine(tmp_path, url, "a"))


def test_a_new_key_above_the_old_ones_is_taken_up_and_then_asked_of_all(tmp_path: Path, url: str) -> None:
    check_outside_keys(machine(tmp_path, url, "a"))
    check_outside_keys(machine(tmp_path, url, "a", subjects=f"{NEWER}\n{SUBJECTS}"))
    with pytest.raises(ConfigError, match="lacks 1 of the 2 keys"):
        check_outside_keys(machine(tmp_path, url, "b"))
    check_outside_keys(machine(tmp_path, url, "b", subjects=f"{NEWER}\n{SUBJECTS}"))


def test_the_home_keeps_no_key(tmp_path: Path, url: str) -> None:
    settings = machine(tmp_path, url, "a")
    check_outside_keys(settings)
    kept = open_home(settings).documents.read("known_keys.json")
    assert kept is not None
    assert not any(key.encode() in kept for key in (SUBJECTS, LOG))


def test_a_home_in_a_folder_makes_its_keys_itself(tmp_path: Path) -> None:
    check_outside_keys(Settings(home=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_while_the_database_is_away_the_files_alone_are_looked_at(tmp_path: Path) -> None:
    settings = machine(tmp_path, "postgresql://127.0.0.1:9/home", "a")
    check_outside_keys(settings)
    settings.subject_key_file.unlink()  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="cannot be read"):
        check_outside_keys(settings)
