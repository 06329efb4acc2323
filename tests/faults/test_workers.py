"""Workers that are killed, stopped, or given a circuit order: F1, F2, F12, F19 and B47."""

from __future__ import annotations

import random
import signal
import time

import psutil
import pytest

from ml_core.serve.rollout import changes
from tests.faults.figures import record
from tests.faults.load import Load, answered, failed, percentile
from tests.faults.place import RECORDS, FaultPlace, Served, until

BODIES = [{"features": r} for r in RECORDS]
CONNECTIONS = 16


def killed(served: Served) -> int:
    """Kill one API worker with SIGKILL; its pid."""
    victim = served.processes()[0]
    victim.send_signal(signal.SIGKILL)
    return victim.pid


def one_missing(served: Served) -> bool:
    return bool(served.status()["workers"]["alive"]["api"] == 1)


def a_new_one(place: FaultPlace, known: set[int]) -> bool:
    return not {r.pid for r in place.reports()} <= known


@pytest.mark.parametrize("where", ["F1 on a machine", "F2 in a container"])
def test_f1_f2_killed_worker_costs_only_its_own_requests_and_comes_back(place: FaultPlace, where: str) -> None:
    container = {"BENTOML_CONTAINERIZED": "1"} if "container" in where else {}
    with place.served(SURETY_WORKERS="2", **container) as served:
        until(lambda: len(place.reports()) == 2, 10, "two workers report")
        time.sleep(2.5)  # until each has seen the other
        with Load(served.address, bodies=BODIES, rate=250, connections=CONNECTIONS) as load:
            time.sleep(2)
            known = {r.pid for r in place.reports()}
            at_s = time.monotonic()
            victim = killed(served)
            # Where BentoML's next look comes soon, the new worker is there before the old one is missed.
            until(lambda: one_missing(served) or a_new_one(place, known), 6, "/status shows the loss")
            shown_s = time.monotonic() - at_s
            until(lambda: victim not in {r.pid for r in place.reports()}, 6, "the loss is seen")
            until(lambda: len(place.reports()) == 2, 15, "two workers again")
            back_s = time.monotonic() - at_s
            time.sleep(1)
        lost = failed(load.seen)
        assert len(lost) <= CONNECTIONS
        assert all(at_s - 1 <= s.due_s <= at_s + 1 for s in lost)
        assert all(s.strict and not s.flagged for s in answered(load.seen))
        assert back_s <= 15
        record(
            f"{where}: kill -9 of one of two workers at 250/s",
            "only requests in its hands fail; the loss shows within 5 s; two workers again within 12 s",
            {
                "shown_s": round(shown_s, 1),
                "requests": len(load.seen),
                "failed": len(lost),
                "two_workers_again_s": round(back_s, 1),
                "p99_ms": percentile([s.latency_ms for s in answered(load.seen)], 0.99),
            },
        )


def test_f2_worker_lost_in_a_container_is_shown_and_ends_liveness(place: FaultPlace) -> None:
    """BentoML's own behaviour: nothing replaces the worker."""
    more = {"BENTOML_CONTAINERIZED": "1", "SURETY_RESPAWN": "false", "SURETY_MISSING_WORKER_S": "6"}
    with place.served(SURETY_WORKERS="2", **more) as served:
        until(lambda: len(place.reports()) == 2, 10, "two workers report")
        time.sleep(2.5)  # until each has seen the other
        assert {served.status()["workers"]["alive"]["api"] for _ in range(10)} == {2}
        assert served.get("/livez").status_code == 200
        ready: list[int] = []
        began = time.monotonic()
        killed(served)
        shown_s = until(lambda: served.status()["workers"]["alive"] == {"api": 1}, 8, "/status shows the loss")
        counted_s = until(lambda: served.metric("surety_workers", role="api") == 1, 8, "/metrics shows the loss")
        counted_s = max(shown_s, time.monotonic() - began if counted_s else shown_s)
        assert served.metric("surety_workers_expected", role="api") == 2
        assert served.status()["health"] == "degraded"

        def dead() -> bool:
            ready.append(served.get("/readyz").status_code)
            return served.get("/livez").status_code == 503

        until(dead, 15, "/livez fails")
        dead_s = time.monotonic() - began
        for _ in range(20):
            ready.append(served.get("/readyz").status_code)
            served.predict()
        assert set(ready) == {200}
        assert counted_s <= 6
        assert 6 <= dead_s <= 14
        assert served.status()["workers"]["alive"] == {"api": 1}, "BentoML does not bring it back in a container"
        record(
            "F2 in a container with SURETY_RESPAWN=false, where nobody brings it back",
            "the lost worker shows in /status and /metrics within 5 s, /readyz stays 200, /livez fails after the limit (6 s)",
            {"shown_s": round(shown_s, 1), "in_metrics_s": round(counted_s, 1), "livez_503_s": round(dead_s, 1)},
        )


