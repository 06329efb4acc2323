"""The log's key: made once, readable by its owner, and never made where it was named."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings
from ml_core.serve.log.database import OpenLog
from ml_core.serve.log.log_keys import LogKey, LogKeys
from ml_core.serve.log.log_records import LogRecords
from tests.serve.log.builders import DAY, row

FIRST, SECOND = LogKey(b"a" * 32), LogKey(b"b" * 32)


def test_a_key_in_the_home_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    key, is_new = LogKeys.of(settings).used()
    again, is_new_again = LogKeys.of(settings).used()
    assert (is_new, is_new_again, again.id) == (True, False, key.id)
    assert settings.log_key.stat().st_mode & 0o777 == 0o600
    assert key.id not in settings.log_key.read_text(encoding="ascii")


def test_looking_makes_no_key(tmp_path: Path) -> None:
    assert LogKeys.of(Settings(home=tmp_path / "home")).all() == {}
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("holds", [None, "", "abcd", "no hex"])
def test_a_named_file_without_a_key_is_refused_and_never_made(tmp_path: Path, holds: str | None) -> None:
    place = tmp_path / "outside.key"
    if holds is not None:
        place.write_text(holds, encoding="ascii")
    with pytest.raises(ConfigError, match="outside"):
        LogRecords(Settings(home=tmp_path / "home", log_key_file=place))
    assert place.exists() == (holds is not None)


def test_the_first_key_is_used_and_the_others_still_verify(tmp_path: Path) -> None:
    place = tmp_path / "outside.key"
    place.write_text(f"{(b'b' * 32).hex()}\n{(b'a' * 32).hex()}\n", encoding="ascii")
    keys = LogKeys(place, is_made_here=False)
    assert (keys.used()[0].id, set(keys.all())) == (SECOND.id, {FIRST.id, SECOND.id})
    facts = {"a": 1}
    assert keys.all()[FIRST.id].has_signed("x", {**facts, "mac": FIRST.sign("x", facts)})
    assert not keys.all()[FIRST.id].has_signed("y", {**facts, "mac": FIRST.sign("x", facts)})
    assert not keys.all()[SECOND.id].has_signed("x", {**facts, "mac": FIRST.sign("x", facts)})


def _used(home: Path, results: multiprocessing.SimpleQueue[str]) -> None:
    results.put(LogRecords(Settings(home=home)).key().id)


def test_workers_that_start_together_share_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    workers = [context.Process(target=_used, args=(tmp_path, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = {results.get() for _ in workers}
    for worker in workers:
        worker.join()
    assert found == {LogKeys.of(Settings(home=tmp_path)).used()[0].id}


@pytest.mark.parametrize("other", [None, SECOND])
def test_a_file_of_another_key_or_of_none_is_passed_over(tmp_path: Path, other: LogKey | None) -> None:
    log = OpenLog.of_day(tmp_path, DAY, key=other)
    log.commit([row(1)], durable=False)
    log.close()
    before = log.file.path.read_bytes()
    mine = OpenLog.of_day(tmp_path, DAY, key=FIRST)
    mine.close()
    assert (log.file.worker, mine.file.worker) == (1, 2)
    assert log.file.path.read_bytes() == before
