"""The index of callers' names says what a look into every file would say, and looks only at what is new."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ml_core.serve.log import client_names
from ml_core.serve.log.client_names import ClientNames
from ml_core.serve.log.database import OpenLog
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.log_files import day_of, log_files
from ml_core.serve.log.log_places import FolderPlace
from ml_core.serve.log.reader import PredictionLog
from tests.serve.log.builders import DAY_US, NOON_US, rid, row

NAMES = [f"visit-{n}" for n in range(12)]


def commit(folder: Path, day: int, named: dict[int, str | None]) -> list[tuple[str, int, bytes]]:
    """Answers of a day under these names, by their numbers; what an index must know of them."""
    log = OpenLog.of_day(folder, day_of(NOON_US + day * DAY_US))
    try:
        rows = [row(n, NOON_US + day * DAY_US + n, client_request_id=name) for n, name in named.items()]
        log.commit(rows, durable=False)
    finally:
        log.close()
    return [(each.client_request_id, each.at_us, each.request_id) for each in rows if each.client_request_id]


def test_it_says_what_a_look_into_every_file_says_also_under_late_retries(tmp_path: Path) -> None:
    dice, known = random.Random(5), []
    for number in range(30):
        day = dice.choice([0, 1, 1, 2, 40])  # a day that is over gets rows, too, and a retry may come weeks later
        named = {number * 10 + i: dice.choice([*NAMES, None]) for i in range(dice.randrange(1, 5))}
        known += commit(tmp_path, day, named)
        expected = {name: raw for name, _, raw in sorted(known, key=lambda each: each[1:], reverse=True)}
        assert ClientNames(tmp_path).first(NAMES) == expected


def test_files_that_are_closed_and_as_they_were_are_not_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in range(5):
        commit(tmp_path, day, {day: NAMES[day]})
    opened: list[str] = []
    monkeypatch.setattr(
        client_names, "reading", lambda file, read=client_names.reading: (opened.append(file.day), read(file))[1]
    )
    names = ClientNames(tmp_path)
    names.first(NAMES)
    assert len(opened) == 5
    names.first(NAMES)
    assert len(opened) == 5
    commit(tmp_path, 3, {90: NAMES[9]})
    assert names.first([NAMES[9]]) == {NAMES[9]: rid(90, NOON_US + 3 * DAY_US + 90)}
    assert opened[5:] == [day_of(NOON_US + 3 * DAY_US)]


def test_a_name_of_a_day_that_was_removed_belongs_to_what_is_left(tmp_path: Path) -> None:
    commit(tmp_path, 0, {1: NAMES[0]})
    ((_, _, later),) = commit(tmp_path, 1, {2: NAMES[0]})
    names = ClientNames(tmp_path)
    assert names.first([NAMES[0]]) != {NAMES[0]: later}
    log_files(tmp_path)[0].path.unlink()
    assert names.first([NAMES[0]]) == {NAMES[0]: later}


@pytest.mark.parametrize("harm", ["damaged", "elsewhere", "a folder"])
def test_where_it_cannot_be_kept_it_is_made_for_the_moment(tmp_path: Path, harm: str) -> None:
    ((name, _, raw),) = commit(tmp_path, 0, {1: NAMES[0]})
    index = tmp_path / "clients.db"
    if harm == "damaged":
        index.write_bytes(b"no database" * 500)
    elif harm == "elsewhere":
        index.symlink_to(tmp_path / "nowhere" / "clients.db")
    else:
        index.mkdir()
    assert ClientNames(tmp_path).first([name, "another"]) == {name: raw}
    assert ClientNames(tmp_path).first([name]) == {name: raw}


def test_a_log_that_is_not_there_has_no_names(tmp_path: Path) -> None:
    assert ClientNames(tmp_path / "none").first(NAMES) == {}
    assert not (tmp_path / "none").exists()


def test_a_cursor_opens_only_files_that_may_have_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(5):
        commit(tmp_path, day, {day: None})
    place = FolderPlace(tmp_path)
    log, opened = PredictionLog(place), []
    monkeypatch.setattr(
        FolderPlace, "reading", lambda _, file, read=FolderPlace.reading: (opened.append(file.day), read(_, file))[1]
    )
    found, cursor = log.after({}, 100)
    assert (len(found), len(opened)) == (5, 5)
    assert log.after(cursor, 100) == ([], cursor)
    assert len(opened) == 5
    commit(tmp_path, 2, {50: None})
    found, cursor = log.after(cursor, 100)
    assert [id_bytes(answer.request_id) for answer in found] == [rid(50, NOON_US + 2 * DAY_US + 50)]
    assert len(opened) == 6
