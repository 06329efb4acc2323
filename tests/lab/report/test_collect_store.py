from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ml_core.lab.log_care.log_days import LogDay
from ml_core.lab.log_care.sealing import seal_day
from ml_core.lab.report.collect_gaps import Gaps
from ml_core.lab.report.collect_store import store_facts
from tests.serve.answering.builders import worker_report
from tests.serve.log.filled import DAY, NEXT, THIRD, bulk_row, fill, held, row, settings_in, tampering

NOW = datetime(2026, 1, 8, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    """A sealed day, and a closed one with a bulk call of a hundred."""
    found = settings_in(tmp_path)
    fill(found, [row(n) for n in range(12)], DAY)
    seal_day(found, LogDay(DAY, found.log))
    fill(found, [row(0, NEXT), bulk_row(found, 1, NEXT, answers=100)], NEXT)
    return found


def facts(settings, gaps=None, reports=(), verified_at=None):
    return store_facts(settings, reports, None, gaps or Gaps(), verified_at=verified_at)


def test_files_are_told_newest_first_with_every_answer_of_a_bulk_call(settings):
    with held(settings, THIRD) as log:
        log.commit([row(0, THIRD)], durable=False)
        found = facts(settings)
    assert [(f.state, f.rows) for f in found.files] == [("live", 1), ("closed", 101), ("sealed", 12)]
    assert (found.rows, found.lost, found.mode) == (114, 0, "standard")
    assert all(f.size > 0 for f in found.files)


def test_what_was_sealed_is_believed_and_nothing_else_until_somebody_walks_the_chains(settings):
    assert [f.chain for f in facts(settings).files] == [None, True]
    walked = facts(settings, verified_at=NOW)
    assert ([f.chain for f in walked.files], walked.verified_at, walked.broken) == ([True, True], NOW, ())


def test_a_changed_row_and_a_missing_file_are_found_by_walking(settings):
    changed, gone = LogDay(NEXT, settings.log).files[0], LogDay(DAY, settings.log).files[0]
    with tampering(changed) as connection:
        connection.execute("UPDATE entry SET at_us = at_us + 1 WHERE seq = 1")
    gone.path.unlink()
    assert facts(settings).broken == ()
    found = facts(settings, verified_at=NOW)
    assert found.broken == (gone.path.name, changed.path.name)
    assert [f.chain for f in found.files] == [False]


def test_lost_answers_of_all_processes_are_summed_those_of_lost_ones_too(settings):
    log = {"mode": "standard", "stored": 5, "refused": 0, "unanswered": 0, "pending": 0, "problem": None}
    reports = [worker_report(pid, 0.0, log={**log, "lost": pid}) for pid in (1, 2)] + [worker_report(3)]
    assert facts(settings, reports=reports).lost == 3


def test_a_file_that_cannot_be_read_leaves_a_gap(settings):
    damaged = LogDay(NEXT, settings.log).files[0]
    damaged.path.write_bytes(b"no database at all" * 1_000)
    gaps = Gaps()
    found = facts(settings, gaps)
    assert [(f.state, f.rows) for f in found.files] == [("unreadable", 0), ("sealed", 12)]
    assert [(gap.part, damaged.path.name in gap.reason) for gap in gaps.found] == [("log", True)]


def test_no_log_is_nothing(tmp_path):
    assert facts(settings_in(tmp_path)) is None
