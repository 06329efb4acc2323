"""M3: a machine dies with its disk: strict mode has lost nothing, standard mode at most what was known to be unshipped."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from ml_core.serve.rollout import changes
from tests.cluster.forms import Form
from tests.cluster.running import Running
from tests.faults.figures import record
from tests.faults.load import answered, failed, percentile
from tests.faults.place import until

NOTICED_WITHIN_S = 10.0


@pytest.mark.parametrize("mode", ["strict", "standard"])
def test_m3_a_machine_dies_with_its_disk(service: Running, form: Form, mode: str) -> None:
    service.obeyed(service.change(changes.flags({"log_mode": mode})))
    dying = service.machines[2]
    with service.load(form.rate) as load:
        time.sleep(4)
        dying.die()
        died_at = time.monotonic()
        until(lambda: _alive(service, dying.name) == 0, NOTICED_WITHIN_S * form.patience, "the others know")
        at_risk = sum(
            r.log.shipping.at_risk
            for r in service.known_reports()
            if r.machine == dying.name and r.log is not None and r.log.shipping is not None
        )
        time.sleep(4)
    service.wholly_shipped()
    given = answered(load.seen)
    rows = service.rows_of(s.request_id for s in given)
    missing = [s for s in given if rows[s.request_id] == 0]
    unanswered = failed(load.seen)
    assert any(s.machine == dying.name for s in given)
    assert {s.machine for s in missing} <= {dying.name}
    assert max(rows.values()) == 1
    # What was under way there when it died; strict mode refuses, and so loses nothing, where a busy disk is too slow.
    assert all(s.due_s > died_at - 2 or (mode == "strict" and s.status == 503) for s in unanswered)
    assert not [s for s in unanswered if s.due_s > died_at + NOTICED_WITHIN_S]
    age_s = max((died_at - s.ended_s for s in missing), default=0.0)
    if mode == "strict":
        assert missing == []
    else:
        assert len(missing) <= max(at_risk, 1)
        assert age_s <= 1.0 * form.patience
    record(
        f"M3 machine dies with its disk ({mode})",
        "0 acknowledged answers are missing" if mode == "strict" else "at most what its last report called at risk is missing",
        {"rate": form.rate, "requests": len(load.seen), "answered_there": sum(s.machine == dying.name for s in given),
         "missing": len(missing), "at_risk": at_risk, "oldest_missing_s": round(age_s, 2),
         "unanswered": len(unanswered), "unanswered_by_status": dict(Counter(str(s.status or s.error) for s in unanswered)),
         "slowest_unanswered_ms": percentile([s.latency_ms for s in unanswered], 1.0)},
    )  # fmt: skip


def _alive(service: Running, machine: str) -> int:
    told = service.machines[0].served.status()["home"]["machines"]
    return next(int(m["alive"]) for m in told if m["machine"] == machine)
