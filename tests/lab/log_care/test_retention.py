"""Removing old days: whole, sealed first, closed ones alone, and known to the journal."""

from __future__ import annotations

import multiprocessing
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_core.base.journal import Journal
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.log_care.log_days import LogDay, log_days
from ml_core.lab.log_care.retention import old_days, prune_day
from ml_core.lab.log_care.sealing import seal_day
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.reader import PredictionLog
from tests.serve.log.filled import DAY, NEXT, THIRD, bulk_row, fill, head_of, held, row, today


def filled_day(settings, name: str = DAY, *, seal: bool = True) -> LogDay:
    """A day with answers and a bulk call."""
    fill(settings, [*(row(n, name) for n in range(5)), bulk_row(settings, 9, name)], name)
    day = LogDay(name, settings.log)
    if seal:
        assert seal_day(settings, day).outcome == "sealed"
    return day


def left_of(settings, day: LogDay) -> list[Path]:
    return [path for path in settings.log.rglob("*") if day.name in path.name]


def prunings(settings) -> list[dict]:
    return [entry for entry in Journal(settings.journal).entries() if entry["event"] == "log.pruned"]


def of_day(settings, day) -> list[Path]:
    """All files of a day, of whatever kind."""
    return sorted(path for path in settings.log.rglob(f"*{day.name}*") if path.is_file())


def test_nothing_of_a_day_is_left_and_nothing_of_the_others_is_touched(settings):
    day, other = filled_day(settings), filled_day(settings, NEXT)
    kept = {path: path.read_bytes() for path in of_day(settings, other)}
    assert prune_day(settings, day, unsealed=False).state == "goes"
    assert left_of(settings, day) == []
    assert {path: path.read_bytes() for path in of_day(settings, other)} == kept
    assert len(kept) >= 3
    assert len(list(PredictionLog(settings.log).rows())) == 11
    assert verify_log(settings).is_sound


def test_the_journal_has_the_last_head(settings):
    day = filled_day(settings)
    (file,) = day.files
    head = head_of(file).hex()
    prune_day(settings, day, unsealed=False)
    (entry,) = prunings(settings)
    assert (entry["file"], entry["rows"], entry["head"], entry["day"]) == (file.path.name, 6, head, DAY)


def test_a_day_that_is_not_sealed_stays(settings):
    day = filled_day(settings, seal=False)
    assert prune_day(settings, day, unsealed=False).state == "unsealed"
    assert (len(list(PredictionLog(settings.log).rows())), prunings(settings)) == (11, [])


def test_a_day_that_grew_after_it_was_sealed_stays(settings):
    day = filled_day(settings)
    fill(settings, [row(70)])
    assert prune_day(settings, day, unsealed=False).state == "unsealed"
    assert len(list(PredictionLog(settings.log).rows())) == 12


def test_a_day_that_is_not_sealed_goes_where_that_is_wanted(settings):
    day = filled_day(settings, seal=False)
    assert prune_day(settings, day, unsealed=True).state == "goes"
    assert left_of(settings, day) == []
    assert (prunings(settings)[0]["rows"], verify_log(settings).is_sound) == (6, True)


@pytest.mark.parametrize("unsealed", [False, True])
def test_a_day_that_a_worker_writes_to_stays(settings, unsealed):
    day = filled_day(settings)
    with held(settings, DAY) as log:
        log.commit([row(50)], durable=False)
        assert prune_day(settings, day, unsealed=unsealed).state == "busy"
        log.commit([row(51)], durable=False)
    assert len(list(PredictionLog(settings.log).rows())) == 13


def test_one_live_file_keeps_its_whole_day(settings):
    with held(settings, DAY):
        fill(settings, [row(1)])
        assert [old.state for old in old_days(settings, 0, unsealed=True)] == ["busy"]


