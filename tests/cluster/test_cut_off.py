"""M2: a machine that is cut off from the stores answers, holds what nobody can take back, and obeys when it is back."""

from __future__ import annotations

import time

from ml_core.serve.rollout import changes
from tests.cluster.forms import Form
from tests.cluster.running import Running
from tests.faults.figures import record
from tests.faults.load import Seen, failed
from tests.faults.place import until

SILENCE_S = 15.0
"""After which a machine leaves a canary's share to the champion."""


def test_m2_a_machine_cut_off_from_the_stores_answers_and_obeys_when_it_is_back(service: Running, form: Form) -> None:
    cut_off, elsewhere = service.machines[2], service.machines[:2]
    lasts_s = max(form.gone_s, SILENCE_S + 7)
    elsewhere[0].surety("rollout", "canary", "0.5", "v2", "--why", "before the cut")
    status_s = []
    with service.load(form.rate) as load:
        time.sleep(2)
        cut_off.host.cut()
        cut_at = time.monotonic()
        generation = service.change(changes.flags({"shadow_share": 0.25}))
        while time.monotonic() < cut_at + lasts_s:
            began = time.monotonic()
            status = cut_off.served.status()
            status_s.append(time.monotonic() - began)
            time.sleep(0.5)
        obeyed_elsewhere = [machine.obeyed_at(generation) for machine in elsewhere]
        assert cut_off.obeyed_at(generation) == []
        told_elsewhere = elsewhere[0].served.status()["home"]["machines"]
        healed_at, healed = time.monotonic(), time.time()
        cut_off.host.heal()
        until(lambda: len(cut_off.obeyed_at(generation)) == 2, 20, "the machine obeys again")
        obeyed_s = max(cut_off.obeyed_at(generation)) - healed
        until(lambda: cut_off.served.status()["rollout"]["canary_held"] is False, 20, "the canary goes on there")
        time.sleep(2)
    assert failed(load.seen) == []
    assert all(obeyed_elsewhere)
    assert status["rollout"]["canary_held"] is True
    assert status["home"]["silence_s"] >= SILENCE_S
    assert any("the home has not been reached for" in note for note in status["notes"])
    assert any("the champion answers the canary's share" in note for note in status["notes"])
    assert next(m for m in told_elsewhere if m["machine"] == cut_off.name)["alive"] == 0
    there = [s for s in load.seen if s.machine == cut_off.name]
    held_s = _last_of_the_canary(there, cut_at, healed_at) - cut_at
    assert held_s <= SILENCE_S + 1.5 * form.patience
    assert {s.slot for s in load.seen if s.machine != cut_off.name and s.due_s > cut_at} == {"champion", "challenger"}
    assert any(s.slot == "challenger" for s in there if s.due_s > healed_at)
    assert obeyed_s <= 1.0 * form.patience
    record(
        "M2 machine cut off from database and objects",
        "it answers; its canary's share goes to the champion after 15 s; it obeys within 1 s of being back; no failed request",
        {"rate": form.rate, "cut_s": round(lasts_s), "requests": len(load.seen), "there": len(there), "failed": 0,
         "held_after_s": round(held_s, 1), "obeyed_after_s": round(obeyed_s, 2), "slowest_status_s": round(max(status_s), 2)},
    )  # fmt: skip


def _last_of_the_canary(seen: list[Seen], since: float, until_: float) -> float:
    return max(s.due_s for s in seen if s.slot == "challenger" and since <= s.due_s < until_)
