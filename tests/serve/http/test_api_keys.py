"""The file of keys, and the ring of keys that a worker holds."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from ml_core.base.clock import utc_now
from ml_core.base.errors import ConfigError
from ml_core.serve.http.api_keys import ROLES, KeyRing, add_key, fingerprint, read_api_keys, revoke_key


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_new_key_is_known_by_its_name_and_roles(file: Path) -> None:
    key = add_key(file, "ward-7", ["predict", "label"])
    holder = KeyRing(file, 0.5).holder(key.encode())
    assert holder is not None
    assert (holder.name, holder.roles) == ("ward-7", ("predict", "label"))


def test_file_holds_no_key(file: Path) -> None:
    key = add_key(file, "ward-7", ["predict"])
    assert key.removeprefix("surety_") not in file.read_text()
    assert fingerprint(key.encode()) in file.read_text()


def test_keys_are_random(file: Path) -> None:
    keys = [add_key(file, f"k{i}", ["predict"]) for i in range(50)]
    assert len(set(keys)) == 50
    assert all(len(k.removeprefix("surety_")) >= 43 for k in keys)  # 256 bits


@pytest.mark.parametrize(
    "presented", [b"", b"surety_", b"\xff\x00", b"x" * 100_000], ids=["empty", "prefix", "bytes", "long"]
)
def test_anything_else_is_nobodys(file: Path, presented: bytes) -> None:
    add_key(file, "ward-7", ["predict"])
    assert KeyRing(file, 0.5).holder(presented) is None


def test_a_part_of_a_key_or_its_hash_is_nobodys(file: Path) -> None:
    key = add_key(file, "ward-7", ["predict"])
    ring = KeyRing(file, 0.5)
    for near in (key[:-1], key + "A", key.lower(), key.upper(), fingerprint(key.encode())):
        assert ring.holder(near.encode()) is None


def test_several_keys_are_valid_at_once(file: Path) -> None:
    keys = {name: add_key(file, name, ["predict"]) for name in ("old", "new", "other")}
    ring = KeyRing(file, 0.5)
    for name, key in keys.items():
        holder = ring.holder(key.encode())
        assert holder is not None
        assert holder.name == name


def test_admin_has_every_role_and_others_only_theirs(file: Path) -> None:
    for role in ROLES:
        add_key(file, role, [role])
    for key in read_api_keys(file).keys:
        assert {r for r in ROLES if key.may(r)} == (set(ROLES) if key.name == "admin" else {key.name})


def test_expired_key_is_nobodys(file: Path) -> None:
    soon = add_key(file, "soon", ["predict"], expires_at=utc_now() + timedelta(hours=1))
    past = add_key(file, "past", ["predict"], expires_at=utc_now() - timedelta(seconds=1))
    ring = KeyRing(file, 0.5)
    assert ring.holder(soon.encode()) is not None
    assert ring.holder(past.encode()) is None


def test_ring_sees_new_and_revoked_keys_at_its_next_look(file: Path) -> None:
    clock = Clock()
    old = add_key(file, "old", ["predict"])
    ring = KeyRing(file, 0.5, clock)
    new = add_key(file, "new", ["predict"])
    revoke_key(file, "old")
    assert ring.holder(old.encode()) is not None  # it has not looked yet
    clock.now += 0.5
    assert ring.holder(old.encode()) is None
    assert ring.holder(new.encode()) is not None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"keys": [{"name": "x"}]}', None])
def test_damaged_or_lost_file_changes_nothing_and_is_told(file: Path, damage: str | None) -> None:
    clock = Clock()
    key = add_key(file, "ward-7", ["predict"])
    ring = KeyRing(file, 0.5, clock)
    whole = file.read_bytes()
    if damage is None:
        file.unlink()
    else:
        file.write_text(damage)
    clock.now += 1
    assert ring.holder(key.encode()) is not None
    assert ring.problem is not None
    file.write_bytes(whole)
    clock.now += 1
    assert ring.holder(key.encode()) is not None
    assert ring.problem is None


def test_ring_does_not_begin_without_a_file(file: Path) -> None:
    with pytest.raises(ConfigError, match="surety keys add"):
        KeyRing(file, 0.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda k: k | {"roles": []},
        lambda k: k | {"roles": ["root"]},
        lambda k: k | {"sha256": "short"},
        lambda k: k | {"name": "a b"},
        lambda k: k | {"made_at": "2026-11-24T10:00:00"},  # in which zone?
        lambda k: k | {"per_second": 0},
        lambda k: k | {"more": 1},
    ],
)
def test_file_with_a_wrong_entry_is_refused(file: Path, change: object) -> None:
    add_key(file, "ward-7", ["predict"])
    entry = json.loads(file.read_text())["keys"][0]
    file.write_text(json.dumps({"keys": [change(entry)]}))  # type: ignore[operator]
    with pytest.raises(ConfigError):
        read_api_keys(file)


@pytest.mark.parametrize("same", ["name", "sha256"])
def test_file_with_an_entry_twice_is_refused(file: Path, same: str) -> None:
    add_key(file, "a", ["predict"])
    add_key(file, "b", ["admin"])
    first, second = json.loads(file.read_text())["keys"]
    file.write_text(json.dumps({"keys": [first, second | {same: first[same]}]}))
    with pytest.raises(ConfigError):
        read_api_keys(file)


def test_taken_name_is_refused_and_the_first_key_stays(file: Path) -> None:
    key = add_key(file, "ward-7", ["predict"])
    with pytest.raises(ConfigError, match="already"):
        add_key(file, "ward-7", ["admin"])
    assert KeyRing(file, 0.5).holder(key.encode()) is not None


def test_adding_never_writes_over_a_file_that_is_something_else(file: Path) -> None:
    file.write_text("notes")
    with pytest.raises(ConfigError):
        add_key(file, "ward-7", ["predict"])
    assert file.read_text() == "notes"


def test_no_key_is_lost_when_many_are_added_at_once(file: Path) -> None:
    threads = [threading.Thread(target=add_key, args=(file, f"k{i}", ["predict"])) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {k.name for k in read_api_keys(file).keys} == {f"k{i}" for i in range(20)}
