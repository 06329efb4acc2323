from __future__ import annotations

import multiprocessing

from ml_core.base.journal import Journal


def _write_many(path, writer, n):
    for i in range(n):
        Journal(path).append("decided", {"writer": writer, "i": i, "text": "x" * 3_000})


def test_entries_come_back_in_order_with_time_and_author(tmp_path):
    journal = Journal(tmp_path / "deep" / "journal.jsonl")
    journal.append("first", {"n": 1})
    journal.append("second", {"rules": [{"rule": "roc_auc", "value": 0.5}]})
    assert [(e["event"], e["at"][-1]) for e in journal.entries()] == [("first", "Z"), ("second", "Z")]
    assert journal.entries()[1]["rules"] == [{"rule": "roc_auc", "value": 0.5}]


def test_no_journal_yet_has_no_entries(tmp_path):
    assert Journal(tmp_path / "journal.jsonl").entries() == []


def test_what_a_crash_left_in_the_middle_of_a_line_does_not_hurt_the_next_entry(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path).append("whole", {})
    with path.open("ab") as file:
        file.write(b'{"event": "torn')
    Journal(path).append("next", {})
    assert [e["event"] for e in Journal(path).entries()] == ["whole", "next"]


def test_writers_in_several_processes_lose_and_tear_nothing(tmp_path):
    path = tmp_path / "journal.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(path, w, 40)) for w in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries = Journal(path).entries()
    assert len(entries) == len(path.read_bytes().splitlines()) == 120
    assert all([e["i"] for e in entries if e["writer"] == w] == list(range(40)) for w in range(3))
