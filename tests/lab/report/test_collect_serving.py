from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ml_core.base.documents import write_document
from ml_core.base.errors import ArtefactError
from ml_core.base.settings import Settings
from ml_core.lab.report.collect_serving import circuits, monitoring, serving
from ml_core.serve.rollout.monitor_state import ModelHealth, MonitorState
from tests.serve.answering.builders import slot_report, worker_report

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
