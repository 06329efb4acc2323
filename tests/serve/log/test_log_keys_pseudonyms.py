"""A subject has one pseudonym, whichever process asks, and nobody can tell whose it is without the key."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path

import pytest

from ml_core.base.errors import ConfigError
from ml_core.serve.log import log_keys as module
from ml_core.serve.log.log_keys import Pseudonyms
from tests.serve.log.builders import small_disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the key lies; not there yet."""
    return tmp_path / "home" / "subject.key"


def test_the_key_is_made_once_and_for_its_owner_alone(path: Path) -> None:
    first = Pseudonyms(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(bytes.fromhex(path.read_text().strip())) == 32
    assert list(path.parent.iterdir()) == [path]
    assert Pseudonyms(path).of("Ann") == first.of("Ann")
    assert Pseudonyms(path.with_name("other")).of("Ann") != first.of("Ann")


def test_a_pseudonym_is_the_keyed_hmac_of_the_subject(path: Path) -> None:
    found = Pseudonyms(path).of("Zoë 7")
    key = bytes.fromhex(path.read_text().strip())
    assert found == hmac.new(key, "Zoë 7".encode(), hashlib.sha256).digest()
    assert found != hashlib.sha256("Zoë 7".encode()).digest()


def test_keys_that_were_used_before_still_find_their_rows(path: Path) -> None:
    old = Pseudonyms(path).of("Ann")
    path.write_text("ab" * 32 + "\n" + path.read_text())
    rotated = Pseudonyms(path)
    assert rotated.of("Ann") != old
    assert rotated.all_of("Ann") == [rotated.of("Ann"), old]


@pytest.mark.parametrize("content", ["", "\n", "not hex\n", "abcd\n", "ab" * 31 + "\n", "ä" * 64])
def test_a_file_without_a_key_stops_the_start_and_is_left_alone(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"subject\.key"):
        Pseudonyms(path)
    assert path.read_text() == content


def test_processes_that_start_at_once_share_one_key(path: Path) -> None:
    reading, writing = os.pipe()
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            os.write(writing, Pseudonyms(path).of("Ann"))
            os._exit(0)
        children.append(child)
    assert {os.waitpid(child, 0)[1] for child in children} == {0}
    os.close(writing)
    told = os.read(reading, 8 * 32)
    os.close(reading)
    assert told == 8 * Pseudonyms(path).of("Ann")
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call tries to save the key."""
    monkeypatch.setattr(module, "_RETRY_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_key_that_cannot_be_written_is_used_from_memory_and_written_later(path: Path) -> None:
    with small_disk(path.parent) as remounted:
        remounted("ro")
        found = Pseudonyms(path)
        ann = found.of("Ann")
        assert not path.exists()
        remounted("rw")
        assert found.of("Ann") == ann
        assert Pseudonyms(path).of("Ann") == ann


@pytest.mark.usefixtures("at_once")
def test_a_key_in_memory_goes_below_one_that_others_have_made_meanwhile(path: Path) -> None:
    with small_disk(path.parent) as remounted:
        remounted("ro")
        late, never_used = Pseudonyms(path), Pseudonyms(path)
        ann = late.of("Ann")
        remounted("rw")
        first = Pseudonyms(path)
        assert late.of("Ann") == first.of("Ann") == never_used.of("Ann")
        assert ann in Pseudonyms(path).all_of("Ann")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
