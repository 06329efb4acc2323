"""Workers' reports: written whole, read by anybody, summed over the living and the lost."""

from __future__ import annotations

import threading
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.documents import read_document
from ml_core.base.errors import ArtefactError
from ml_core.serve.home.folder_home import FolderHeartbeats
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.worker_reports import (
    LOST_AFTER_S,
    ShippingReport,
    WorkerLogReport,
    beating,
    clear_lost,
    machines_of,
    read_reports,
    summed,
    write_worker_report,
)
from tests.serve.answering.builders import slot_report, worker_report
from tests.serve.rollout.states import of_a_later_release, state

NOW = 1_000.0


@pytest.fixture
def heartbeats(tmp_path):
    return FolderHeartbeats(tmp_path)


def test_a_report_comes_back_as_it_was_written(tmp_path):
    report = worker_report(
        7, NOW, slot_report(answers=3, fallbacks={"deadline": 1}, set_sizes={"0": 1, "2": 2}), problem="x"
    )
    write_worker_report(FolderHeartbeats(tmp_path / "workers"), report)
    assert read_reports(FolderHeartbeats(tmp_path / "workers")) == [report]


def test_a_process_replaces_its_own_report_and_no_other(heartbeats):
    write_worker_report(heartbeats, worker_report(1, NOW))
    write_worker_report(heartbeats, worker_report(2, NOW))
    write_worker_report(heartbeats, worker_report(1, NOW + 1))
    assert sorted((r.pid, r.beat_s) for r in read_reports(heartbeats)) == [(1, NOW + 1), (2, NOW)]


def test_no_folder_has_no_reports(tmp_path):
    assert read_reports(FolderHeartbeats(tmp_path / "nowhere")) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"server": "s"}'])
def test_what_cannot_be_read_is_passed_over(tmp_path, heartbeats, content):
    write_worker_report(heartbeats, worker_report(1, NOW))
    (tmp_path / "s-api-1-9.json").write_bytes(content)
    assert [r.pid for r in read_reports(heartbeats)] == [1]


def test_a_report_of_a_later_release_says_what_this_one_knows_of(tmp_path, heartbeats):
    log = WorkerLogReport(mode="strict", stored=1, lost=0, refused=0, unanswered=0, pending=0, problem=None)
    mine = worker_report(1, NOW, slot_report(answers=3), log=log)
    (tmp_path / "s-api-1-1.json").write_bytes(of_a_later_release(mine))
    assert read_reports(heartbeats) == [mine]


def test_a_machine_that_died_is_told_with_what_its_last_reports_called_unshipped():
    def log(unshipped: int, at_risk: int) -> WorkerLogReport:
        told = ShippingReport(shipped=9, unshipped=unshipped, at_risk=at_risk, bytes=1, oldest_s=0.1, problem=None)
        counted = {"stored": 9, "lost": 0, "refused": 0, "unanswered": 0}
        return WorkerLogReport(mode="standard", **counted, pending=2, problem=None, shipping=told)

    reports = [worker_report(1, NOW, log=log(5, 30)), worker_report(2, NOW - 1, log=log(0, 12))]
    (found,) = machines_of(reports, NOW + 600)
    assert found["alive"] == 0
    assert (found["unstored"], found["unshipped"], found["at_risk"]) == (4, 5, 42)
    (without,) = machines_of([worker_report(1, NOW)], NOW)
    assert (without["unshipped"], without["at_risk"]) == (0, 0)


def test_an_order_with_a_field_that_is_not_known_is_refused(tmp_path):
    (tmp_path / "toy.json").write_bytes(of_a_later_release(state()))
    with pytest.raises(ArtefactError, match=r"toy\.json"):
        read_document(tmp_path / "toy.json", RolloutState)


