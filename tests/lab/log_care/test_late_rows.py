"""A row that is stored after its day was sealed: it goes into a later file, is found, and everything stays sound."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_core.base.errors import LogBusy
from ml_core.base.settings import Settings
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.log_care.log_days import LogDay, log_days
from ml_core.lab.log_care.retention import prune_day
from ml_core.lab.log_care.sealing import seal_day
from ml_core.serve.log.entries import Row, id_text
from ml_core.serve.log.log_files import closing_day, log_files
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.reader import PredictionLog
from tests.serve.log.builders import until
from tests.serve.log.filled import DAY, NEXT, THIRD, bulk_row, fill, held, row, settings_in, stored, today, writing

FIRST, SECOND, LAST = (f"predictions-{day}-w01.db" for day in (DAY, NEXT, THIRD))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path / "home")


def sealed(settings: Settings, day: str = DAY) -> str:
    return seal_day(settings, LogDay(day, settings.log)).outcome


def store(settings: Settings, rows: list[Row]) -> None:
    """Store rows as a live worker does, and end it."""
    with writing(settings, rows):
        pass


def rows_by_file(settings: Settings) -> dict[str, int]:
    return {file.path.name: len(stored(file)) for file in log_files(settings.log) if stored(file)}


def findings(settings: Settings) -> list[str]:
    return [str(finding) for finding in verify_log(settings).findings]


def test_a_late_row_goes_into_the_next_days_file_and_nothing_is_a_finding(settings: Settings) -> None:
    fill(settings, [row(n) for n in range(5)])
    assert sealed(settings) == "sealed"
    store(settings, [row(5), row(6), row(0, NEXT)])
    assert rows_by_file(settings) == {FIRST: 5, SECOND: 3}
    assert (findings(settings), sealed(settings), sealed(settings, NEXT)) == ([], "unchanged", "sealed")
    store(settings, [row(7)])
    assert rows_by_file(settings) == {FIRST: 5, SECOND: 3, LAST: 1}
    assert findings(settings) == []


def test_a_late_row_is_found_by_its_id_and_by_its_time(settings: Settings) -> None:
    fill(settings, [row(0)])
    for day in (DAY, NEXT):
        fill(settings, [row(1, day)], day)
        assert sealed(settings, day) == "sealed"
    store(settings, [row(5)])
    assert rows_by_file(settings)[LAST] == 1
    found = PredictionLog(settings.log).find(id_text(row(5).request_id))
    assert found is not None
    assert found.file == LAST
    begin = datetime.fromisoformat(DAY).replace(tzinfo=UTC)
    of_day = PredictionLog(settings.log).rows(begin, begin + timedelta(days=1))
    assert [answer.request_id for answer in of_day] == [id_text(row(n).request_id) for n in (0, 1, 5)]


def test_rows_of_a_day_that_is_not_sealed_stay_in_its_file(settings: Settings) -> None:
    fill(settings, [row(0)])
    store(settings, [row(1), row(0, NEXT), row(2)])
    assert rows_by_file(settings) == {FIRST: 3, SECOND: 1}


def test_a_day_that_was_pruned_takes_rows_again(settings: Settings) -> None:
    fill(settings, [row(0)])
    sealed(settings)
    assert prune_day(settings, LogDay(DAY, settings.log), unsealed=False).state == "goes"
    store(settings, [row(1)])
    assert (rows_by_file(settings), findings(settings)) == ({FIRST: 1}, [])


def test_a_row_written_into_a_sealed_day_by_somebody_else_stays_a_finding(settings: Settings) -> None:
    fill(settings, [row(0)])
    sealed(settings)
    store(settings, [row(1)])
    with held(settings, DAY) as log:
        log.commit([row(2)], durable=False)
    assert findings(settings) == [f"{FIRST}, row 2: it and what follows came after its day was sealed"]
    assert sealed(settings) == "broken"


def test_where_the_journal_cannot_be_read_a_row_goes_into_the_next_file(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(settings, [row(0)])
    sealed(settings)
    with writing(settings, []) as writer:
        monkeypatch.setattr(LogRecords, "is_sealed", _unreadable)
        asyncio.run(writer.store([row(1)]))
        until(lambda: writer.counts.stored == 1, "it is stored")
        monkeypatch.undo()
    days = {name[12:22]: n for name, n in rows_by_file(settings).items()}
    assert days.pop(DAY) == 1
    assert list(days.values()) == [1]
    assert findings(settings) == []


def _unreadable(*_: object) -> bool:
    raise OSError("no journal")


def test_a_late_bulk_call_keeps_its_file_and_its_day_stays_sound(settings: Settings) -> None:
    fill(settings, [row(0), bulk_row(settings, 1)])
    waiting = bulk_row(settings, 2)  # its file is there before the seal, its row is not
    assert sealed(settings) == "sealed"
    late = bulk_row(settings, 3)
    store(settings, [waiting, late])
    assert rows_by_file(settings) == {FIRST: 2, SECOND: 2}
    assert (findings(settings), sealed(settings)) == ([], "unchanged")
    assert (sealed(settings, NEXT), findings(settings)) == ("sealed", [])
    assert len(list(PredictionLog(settings.log).rows())) == 1 + 3 * 6


def test_files_of_late_bulk_calls_are_pruned_with_the_day_that_names_them(settings: Settings) -> None:
    fill(settings, [bulk_row(settings, 1)])
    sealed(settings)
    store(settings, [bulk_row(settings, 2)])
    sealed(settings, NEXT)
    prune_day(settings, LogDay(DAY, settings.log), unsealed=False)
    assert len(list(LogDay(DAY, settings.log).bulk.iterdir())) == 1
    assert (findings(settings), len(list(PredictionLog(settings.log).rows()))) == ([], 6)
    for _ in range(2):
        for day in log_days(settings.log):
            prune_day(settings, day, unsealed=False)
    assert [day.name for day in log_days(settings.log)] == [today()]  # which every worker opens when it starts
    assert findings(settings) == []


def test_a_file_of_a_bulk_call_that_no_later_row_names_is_a_finding(settings: Settings) -> None:
    fill(settings, [row(0)])
    sealed(settings)
    store(settings, [bulk_row(settings, 1)])
    bulk_row(settings, 2)
    assert len(findings(settings)) == 1
    assert sealed(settings) == "broken"


def test_while_a_day_is_being_sealed_nobody_begins_a_file_of_it(settings: Settings) -> None:
    fill(settings, [row(0)])
    with closing_day(settings.log, DAY):
        store(settings, [row(1)])
        with pytest.raises(LogBusy), LogDay(DAY, settings.log).held():
            pass
    assert rows_by_file(settings) == {FIRST: 1, SECOND: 1}


@pytest.mark.parametrize("n_rows", [1, 12])
def test_rows_that_come_while_days_are_sealed_are_all_there_and_nothing_is_a_finding(
    settings: Settings, n_rows: int
) -> None:
    fill(settings, [row(0)])
    begun = threading.Event()

    def seal() -> None:
        begun.wait()
        for _ in range(6):
            for day in log_days(settings.log):
                seal_day(settings, day)

    thread = threading.Thread(target=seal)
    thread.start()
    for n in range(1, 1 + 5 * n_rows, n_rows):
        begun.set()
        store(settings, [row(n + i) for i in range(n_rows)])
    thread.join()
    assert findings(settings) == []
    assert {sealed(settings, day.name) for day in log_days(settings.log) if day.files} <= {"sealed", "unchanged"}
    assert sum(rows_by_file(settings).values()) == 1 + 5 * n_rows
