"""M6: a canary that fails on one machine is judged on what all machines have seen, and taken back everywhere."""

from __future__ import annotations

import re
import time

from tests.cluster.forms import Form
from tests.cluster.running import Running
from tests.faults.figures import record
from tests.faults.load import failed
from tests.faults.place import until


def test_m6_a_canary_that_fails_on_one_machine_is_taken_back_everywhere(service: Running, form: Form) -> None:
    bad, others = service.machines[2], service.machines[:2]
    bad.place.break_model({"do": "raise", "model_hash": service.tags[2].rpartition("-")[2]})
    with service.load(form.rate) as load:
        time.sleep(1)
        service.machines[1].surety("rollout", "canary", "0.5", "v2", "--why", "fails on one machine")
        until(lambda: service.state().mode == "off", 60, "taken back")
        after = service.state()
        began = min(at for machine in service.machines for at in machine.obeyed_at(after.generation - 1))
        took_s = service.obeyed(after.generation) - began
    assert failed(load.seen) == []
    flagged = [s for s in load.seen if s.flagged]
    assert {s.machine for s in flagged} == {bad.name}
    assert {s.reason for s in flagged} <= {"model_error", "circuit_open"}
    assert (after.changed_by, after.champion, after.challenger) == ("monitor", service.tags[1], None)
    observed, counted = _verdict(after.why)
    asked = {
        m.name: sum(s.slot == "challenger" or s.flagged for s in load.seen if s.machine == m.name)
        for m in service.machines
    }
    assert counted > max(asked.values()), "judged on one machine alone"
    assert 0.02 < observed < 0.9
    assert all(any(s.slot == "challenger" for s in load.seen if s.machine == m.name) for m in others)
    assert took_s <= 12.0 * form.patience
    record(
        "M6 canary that fails on one machine of three",
        "judged on the sum of all machines, taken back everywhere within 12 s; no failed request",
        {"rate": form.rate, "requests": len(load.seen), "failed": 0, "flagged": len(flagged), "observed_share": observed,
         "observations": counted, "taken_back_after_s": round(took_s, 1)},
    )  # fmt: skip


def _verdict(why: str) -> tuple[float, int]:
    """Observed share and number of observations of the guard that tripped."""
    found = re.search(r"guard (?:error|fallback)_share: ([0-9.]+) over [0-9.]+ in ([0-9]+) observations", why)
    assert found is not None, why
    return float(found[1]), int(found[2])
