"""What a home promises, on both engines: documents, journal, reports, seats, and its name."""

from __future__ import annotations

import threading

import pytest

from ml_core.base.documents import Document
from ml_core.base.errors import ArtefactError, SeatLost
from ml_core.serve.home.homes import Home
from tests.waiting import soon


class Note(Document):
    text: str


def test_a_document_is_there_for_every_process_once_it_is_written(home: Home, other: Home) -> None:
    assert home.documents.read("gates/a.json") is None
    home.documents.write("gates/a.json", b"{}")
    assert other.documents.read("gates/a.json") == b"{}"
    other.documents.write("gates/a.json", b"[]", durable=False)
    assert home.documents.read("gates/a.json") == b"[]"


def test_a_document_that_is_removed_is_gone_and_may_be_removed_again(home: Home) -> None:
    home.documents.write("a.json", b"{}")
    home.documents.remove("a.json")
    home.documents.remove("a.json")
    assert home.documents.read("a.json") is None


def test_a_typed_document_comes_back_as_it_was(home: Home) -> None:
    home.documents.save("notes/a.json", Note(text="é"))
    assert home.documents.load("notes/a.json", Note) == Note(text="é")
    assert home.documents.load("notes/b.json", Note) is None


def test_a_document_of_another_kind_is_refused_by_its_name(home: Home) -> None:
    home.documents.write("notes/a.json", b'{"word": 1}')
    with pytest.raises(ArtefactError, match=r"^a\.json: is no Note"):
        home.documents.load("notes/a.json", Note)


def test_names_are_those_in_the_folder_itself_in_order(home: Home) -> None:
    for name in ("gates/b.json", "gates/a_1.json", "gates/a%.json", "gates/old/c.json", "gates2/d.json", "e.json"):
        home.documents.write(name, b"{}")
    assert home.documents.names("gates") == ["gates/a%.json", "gates/a_1.json", "gates/b.json"]
    assert home.documents.names("nothing") == []


def test_a_glimpse_sees_what_others_write_and_remove(home: Home, other: Home) -> None:
    assert home.documents.glimpse("a.json").content is None
    other.documents.write("a.json", b"1")
    soon(lambda: home.documents.glimpse("a.json").content == b"1")
    other.documents.write("a.json", b"2")
    soon(lambda: home.documents.glimpse("a.json").content == b"2")
    other.documents.remove("a.json")
    soon(lambda: home.documents.glimpse("a.json").content is None)
    other.documents.write("a.json", b"2")
    soon(lambda: home.documents.glimpse("a.json").content == b"2")


def test_the_first_glimpse_knows_what_is_there(home: Home, other: Home) -> None:
    other.documents.write("a.json", b"1")
    seen = home.documents.glimpse("a.json")
    assert seen.content == b"1"
    assert seen.seen_s < 60
    assert seen.age_s is None or 0 <= seen.age_s < 60


