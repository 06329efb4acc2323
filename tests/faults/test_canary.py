"""A canary with real processes: its share of the traffic, and the rollback of a bad canary."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from scipy.stats import binom

from ml_core.base.journal import Journal
from ml_core.serve.rollout.rollout_store import RolloutStore
from tests.e2e.workplace import ROOT
from tests.faults.figures import record
from tests.faults.load import Load, failed
from tests.faults.place import FaultPlace, Served, until

RECORD = {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148}
RATE = 200


def bodies(n: int) -> list[dict[str, object]]:
    return [{"features": {**RECORD, "age": 20 + i % 80}, "subject": f"patient-{i}"} for i in range(n)]


@contextmanager
def monitored(place: FaultPlace) -> Iterator[None]:
    """The monitor beside the service, as `make serve` starts it."""
    began = time.time()
    monitor = subprocess.Popen(
        [sys.executable, "-m", "ml_core.cli.main", "monitor", "--every", "1s"],
        cwd=ROOT, env=place.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: place.settings.monitor_state.stat().st_mtime > began, 90, "the monitor publishes")
        yield
    finally:
        monitor.terminate()
        monitor.wait(10)


def canary(place: FaultPlace, weight: str) -> None:
    place.surety("rollout", "canary", weight, "v2", "--why", "a test")


def taken_back(served: Served) -> bool:
    return served.status()["rollout"]["mode"] == "off"


def test_canary_has_its_share_and_each_subject_its_model(place: FaultPlace) -> None:
    with place.served(SURETY_WORKERS="2") as served, monitored(place):
        canary(place, "0.2")
        seen = Load(served.address, bodies=bodies(1_000), rate=RATE, connections=16, total=2_000).run()
        place.surety("rollout", "rollback")
    assert failed(seen) == []
    first, again = seen[:1_000], seen[1_000:]
    slots = [s.slot for s in first]
    low, high = binom.ppf([1e-6, 1 - 1e-6], 1_000, 0.2)
    assert low <= slots.count("challenger") <= high
    # Every subject was asked twice, by whichever worker: requests are recorded in the order in which they were due.
    by_due = sorted(seen, key=lambda s: s.due_s)
    assert [s.slot for s in by_due[:1_000]] == [s.slot for s in by_due[1_000:]]
    assert len(again) == 1_000


def test_healthy_canary_stays(place: FaultPlace) -> None:
    with place.served(SURETY_WORKERS="2") as served, monitored(place):
        canary(place, "0.5")
        seen = Load(served.address, bodies=bodies(500), rate=RATE, connections=16, total=2_000).run()
        assert not taken_back(served)
        place.surety("rollout", "rollback")
    assert failed(seen) == []


def test_canary_that_fails_is_taken_back_by_itself_without_a_failed_request(place: FaultPlace) -> None:
    two = place.tag(2).rpartition("-")[2]
    with (
        place.served(SURETY_WORKERS="2") as served,
        monitored(place),
        Load(served.address, bodies=bodies(500), rate=RATE, connections=16) as load,
    ):
        canary(place, "0.3")
        place.break_model({"do": "raise", "model_hash": two})
        took_s = until(lambda: taken_back(served), 30, "taken back")
        until(lambda: served.metric("surety_rollbacks", guard="error_share") + served.metric(
            "surety_rollbacks", guard="fallback_share") >= 1, 5, "counted")  # fmt: skip
        place.break_model()
    assert failed(load.seen) == []
    bad = [s for s in load.seen if s.flagged]
    assert all(s.reason in {"model_error", "circuit_open"} for s in bad)
    state = RolloutStore(place.settings).read()
    assert state is not None
    assert (state.changed_by, state.challenger) == ("monitor", None)
    assert state.why.startswith("guard ")
    assert Journal(place.settings.journal).entries()[-1]["why"] == state.why
    record(
        "canary that fails every call, at 200/s",
        "taken back by itself with the reason in journal, log and metric; no failed request",
        {"requests": len(load.seen), "failed": 0, "flagged": len(bad), "taken_back_after_s": round(took_s, 1)},
    )


def test_canary_that_nobody_watches_is_held_after_thirty_seconds_and_goes_on_with_the_monitor(
    place: FaultPlace,
) -> None:
    with place.served(SURETY_WORKERS="2") as served:
        with monitored(place):
            canary(place, "0.5")
            until(lambda: served.status()["rollout"]["mode"] == "canary", 5, "a canary")
            assert served.status()["rollout"]["canary_held"] is False
        silent_at = time.monotonic()
        until(lambda: served.metric("surety_canary_held") == 2, 45, "both workers hold it", every_s=0.5)
        held_s = time.monotonic() - silent_at
        assert 25 <= held_s <= 40
        held = Load(served.address, bodies=bodies(200), rate=RATE, connections=16, total=200).run()
        assert any("monitor is silent" in note for note in served.status()["notes"])
        with monitored(place):
            back_s = until(lambda: served.metric("surety_canary_held") == 0, 15, "the canary goes on")
            seen = Load(served.address, bodies=bodies(200), rate=RATE, connections=16, total=200).run()
    assert failed(held) == failed(seen) == []
    assert {s.slot for s in held} == {"champion"}
    assert {s.slot for s in seen} == {"champion", "challenger"}
    record(
        "monitor of a running canary killed, then started again",
        "after 30 s the champion answers the canary's share, the canary has it again when the monitor publishes",
        {
            "held_after_s": round(held_s, 1),
            "back_after_s": round(back_s, 1),
            "requests": len(held) + len(seen),
            "failed": 0,
        },
    )
