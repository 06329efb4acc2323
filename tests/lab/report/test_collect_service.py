from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ml_core.base.documents import write_document
from ml_core.base.errors import ArtefactError
from ml_core.base.settings import Settings
from ml_core.lab.log_care.log_days import LogDay
from ml_core.lab.log_care.sealing import seal_day
from ml_core.lab.report.collect_service import circuits, monitoring, serving, store_facts
from ml_core.lab.report.gaps import Gaps
from ml_core.serve.rollout.monitor_state import ModelHealth, MonitorState
from tests.serve.answering.builders import slot_report, worker_report
from tests.serve.log.filled import DAY, NEXT, THIRD, bulk_row, fill, held, row, settings_in, tampering

NOW_S = 1_000.0


def worker(pid, index=1, beat_s=NOW_S, **facts):
    return worker_report(pid, beat_s, index=index, **facts)


def test_a_service_that_never_reported_is_unknown():
    assert serving([], None, NOW_S) is None


def test_processes_are_alive_lost_or_replaced():
    reports = [
        worker(1),
        worker(2, index=2, beat_s=NOW_S - 60),
        worker(3, index=3, beat_s=NOW_S - 60),
        worker(4, index=3),
    ]
    found = serving(reports, None, NOW_S)
    assert (found.workers, found.lost) == (2, 1)  # the second is lost; the third was replaced


def test_a_server_that_is_silent_as_a_whole_was_stopped_and_has_lost_nobody():
    reports = [worker(1, server="old", beat_s=NOW_S - 60), worker(2)]
    assert serving(reports, None, NOW_S).lost == 0
    assert serving(reports[:1], None, NOW_S).workers == 0


def test_runners_answer_nobody_and_problems_are_told_once():
    reports = [worker(1, problem="no model"), worker(2, index=2, problem="no model"), worker(3, role="runner")]
    found = serving(reports, None, NOW_S)
    assert (found.workers, found.problems) == (2, ("no model",))


def test_circuits_are_those_of_processes_that_run():
    opened = {"state": "open", "mode": "auto", "reason": "latency_p95", "calls_in_window": 20, "error_rate": 0.1,
              "p95_ms": 612.0, "retry_after_s": 3.0, "opened": 2}  # fmt: skip
    reports = [
        worker(2, 2, slots=[slot_report("champion", circuit=opened)]),
        worker(1, 1, slots=[slot_report("champion"), slot_report("challenger")]),
        worker(3, 3, beat_s=NOW_S - 60, slots=[slot_report("champion", circuit=opened)]),
    ]
    found = circuits(reports, NOW_S)
    assert [(c.worker, c.slot, c.state) for c in found.now] == [
        ("api 1", "champion", "closed"),
        ("api 1", "challenger", "closed"),
        ("api 2", "champion", "open"),
    ]
    (change,) = found.transitions
    assert (change.worker, change.after, change.reason, change.at, change.times) == (
        "api 2",
        "open",
        "latency_p95",
        None,
        2,
    )


@pytest.fixture
def settings(tmp_path) -> Settings:
    """A home whose monitor has looked at the model ``aa``."""
    found = Settings(home=tmp_path, model_name="toy")
    state = MonitorState(
        model_name="toy", published_at="2026-11-23T10:00:00.000000Z", boot="", beat_s=0.0,
        models={"aa": ModelHealth(model_version="1")},
    )  # fmt: skip
    write_document(found.monitor_state, state)
    return found


@pytest.mark.parametrize(("champion", "is_seen"), [("aa", True), (None, True), ("bb", False)])
def test_a_monitor_has_looked_at_the_models_it_has_published(settings, champion, is_seen):
    at = datetime(2026, 11, 23, 10, tzinfo=UTC) if is_seen else None
    found = monitoring(settings, champion)
    assert (found.last_look_at, found.stale_after_s) == (at, 180.0)


def test_a_monitor_that_never_ran_has_never_looked(tmp_path):
    assert monitoring(Settings(home=tmp_path), "aa").last_look_at is None


def test_a_damaged_publication_is_no_silence(settings):
    settings.monitor_state.write_text("{")
    with pytest.raises(ArtefactError):
        monitoring(settings, "aa")


# --- the prediction log ----------------------------------------------------------------------------------------------


NOW = datetime(2026, 1, 8, tzinfo=UTC)


@pytest.fixture
def sealed(tmp_path):
    """A sealed day, and a closed one with a bulk call of a hundred."""
    found = settings_in(tmp_path)
    fill(found, [row(n) for n in range(12)], DAY)
    seal_day(found, LogDay(DAY, found.log))
    fill(found, [row(0, NEXT), bulk_row(found, 1, NEXT, answers=100)], NEXT)
    return found


def stored(sealed, gaps=None, reports=(), verified_at=None):
    return store_facts(sealed, reports, None, gaps or Gaps(), verified_at=verified_at)


def test_files_are_told_newest_first_with_every_answer_of_a_bulk_call(sealed):
    with held(sealed, THIRD) as log:
        log.commit([row(0, THIRD)], durable=False)
        found = stored(sealed)
    assert [(f.state, f.rows) for f in found.files] == [("live", 1), ("closed", 101), ("sealed", 12)]
    assert (found.rows, found.lost, found.mode) == (114, 0, "standard")
    assert all(f.size > 0 for f in found.files)


def test_what_was_sealed_is_believed_and_nothing_else_until_somebody_walks_the_chains(sealed):
    assert [f.chain for f in stored(sealed).files] == [None, True]
    walked = stored(sealed, verified_at=NOW)
    assert ([f.chain for f in walked.files], walked.verified_at, walked.broken) == ([True, True], NOW, ())


def test_a_changed_row_and_a_missing_file_are_found_by_walking(sealed):
    changed, gone = LogDay(NEXT, sealed.log).files[0], LogDay(DAY, sealed.log).files[0]
    with tampering(changed) as connection:
        connection.execute("UPDATE entry SET at_us = at_us + 1 WHERE seq = 1")
    gone.path.unlink()
    assert stored(sealed).broken == ()
    found = stored(sealed, verified_at=NOW)
    assert found.broken == (gone.path.name, changed.path.name)
    assert [f.chain for f in found.files] == [False]


def test_lost_answers_of_all_processes_are_summed_those_of_lost_ones_too(sealed):
    log = {"mode": "standard", "stored": 5, "refused": 0, "unanswered": 0, "pending": 0, "problem": None}
    reports = [worker_report(pid, 0.0, log={**log, "lost": pid}) for pid in (1, 2)] + [worker_report(3)]
    assert stored(sealed, reports=reports).lost == 3


def test_a_file_that_cannot_be_read_leaves_a_gap(sealed):
    damaged = LogDay(NEXT, sealed.log).files[0]
    damaged.path.write_bytes(b"no database at all" * 1_000)
    gaps = Gaps()
    found = stored(sealed, gaps)
    assert [(f.state, f.rows) for f in found.files] == [("unreadable", 0), ("sealed", 12)]
    assert [(gap.part, damaged.path.name in gap.reason) for gap in gaps.found] == [("log", True)]


def test_no_log_is_nothing(tmp_path):
    assert stored(settings_in(tmp_path)) is None