def test_f12_worker_killed_while_it_reloads_comes_back_whole_twenty_times(place: FaultPlace) -> None:
    rounds, workers = 5, 5
    dice = random.Random(12)
    tags = [place.tag(1), place.tag(2)]
    kills = 0
    with place.served(SURETY_WORKERS=str(workers), SURETY_POLL_S="0.1") as served:
        until(lambda: len(place.reports()) == workers, 30, "all workers report")
        known = {tag.rpartition("-")[2] for tag in tags}
        with Load(served.address, bodies=BODIES, rate=50, connections=CONNECTIONS) as load:
            for number in range(rounds):
                victims = served.processes()[: workers - 1]
                generation = 0
                for i, victim in enumerate(victims):
                    generation = place.change(changes.full(tags[(number * len(victims) + i + 1) % 2]))
                    time.sleep(dice.uniform(0, 0.35))
                    victim.send_signal(signal.SIGKILL)
                    kills += 1
                gone = {v.pid for v in victims}
                until(lambda lost=gone: not lost & {r.pid for r in place.reports()}, 6, "they are gone")  # type: ignore[misc]
                place.obeyed(generation, 40, workers)
                assert {r.problem for r in place.reports()} == {None}
                assert {s.tag for r in place.reports() for s in r.slots if s.slot == "champion"} == {
                    tags[(number * len(victims) + len(victims)) % 2]
                }
    hashes = {s.model_hash[:8] for s in answered(load.seen)}
    assert hashes <= known
    assert all(s.strict and not s.flagged for s in answered(load.seen))
    assert len(failed(load.seen)) <= kills * CONNECTIONS
    record(
        "F12 kill -9 of a worker while it reloads",
        "the next one serves the old or the new model, whole",
        {"kills": kills, "bad_starts": 0, "requests": len(load.seen), "failed": len(failed(load.seen))},
    )


def test_f19_stopped_under_load_it_finishes_what_it_has_and_leaves_with_0(place: FaultPlace) -> None:
    place.break_model(quick=False)
    more = {"SURETY_POOL_THREADS": "16", "SURETY_POOL_QUEUE": "64"}
    with place.served(SURETY_WORKERS="2", **more) as served:
        until(lambda: len(place.reports()) == 2, 10, "two workers report")
        place.break_model({"do": "sleep", "ms": 300})
        with Load(served.address, bodies=BODIES, rate=30, connections=64) as load:
            time.sleep(2)
            stopped_at = time.monotonic()
            arbiter = psutil.Process(served.pid)
            arbiter.send_signal(signal.SIGTERM)
            status = arbiter.wait(30)
            took_s = time.monotonic() - stopped_at
    in_hand = [s for s in load.seen if s.due_s < stopped_at - 0.05]
    after = [s for s in load.seen if s.due_s >= stopped_at - 0.05]
    finished_later = [s for s in in_hand if s.due_s + s.latency_ms / 1000 > stopped_at]
    assert status == 0
    assert took_s <= 30
    assert {s.status for s in in_hand} == {200}
    assert finished_later, "nothing was under way when it was stopped"
    assert {s.status for s in after} <= {0, 200}
    assert "Traceback" not in served.log.read_text()
    record(
        "F19 SIGTERM under load",
        "what is under way is answered, exit status 0 within 30 s",
        {
            "under_way": len(finished_later),
            "failed": 0,
            "answered_after_the_signal": len(answered(after)),
            "ended_s": round(took_s, 2),
        },
    )