def test_half_written_files_of_others_are_no_reports(tmp_path, heartbeats):
    write_worker_report(heartbeats, worker_report(1, NOW))
    (tmp_path / ".s-api-1-9.json.abc").write_bytes(b"{")
    assert [r.pid for r in read_reports(heartbeats)] == [1]


def test_readers_never_see_half_a_report(heartbeats):
    long = worker_report(1, NOW, slot_report(set_sizes={str(i): i for i in range(2_000)}))
    write_worker_report(heartbeats, long)
    writer = threading.Thread(target=lambda: [write_worker_report(heartbeats, long) for _ in range(100)])
    writer.start()
    while writer.is_alive():
        assert len(read_reports(heartbeats)) == 1
    writer.join()


@pytest.mark.parametrize(
    ("age", "alive"), [(0.0, True), (LOST_AFTER_S, True), (LOST_AFTER_S + 0.1, False), (-0.1, False), (1e6, False)]
)
def test_a_process_is_lost_after_three_seconds_or_when_its_clock_is_of_another_boot(age, alive):
    assert bool(beating([worker_report(1, NOW - age)], NOW)) is alive


@pytest.mark.parametrize(
    ("age", "stage", "kept"),
    [
        (0.0, 1, True),
        (0.0, 9, True),  # a living worker that has not obeyed yet
        (3.1, 9, True),
        (6.1, 9, False),
        (6.1, 1, True),  # lost, but its counts belong to the stage that guards judge
        (86_399.0, 1, True),
        (86_401.0, 1, False),
        (-1.0, 1, False),
    ],
)
def test_lost_reports_go_once_no_guard_needs_them(heartbeats, age, stage, kept):
    write_worker_report(heartbeats, worker_report(1, NOW - age, stage=stage))
    clear_lost(heartbeats, read_reports(heartbeats), 1, NOW)
    assert bool(read_reports(heartbeats)) is kept


def test_reports_lie_under_server_role_number_and_process(heartbeats):
    for pid, role, index, server in product((1, 2), ("api", "runner"), (1, 2), ("s", "t")):
        write_worker_report(heartbeats, worker_report(pid, NOW, role=role, index=index, server=server))
    assert len(read_reports(heartbeats)) == 16


counts = st.integers(0, 1_000)
slots = st.builds(
    slot_report,
    answers=counts, calls=counts, failures=counts, slow=counts,
    fallbacks=st.dictionaries(st.sampled_from(["deadline", "stuck", "bad_output"]), counts),
    set_sizes=st.dictionaries(st.sampled_from(["0", "1", "2", "10"]), counts),
)  # fmt: skip


@given(st.lists(slots, min_size=1, max_size=5), st.lists(st.floats(0, 10_000), min_size=5, max_size=5))
def test_sums_are_over_every_process_of_the_stage_living_or_lost(parts, beats):
    reports = [worker_report(i, beats[i], part, slot_report("champion", answers=7)) for i, part in enumerate(parts)]
    total = summed(reports, 1, "challenger")
    for name in ("answers", "calls", "failures", "slow"):
        assert getattr(total, name) == sum(getattr(part, name) for part in parts)
    for name in ("fallbacks", "set_sizes"):
        for key in {key for part in parts for key in getattr(part, name)}:
            assert getattr(total, name).get(key, 0) == sum(getattr(part, name).get(key, 0) for part in parts)
    assert total.slot == "challenger"
    assert summed(reports, 1, "champion").answers == 7 * len(parts)


def test_other_stages_other_slots_and_runners_are_left_out_of_a_sum():
    mine = slot_report(answers=5)
    reports = [
        worker_report(1, NOW, mine),
        worker_report(2, NOW, slot_report(answers=100), stage=2),
        worker_report(3, NOW, slot_report("champion", answers=100)),
        worker_report(4, NOW, slot_report(answers=100), role="runner"),
    ]
    assert summed(reports, 1, "challenger").answers == 5
    assert summed(reports, 3, "challenger") is None
    assert summed([], 1, "challenger") is None
