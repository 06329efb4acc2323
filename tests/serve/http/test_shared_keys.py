"""API keys of a service on many machines: in its database, obeyed by every machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.http.access import Access
from ml_core.serve.http.api_keys import KeyPlace, add_key, is_guarded, revoke_key
from ml_core.serve.http.replies import Refused
from tests.postgres import Server, server
from tests.waiting import soon


@pytest.fixture(scope="module")
def database_server() -> Iterator[Server]:
    with server(durable=True) as found:
        yield found


@pytest.fixture
def settings(database_server: Server, tmp_path: Path) -> Iterator[tuple[Settings, Settings]]:
    """Of two machines."""
    url = database_server.new_database()
    found = tuple(Settings(home=tmp_path / name, database=url, machine=name, poll_s=0.02) for name in ("a", "b"))
    yield found  # type: ignore[misc]
    for each in found:
        open_home(each).close()


def place_of(settings: Settings) -> KeyPlace:
    found = KeyPlace.of(settings)
    assert found is not None
    return found


def is_let_in(access: Access, key: str = "") -> bool:
    try:
        access.admit("/predict", [(b"authorization", f"Bearer {key}".encode())] if key else [])
    except Refused:
        return False
    return True


def test_the_first_key_guards_every_machine_and_a_revoked_one_opens_none(settings: tuple[Settings, Settings]) -> None:
    here, there = settings
    access = Access(there)
    assert is_let_in(access)
    assert not is_guarded(there)
    key = add_key(place_of(here), "ward", ["predict"])
    soon(lambda: not is_let_in(access))
    soon(lambda: is_let_in(access, key))
    assert is_guarded(there)
    revoke_key(place_of(here), "ward")
    soon(lambda: not is_let_in(access, key))
    assert not is_let_in(access)  # the last key's end does not open the service


def test_a_file_that_is_named_comes_before_the_keys_of_the_home(settings: tuple[Settings, Settings]) -> None:
    here, there = settings
    of_home = add_key(place_of(here), "ward", ["predict"])
    file = there.home / "keys.json"
    of_file = add_key(file, "ward", ["predict"])
    access = Access(there.model_copy(update={"api_keys_file": file}))
    assert is_let_in(access, of_file)
    assert not is_let_in(access, of_home)


def test_nobody_is_let_in_before_the_keys_are_known(settings: tuple[Settings, Settings], tmp_path: Path) -> None:
    nowhere = Settings(home=tmp_path / "c", database="postgresql://127.0.0.1:9/home", machine="c")
    access = Access(nowhere)
    assert access.is_guarded
    assert is_guarded(nowhere)
    with pytest.raises(Refused) as refused:
        access.admit("/predict", [])
    assert refused.value.code == "home_unreachable"
    access.admit("/livez", [])
    open_home(nowhere).close()


def test_keys_that_are_known_stay_valid_while_the_database_is_away(
    settings: tuple[Settings, Settings], database_server: Server
) -> None:
    key = add_key(place_of(settings[0]), "ward", ["predict"])
    access = Access(settings[1])
    assert is_let_in(access, key)
    database_server.stop("immediate")
    try:
        soon(lambda: open_home(settings[1]).documents.glimpse("keys.json").seen_s > 0.9)
        assert is_let_in(access, key)
        assert not is_let_in(access)
    finally:
        database_server.start()


def test_a_home_in_a_folder_has_no_keys_of_its_own(tmp_path: Path) -> None:
    assert KeyPlace.of(Settings(home=tmp_path)) is None
    assert not is_guarded(Settings(home=tmp_path))
