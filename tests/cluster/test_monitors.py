"""M4: of two monitors exactly one acts, whatever dies, and nothing is decided or journalled twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Self

from ml_core.base.errors import HomeUnreachable
from ml_core.serve.home.homes import open_home
from ml_core.serve.rollout.monitor_state import monitor_document
from tests.cluster.forms import Form
from tests.cluster.machines import Machine
from tests.cluster.running import Running
from tests.faults.figures import record
from tests.faults.load import failed
from tests.faults.place import until

GAP_S = 10.0


class Publications:
    """When the monitor's state was seen to have changed, in seconds of the monotonic clock."""

    def __init__(self, service: Running) -> None:
        self._documents = open_home(service.operator.settings).documents
        self._name = monitor_document(service.operator.model)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.at: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def gap_s(self, since: float) -> float:
        """The longest time without a publication from then on."""
        times = [since, *(at for at in self.at if at > since)]
        return max((b - a for a, b in pairwise(times)), default=float("inf"))

    def _look(self) -> None:
        last = None
        while not self._ends.wait(0.1):
            with suppress(HomeUnreachable):
                content = self._documents.read(self._name)
                if content != last:
                    last = content
                    self.at.append(time.monotonic())


def test_m4_one_monitor_acts_whatever_dies_and_nothing_is_decided_twice(service: Running, form: Form) -> None:
    journal_before = len(service.journal())
    gaps = {}
    with service.load(form.rate) as load, Publications(service) as published:
        gaps["killed"] = _gap(service, published, _killed)
        gaps["cut_off"] = _gap(service, published, _cut_off)
        gaps["database_failed_over"] = _gap(service, published, _failed_over)
        for machine in service.machines:
            machine.place.break_model({"do": "raise", "model_hash": service.tags[2].rpartition("-")[2]})
        service.machines[2].surety("rollout", "canary", "0.5", "v2", "--why", "fails everywhere")
        until(lambda: service.state().mode == "off", 60, "taken back")
        time.sleep(3)
    entries = service.journal()[journal_before:]
    taken_back = [e for e in entries if e["event"] == "rollout.changed" and e["who"] == "monitor"]
    alarms = [
        (e["event"], e.get("model_hash"), e.get("alarm"), e.get("since")) for e in entries if "alarm" in e["event"]
    ]
    assert failed(load.seen) == []
    assert len(taken_back) == 1
    assert len(alarms) == len(set(alarms)), alarms
    assert max(gaps.values()) <= GAP_S * form.patience, gaps
    record(
        "M4 acting monitor killed, cut off; database failed over under both",
        "exactly one acts, at most 10 s without; no alarm or journal entry twice; no failed request",
        {"rate": form.rate, "requests": len(load.seen), "failed": 0,
         **{f"gap_{what}_s": round(gap, 1) for what, gap in gaps.items()}, "taken_back": len(taken_back)},
    )  # fmt: skip


def _gap(service: Running, published: Publications, fault: Callable[[Running, Machine], None]) -> float:
    """The longest silence from the fault on until the monitor that took over has published a few times."""
    (acting,) = service.acting()
    began = time.monotonic()
    fault(service, acting)
    until(
        lambda: sum(at > max(began, time.monotonic() - 4) for at in published.at) >= 3, 60, "a monitor publishes again"
    )
    gap = published.gap_s(began)
    acting.host.heal()
    if not acting.is_running("monitor"):
        acting.monitor()
    until(lambda: len(service.acting()) == 1, 60, "one monitor acts")
    return gap


def _killed(_: Running, acting: Machine) -> None:
    acting.kill("monitor")


def _cut_off(service: Running, acting: Machine) -> None:
    acting.host.cut()
    until(lambda: any(m is not acting for m in service.acting()), 60, "the other monitor acts")


def _failed_over(service: Running, _: Machine) -> None:
    service.cluster.database.stop("immediate")
    service.cluster.database.start()
