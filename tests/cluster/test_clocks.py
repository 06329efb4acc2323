"""M8: clocks of machines five minutes apart: who is alive, what comes first, ids and horizons are right all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.cluster.forms import Form
from tests.cluster.machines import at_another_time
from tests.cluster.running import WORKERS, Running
from tests.faults.figures import record
from tests.faults.load import failed
from tests.faults.place import until

APART_S = 300


@pytest.fixture
def apart(service: Running) -> Iterator[None]:
    """One machine is ahead, one behind, and the monitor that acts is on the one that is ahead."""
    first, ahead, behind = service.machines
    for machine, seconds in ((ahead, APART_S), (behind, -APART_S)):
        machine.stop("serve")
        machine.serve(WORKERS, **at_another_time(seconds))
    for machine in (first, ahead):
        machine.stop("monitor")
    ahead.monitor(**at_another_time(APART_S))
    for machine in service.machines:
        machine.until_ready()
    until(lambda: service.acting() == [ahead] and len(service.reports()) == service.workers, 30, "all report")
    yield
    for machine in (ahead, behind):
        machine.stop("serve")
        machine.stop("monitor")


@pytest.mark.usefixtures("apart")
def test_m8_with_clocks_five_minutes_apart_everything_is_in_order(service: Running, form: Form) -> None:
    _, ahead, behind = service.machines
    journal_before = len(service.journal())
    with service.load(form.rate) as load:
        ahead.surety("rollout", "canary", "0.5", "v2", "--why", "from a machine that is ahead")
        time.sleep(form.gone_s)
        told = [machine.served.status() for machine in service.machines]
        words = {machine.served.predict()["validity"] for machine in service.machines}
        behind.surety("rollout", "rollback", "--why", "from a machine that is behind")
        time.sleep(1)
    entries = service.journal()[journal_before:]
    made = [e["why"] for e in entries if e["event"] == "rollout.changed"]
    assert failed(load.seen) == []
    assert len({s.request_id for s in load.seen}) == len(load.seen)
    assert {s.slot for s in load.seen} == {"champion", "challenger"}
    for status in told:
        assert [m["alive"] for m in status["home"]["machines"] if m["age_s"] < 60] == [WORKERS] * 3
        assert status["rollout"]["canary_held"] is False
        assert status["home"]["silence_s"] <= 3
    assert "unmonitored" not in words
    assert made == ["from a machine that is ahead", "from a machine that is behind"]
    assert all(before["at"] <= after["at"] for before, after in pairwise(entries))
    assert [any("the clock of this machine is" in note for note in status["notes"]) for status in told] == [
        False,
        True,
        True,
    ]
    record(
        "M8 clocks five minutes ahead and behind",
        "liveness, order and ids are right; /status of the machine names how far its clock is off; no failed request",
        {"rate": form.rate, "apart_s": 2 * APART_S, "requests": len(load.seen), "failed": 0},
    )