def test_one_process_at_a_time_is_in_a_locked_block(home: Home, other: Home) -> None:
    home.documents.write("count.json", b"0")

    def add(mine: Home) -> None:
        for _ in range(20):
            with mine.documents.locked("count.lock"):
                raw = mine.documents.read("count.json")
                assert raw is not None
                mine.documents.write("count.json", str(int(raw) + 1).encode(), durable=False)

    threads = [threading.Thread(target=add, args=(mine,)) for mine in (home, other) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert home.documents.read("count.json") == b"80"


def test_the_journal_keeps_every_entry_of_every_process_in_order(home: Home, other: Home) -> None:
    home.journal.append("a", {"x": 1.5, "y": "é"})
    other.journal.append("b", {"nested": {"n": None}})
    home.journal.append("a", {})
    first, second, third = other.journal.entries()
    assert (first["event"], first["x"], first["y"]) == ("a", 1.5, "é")
    assert second["nested"] == {"n": None}
    assert third["event"] == "a"
    assert all(entry["at"].endswith("Z") and "by" in entry for entry in (first, second, third))


def test_an_entry_may_state_its_own_time_and_author(home: Home) -> None:
    """Signed entries are written as they were signed."""
    home.journal.append("a", {"at": "2026-01-01T00:00:00.000000Z", "by": "service"})
    (entry,) = home.journal.entries()
    assert (entry["at"], entry["by"]) == ("2026-01-01T00:00:00.000000Z", "service")


def test_reports_of_all_processes_are_seen_by_all(home: Home, other: Home) -> None:
    home.heartbeats("m").beat("a-1", b"1")
    other.heartbeats("m").beat("b-1", b"2")
    other.heartbeats("another").beat("c-1", b"3")
    for mine in (home, other):
        seen = mine.heartbeats("m")
        soon(lambda: sorted(r.content for r in seen.reports()) == [b"1", b"2"])  # noqa: B023 - called at once


def test_a_last_report_is_there_at_once_and_replaces_the_one_before(home: Home, other: Home) -> None:
    mine = home.heartbeats("m")
    mine.beat("a-1", b"1")
    mine.beat("a-1", b"2", last=True)
    assert [r.content for r in other.heartbeats("m").reports()] == [b"2"]
    for _ in range(3):
        other.documents.glimpse("x.json")
    assert [r.content for r in other.heartbeats("m").reports()] == [b"2"]


def test_reports_that_are_cleared_are_gone_for_all(home: Home, other: Home) -> None:
    for process in ("a-1", "a-2", "a-3"):
        home.heartbeats("m").beat(process, process.encode(), last=True)
    home.heartbeats("m").clear(["a-1", "a-3"])
    assert [r.content for r in home.heartbeats("m").reports()] == [b"a-2"]
    assert [r.content for r in other.heartbeats("m").reports()] == [b"a-2"]
    home.heartbeats("m").clear([])


def test_one_holds_a_seat_until_it_leaves(home: Home, other: Home) -> None:
    first, second = home.seat("monitor/m"), other.seat("monitor/m")
    assert first.take()
    assert first.take()
    assert not second.take()
    first.leave()
    assert second.take()
    assert not first.take()
    second.leave()


def test_seats_of_other_names_are_other_seats(home: Home, other: Home) -> None:
    seats = [home.seat("monitor/m"), other.seat("monitor/n"), other.seat("retraining/m")]
    assert all(seat.take() for seat in seats)
    for seat in seats:
        seat.leave()


def test_who_does_not_hold_the_seat_cannot_act(home: Home) -> None:
    with pytest.raises(SeatLost, match="monitor/m"), home.seat("monitor/m").acting():
        raise AssertionError("it acts")


def test_the_holder_writes_as_everybody_does(home: Home, other: Home) -> None:
    seat = home.seat("monitor/m")
    assert seat.take()
    with seat.acting():
        home.documents.write("a.json", b"1")
        home.journal.append("a", {})
    assert other.documents.read("a.json") == b"1"
    seat.leave()


def test_a_home_has_one_name_for_good(home: Home, other: Home) -> None:
    names: list[str] = []
    threads = [threading.Thread(target=lambda mine=mine: names.append(mine.name())) for mine in (home, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 2
    assert len({*names, home.name()}) == 1


def test_every_document_of_a_home_is_listed_whichever_room_wrote_it(home: Home) -> None:
    names = [
        "gates/a.json",
        "home.json",
        "labels/toy.imported.json",
        "log/toy/erasures/1.json",
        "log/toy/erasures/1.rows-x.db",
        "monitor/toy.state.json",
        "promotions/toy.signed.json",
        "retrain/toy.json",
        "rollout/toy.json",
        "trust/keys.json",
    ]
    for name in names:
        home.documents.write(name, b"{}")
    assert home.documents.every() == names


def test_a_journal_takes_the_entries_of_another_as_they_are(home: Home, other: Home) -> None:
    home.journal.append("first", {"n": 1})
    texts = ['{"at":"2026-01-02T03:04:05.000006Z","event":"old","by":"é","x":1.50}']
    home.journal.take(texts)
    other.journal.append("last", {})
    found = home.journal.texts()
    assert (found[1], len(found)) == (texts[0], 3)
    assert [entry["event"] for entry in home.journal.entries()] == ["first", "old", "last"]
