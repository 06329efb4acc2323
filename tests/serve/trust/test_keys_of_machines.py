"""Each machine of a home signs with a key of its own, which all of them trust; private keys stay where they were made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.trust.keys import SigningKey, TrustedKeys, trusted_keys
from tests.postgres import server


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[tuple[Settings, Settings]]:
    """Of two machines."""
    with server() as own:
        url = own.new_database()
        found = tuple(Settings(home=tmp_path / name, database=url, machine=name) for name in ("a", "b"))
        yield found  # type: ignore[misc]
        for each in found:
            open_home(each).close()


def signing_key(settings: Settings) -> SigningKey:
    with TrustedKeys(settings) as keys:
        return keys.signing_key(lambda _: None)


def test_each_machine_signs_with_a_key_of_its_own_that_all_trust(settings: tuple[Settings, Settings]) -> None:
    here, there = settings
    mine, theirs = signing_key(here), signing_key(there)
    assert mine.public != theirs.public
    for each in settings:
        assert {k.key for k in trusted_keys(each)} == {mine.public, theirs.public}
    assert (signing_key(here).public, signing_key(there).public) == (mine.public, theirs.public)
    assert [k.name for k in trusted_keys(here)] == ["machine a", "machine b"]
    (told,) = [e for e in open_home(here).journal.entries() if e["event"] == "trust.added"]
    assert told["key"] == theirs.public
    (there.trust / "signing.key").unlink()
    with pytest.raises(ConfigError, match="surety trust rotate"):
        signing_key(there)
    database = open_home(here).database
    assert database is not None
    with database.transaction() as connection:
        stored = b"".join(bytes(row[0]) for row in connection.execute("SELECT content FROM document"))
    assert b"PRIVATE" not in stored