def test_b47_operators_order_reaches_every_worker_and_the_next_one(place: FaultPlace) -> None:
    with place.served(SURETY_WORKERS="4") as served:
        until(lambda: len(place.reports()) == 4, 15, "four workers report")
        with Load(served.address, bodies=BODIES, rate=100, connections=CONNECTIONS) as load:
            time.sleep(1)
            ordered_at = time.monotonic()
            place.surety("rollout", "breaker", "open", "--why", "test")
            command_s = time.monotonic() - ordered_at
            time.sleep(2)
            obeyed_at = time.monotonic()
            time.sleep(1)
        turned = [s for s in load.seen if s.due_s >= obeyed_at]
        assert {(s.status, s.reason, s.flagged) for s in turned} == {(200, "circuit_open", True)}
        last_by_model = max(s.due_s for s in load.seen if not s.flagged)
        first_turned = min(s.due_s for s in load.seen if s.flagged)
        assert last_by_model - first_turned <= 2
        assert failed(load.seen) == []

        time.sleep(1.5)  # a worker brings its circuits' counts into the metrics once a second
        victim = killed(served)
        until(lambda: victim not in {r.pid for r in place.reports()}, 6, "the loss is seen")
        until(lambda: len(place.reports()) == 4, 15, "four workers again")
        assert {r.slots[0].circuit.mode for r in place.reports()} == {"forced_open"}
        again = Load(served.address, bodies=BODIES, rate=200, total=400, connections=64).run()
        assert {(s.status, s.reason) for s in again} == {(200, "circuit_open")}

        place.surety("rollout", "breaker", "auto")
        with Load(served.address, bodies=BODIES, rate=200, total=400, connections=64) as healthy:
            pass
        assert {(s.status, s.flagged) for s in healthy.seen} == {(200, False)}

        everything = [*load.seen, *again, *healthy.seen]
        rejected, passed = sum(s.flagged for s in everything), sum(not s.flagged for s in everything)
        assert served.metric("surety_answers_total", fallback_reason="circuit_open") == rejected
        assert served.metric("surety_answers_total", fallback_reason="") == passed
        time.sleep(1.5)
        in_metrics = served.metric("surety_circuit_calls_total", outcome="rejected")
        assert in_metrics == rejected
        assert served.metric("surety_circuit_calls_total", outcome="success") == passed
        assert [served.metric("surety_circuits", state=state) for state in ("open", "closed")] == [0, 4]
        record(
            "B47 operator opens the circuits of four workers",
            "all reject within 2 s, also one that starts later, and the metrics sum to the truth",
            {
                "spread_s": round(max(0.0, last_by_model - first_turned), 2),
                "command_s": round(command_s, 2),
                "rejected_answers": rejected,
                "rejected_in_metrics": int(in_metrics),
            },
        )


def test_lost_parent_is_said_and_workers_answer_on(place: FaultPlace) -> None:
    options = "services.Surety.http.cors.enabled=false"
    with place.served(SURETY_WORKERS="2", BENTOML_CONFIG_OPTIONS=options) as served:
        until(lambda: len(place.reports()) == 2, 10, "two workers report")
        (note,) = served.status()["notes"]
        assert "http.cors" in note
        assert "has no effect here" in served.log.read_text()
        workers = served.processes()
        try:
            psutil.Process(served.pid).kill()
            said_s = until(lambda: any("has gone" in n for n in served.status()["notes"]), 5, "/status says it")
            assert served.status()["health"] == "degraded"
            assert served.predict()["fallback_used"] is False
            until(lambda: len(served.logged("parent.lost")) == 2, 5, "each worker says it")
        finally:
            for worker in workers:
                worker.kill()
    record(
        "kill -9 of the process that started the workers",
        "workers answer on; /status and the log say that nobody replaces lost ones, /health is degraded",
        {"said_after_s": round(said_s, 1)},
    )