def test_a_damaged_day_stays_until_it_may_go_unsealed(settings):
    day = filled_day(settings)
    day.files[0].path.write_bytes(b"no database" * 500)
    assert prune_day(settings, day, unsealed=False).state == "unsealed"
    assert prune_day(settings, day, unsealed=True).state == "goes"
    assert (left_of(settings, day), prunings(settings)[0]["rows"]) == ([], None)


def test_a_day_is_old_once_its_last_moment_is(settings, monkeypatch):
    for name in (DAY, NEXT, THIRD):
        filled_day(settings, name)
    moment = datetime.fromisoformat(NEXT).replace(tzinfo=UTC) + timedelta(days=91)
    monkeypatch.setattr("ml_core.lab.log_care.retention.utc_now", lambda: moment)
    assert [old.day.name for old in old_days(settings, 90, unsealed=False)] == [DAY, NEXT]
    monkeypatch.setattr("ml_core.lab.log_care.retention.utc_now", lambda: moment - timedelta(seconds=1))
    assert [old.day.name for old in old_days(settings, 90, unsealed=False)] == [DAY]


def test_today_never_goes(settings):
    fill(settings, [row(1, today())], today())
    assert old_days(settings, 0, unsealed=True) == []


def test_what_will_go_is_counted(settings):
    day = filled_day(settings)
    (old,) = old_days(settings, 0, unsealed=False)
    size = sum(path.stat().st_size for path in settings.log.rglob("*") if path.is_file())
    assert (old.day, old.state, old.rows, old.bytes) == (day, "goes", 6, size)


def test_a_file_pruned_and_begun_again_is_held_against_nothing(settings):
    prune_day(settings, filled_day(settings), unsealed=False)
    fill(settings, [row(99)])
    assert verify_log(settings).is_sound


def test_leftovers_of_drafts_and_readers_go_too(settings):
    day = filled_day(settings)
    (file,) = day.files
    strays = [
        Path(f"{file.path}-wal"), Path(f"{file.path}-shm"), Path(f"{file.path}-journal"),
        file.folder / f".{file.path.name}.rescue", day.sealed.with_name(f".{day.sealed.name}.draft"),
        day.bulk / "0.draft",
    ]  # fmt: skip
    prune_day(settings, day, unsealed=False)
    for stray in strays:
        stray.parent.mkdir(exist_ok=True)
        stray.touch()
    (old,) = old_days(settings, 0, unsealed=False)
    assert prune_day(settings, old.day, unsealed=False).state == "goes"
    assert left_of(settings, day) == []


def test_names_that_are_no_days_are_left_alone(settings):
    day = filled_day(settings)
    strange = [settings.log / "predictions-2026-99-99-w01.db", settings.log / "notes-2026.txt"]
    for path in strange:
        path.touch()
    assert [found.name for found in log_days(settings.log)] == [day.name]
    prune_day(settings, day, unsealed=False)
    assert all(path.exists() for path in strange)


def killed_at(settings, steps: int) -> None:
    """Prune in this process, and die after so many removals."""
    left, unlink = iter(range(steps)), os.unlink

    def dying(*args, **kwargs):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return unlink(*args, **kwargs)

    os.unlink = dying
    for day in log_days(settings.log):
        prune_day(settings, day, unsealed=False)


@pytest.mark.parametrize("steps", range(4))
def test_a_prune_that_was_killed_is_done_by_the_next_one(settings, steps):
    day = filled_day(settings)
    process = multiprocessing.get_context("fork").Process(target=killed_at, args=(settings, steps))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert verify_log(settings).is_sound
    (old,) = old_days(settings, 0, unsealed=False)
    assert prune_day(settings, old.day, unsealed=False).state == "goes"
    assert (left_of(settings, day), verify_log(settings).is_sound) == ([], True)


def test_a_file_of_another_day_name_is_no_file_of_this_day(settings):
    day = filled_day(settings)
    other = LogFile(NEXT, 1, settings.log)
    assert other not in day.files
