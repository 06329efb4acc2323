"""Who is alive, who is missing and for how long, from reports alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ml_core.serve.rollout.processes import Identity, ServerProcesses
from tests.serve.answering.builders import worker_report
from tests.serve.running.fake_clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def beats(clock: FakeClock, *pids: int, role: str = "api", server: str = "s"):
    return [worker_report(pid, clock(), role=role, server=server) for pid in pids]


def test_nobody_is_missing_while_all_report(clock):
    processes = ServerProcesses("s", {"api": 2}, clock)
    assert processes.look(beats(clock, 1, 2)) == []
    clock.advance(100)
    assert (processes.alive, processes.missing_s) == ({"api": 2}, 0.0)


def test_what_is_missing_is_timed_from_the_first_look_without_it(clock):
    processes = ServerProcesses("s", {"api": 2}, clock)
    processes.look(beats(clock, 1, 2))
    clock.advance(10)
    processes.look(beats(clock, 1))
    assert (processes.alive, processes.missing_s) == ({"api": 1}, 0.0)
    for _ in range(4):
        clock.advance(5)
        processes.look(beats(clock, 1))
    assert processes.missing_s == 20.0
    processes.look(beats(clock, 1, 3))
    clock.advance(5)
    assert (processes.alive, processes.missing_s) == ({"api": 2}, 0.0)


def test_a_server_that_starts_is_missing_those_who_have_not_reported_yet(clock):
    processes = ServerProcesses("s", {"api": 2}, clock)
    assert processes.missing_s == 0.0
    processes.look(beats(clock, 1))
    clock.advance(1)
    assert processes.missing_s == 1.0


def test_a_lost_process_is_told_until_its_report_is_gone(clock):
    processes = ServerProcesses("s", {"api": 2}, clock)
    reports = beats(clock, 1, 2)
    clock.advance(3.1)
    (lost,) = processes.look([*beats(clock, 1), reports[1]])
    assert lost.pid == 2
    assert processes.look(beats(clock, 1)) == []


def test_a_process_that_came_back_under_another_id_replaces_the_lost_one(clock):
    processes = ServerProcesses("s", {"api": 2}, clock)
    old = beats(clock, 2)
    clock.advance(60)
    lost = processes.look([*beats(clock, 1, 9), *old])
    assert ([r.pid for r in lost], processes.alive, processes.missing_s) == ([2], {"api": 2}, 0.0)


def test_two_reports_of_one_process_count_once(clock):
    processes = ServerProcesses("s", {"api": 2}, clock)
    processes.look([*beats(clock, 1), *beats(clock, 1)])
    assert processes.alive == {"api": 1}


def test_processes_of_other_servers_do_not_count(clock):
    processes = ServerProcesses("s", {"api": 1}, clock)
    assert processes.look(beats(clock, 1, 2, server="t")) == []
    assert processes.alive == {"api": 0}


def test_roles_are_counted_apart(clock):
    processes = ServerProcesses("s", {"api": 2, "runner": 1}, clock)
    processes.look(beats(clock, 1, 2))
    clock.advance(7)
    processes.look(beats(clock, 1, 2))
    assert (processes.alive, processes.missing_s) == ({"api": 2, "runner": 0}, 7.0)
    processes.look([*beats(clock, 1, 2), *beats(clock, 3, role="runner")])
    assert processes.missing_s == 0.0


def test_a_runner_is_lost_only_after_it_was_there(clock):
    processes = ServerProcesses("s", {"api": 1, "runner": 1}, clock, is_running=lambda pid: False)
    processes.look(beats(clock, 1))
    assert not processes.has_lost("runner")
    processes.look([*beats(clock, 1), *beats(clock, 2, role="runner")])
    assert not processes.has_lost("runner")
    clock.advance(4)
    processes.look(beats(clock, 1))
    assert processes.has_lost("runner")
    processes.look([*beats(clock, 1), *beats(clock, 5, role="runner")])
    assert not processes.has_lost("runner")


def test_a_process_that_is_only_silent_is_not_lost_while_it_runs(clock):
    running = {2}
    processes = ServerProcesses("s", {"runner": 1}, clock, is_running=running.__contains__)
    processes.look(beats(clock, 2, role="runner"))
    clock.advance(60)
    processes.look([])
    assert (processes.alive, processes.has_lost("runner")) == ({"runner": 0}, False)
    running.clear()
    assert processes.has_lost("runner")


def test_a_process_that_has_ended_is_seen_to_have_ended(clock):
    processes = ServerProcesses("s", {"runner": 1}, clock)
    for pid, lost in ((os.getpid(), False), (ended_process(), True)):
        processes.look(beats(clock, pid, role="runner"))
        clock.advance(60)
        processes.look([])
        assert processes.has_lost("runner") is lost


def ended_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_without_its_own_report_a_process_believes_no_census(clock):
    processes = ServerProcesses("s", {"api": 2}, clock, pid=1)
    processes.look(beats(clock, 1, 2))
    reports = beats(clock, 1, 2)
    clock.advance(60)
    assert processes.look(reports) == []  # all as old as its own: the folder cannot be written
    clock.advance(60)
    assert (processes.alive, processes.missing_s) == ({"api": 2}, 0.0)
    (lost,) = processes.look([*beats(clock, 1), reports[1]])
    clock.advance(9)
    assert (lost.pid, processes.alive, processes.missing_s) == (2, {"api": 1}, 9.0)


def test_processes_with_one_parent_are_of_one_server():
    code = (
        "from ml_core.serve.rollout.processes import Identity; import sys, os\n"
        "me = Identity.of_this_process('api', int(sys.argv[1])); assert me.pid == os.getpid()\n"
        "print(me.server, me.role, me.index)"
    )
    told = [
        subprocess.run([sys.executable, "-c", code, str(i)], capture_output=True, text=True, check=True).stdout.split()
        for i in (1, 2)
    ]
    assert told[0][0] == told[1][0]
    assert [(role, index) for _, role, index in told] == [("api", "1"), ("api", "2")]
    ours = Identity.of_this_process("api", 1)
    assert ours.server != told[0][0]  # our parent is another
    assert f"-{os.getpid()}-" in told[0][0]
