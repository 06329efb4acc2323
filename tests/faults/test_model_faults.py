"""A model that sleeps, fails, returns invalid output or gets too many requests: F3, F4, F5 and F18."""

from __future__ import annotations

import time

from tests.faults.figures import record
from tests.faults.load import Load, Seen, answered, degraded, failed, percentile
from tests.faults.place import RECORDS, FaultPlace, until

BODIES = [{"features": r} for r in RECORDS]
NONSENSE = ("nan", "inf", "negative", "sum", "shape", "empty")


def latencies(seen: list[Seen]) -> list[float]:
    return [s.latency_ms for s in seen]


def test_f3_hanging_model_holds_nobody_beyond_the_deadline_and_no_more_threads_than_its_pool(place: FaultPlace) -> None:
    place.break_model(quick=False)
    with place.served(SURETY_DEADLINE_MS="1000", SURETY_POOL_THREADS="8", SURETY_POOL_QUEUE="64") as served:
        served.predict()
        served.status()  # starts the thread that reads the reports
        worker = served.worker()
        before = worker.num_threads()
        place.break_model({"do": "sleep", "ms": 3_000})
        at_once = Load(served.address, bodies=BODIES, rate=1e6, total=50, connections=50).run()
        threads = worker.num_threads()
        assert {s.status for s in at_once} == {200}
        assert all(s.flagged and s.reason in {"deadline", "stuck", "circuit_open"} for s in at_once)
        assert max(latencies(at_once)) <= 2_000
        assert threads <= before + 8

        opened_s = until(lambda: served.champion()["circuit"]["state"] == "open", 5, "the circuit opens")
        later = Load(served.address, bodies=BODIES, rate=100, total=300, connections=64).run()
        assert {(s.status, s.flagged) for s in later} == {(200, True)}
        assert worker.num_threads() <= before + 8
        time.sleep(3.5)  # until the last abandoned call has come back
        assert served.metric("surety_stuck_threads") == 0
        assert worker.num_threads() <= before + 8
        abandoned = served.metric("surety_abandoned_calls_total")
        assert 1 <= abandoned <= 8
        record(
            "F3 model sleeps 3 s, deadline 1 s, 50 callers at once",
            "an answer at the deadline or before, flagged; threads bounded by the pool (8); circuit open",
            {
                "p50_ms": percentile(latencies(at_once), 0.5),
                "p99_ms": percentile(latencies(at_once), 0.99),
                "max_ms": round(max(latencies(at_once)), 1),
                "more_threads": threads - before,
                "abandoned_calls": int(abandoned),
                "open_after_the_last_answer_s": round(opened_s, 2),
                "then_p99_ms": percentile(latencies(later), 0.99),
            },
        )


def test_f4_failing_model_is_left_alone_after_five_calls_and_asked_again_once_healed(place: FaultPlace) -> None:
    wait_s = 3
    with place.served(SURETY_CIRCUIT_WAIT_S=str(wait_s)) as served:
        with Load(served.address, bodies=BODIES, rate=100, connections=32) as load:
            time.sleep(1)
            place.break_model({"do": "raise"})
            until(lambda: served.champion()["circuit"]["state"] == "open", 3, "the circuit opens")
            time.sleep(2 * wait_s)
            assert served.champion()["circuit"]["state"] != "closed"
            place.break_model()
            healed_at = time.monotonic()
            # The wait grows with each failed round: first 3 s, then 6 s, each up to a tenth longer.
            left_s = served.champion()["circuit"]["retry_after_s"] or 0.0
            until(lambda: served.champion()["circuit"]["state"] == "closed", left_s + 4, "the circuit closes")
            closed_s = time.monotonic() - healed_at
            time.sleep(1)
        called = [s for s in load.seen if s.reason == "model_error"]
        by_chain = [s for s in load.seen if s.reason == "circuit_open"]
        assert failed(load.seen) == []
        assert all(s.flagged and s.reason for s in degraded(load.seen))
        assert not any(s.flagged for s in answered(load.seen) if s.slot == "champion")
        assert {s.slot for s in called} == {"prior"}, "a row that a model failed on gets every label"
        assert {s.slot for s in by_chain} == {"scorecard"}
        rounds = served.metric("surety_circuit_transitions_total", before="half_open", after="open")
        assert 5 <= len(called) <= 5 + 3 * (rounds + 1)
        first_open = min(s.due_s for s in by_chain)
        assert sum(s.due_s < first_open for s in called) <= 5 + 1
        assert closed_s <= left_s + 2.5
        record(
            "F4 model raises, then heals",
            "open within 5 failures, every degraded answer flagged, closed at most 2 s after the wait",
            {
                "failures_before_it_opened": sum(s.due_s < first_open for s in called),
                "degraded": len(degraded(load.seen)),
                "unflagged": sum(not s.flagged for s in degraded(load.seen)),
                "failed": 0,
                "closed_after_the_wait_s": round(closed_s - left_s, 2),
            },
        )


def test_f5_nonsense_of_a_model_never_leaves(place: FaultPlace) -> None:
    """Every third call fails, with each kind of invalid output in turn. The circuit only watches, so the model is always called."""
    kinds: dict[str, int] = {}
    seen: list[Seen] = []
    with place.served() as served:
        place.surety("rollout", "breaker", "disable")
        for kind in NONSENSE:
            place.break_model({"do": kind, "every": 3})
            time.sleep(0.2)
            found = Load(served.address, bodies=BODIES, rate=900, total=1_500, connections=16).run()
            kinds[kind] = sum(s.reason == "bad_output" for s in found)
            seen += found
        batches = 0
        for kind in NONSENSE:
            place.break_model({"do": kind, "column": 0, "above": 60})
            time.sleep(0.2)
            for _ in range(5):
                reply = served.post("/predict_batch", {"records": RECORDS})
                rows = reply.json()["predictions"]
                assert b"NaN" not in reply.content
                assert b"Infinity" not in reply.content
                for row, given in zip(rows, RECORDS, strict=True):
                    assert row["fallback_used"] == (given["age"] > 60)
                    assert 0 <= row["probability"] <= 1
                batches += len(rows)
    assert {s.status for s in seen} == {200}
    assert all(s.strict for s in seen)
    assert all(0 <= s.probability <= 1 for s in seen)
    assert {(s.flagged, s.slot, s.reason) for s in seen} == {(False, "champion", ""), (True, "prior", "bad_output")}
    assert all(480 <= n <= 520 for n in kinds.values()), kinds
    assert len(seen) + batches >= 10_000
    record(
        "F5 model gives NaN, infinity, negative, wrong sum, wrong shape or nothing",
        "no non-finite number and no unflagged nonsense leaves",
        {"answers": len(seen) + batches, "bad_outputs": sum(kinds.values()), "left_unflagged": 0, "not_strict_json": 0},
    )


def test_f18_ten_times_overload_is_answered_at_capacity_and_refused_at_once_beyond(place: FaultPlace) -> None:
    """Two threads at 40 ms a call give 50 answers per second; the load is 500 per second."""
    seconds, rate = 12, 500
    place.break_model(quick=False)
    with place.served(SURETY_POOL_THREADS="2", SURETY_POOL_QUEUE="2") as served:
        place.break_model({"do": "sleep", "ms": 40})
        calm = Load(served.address, bodies=BODIES, rate=20, total=60, connections=8).run()
        worker = served.worker()
        rss = worker.memory_info().rss
        with Load(served.address, bodies=BODIES, rate=rate, total=seconds * rate, connections=64) as load:
            pass
        grown = worker.memory_info().rss / rss - 1
        assert served.predict()["fallback_used"] is False
        counted = served.metric("surety_refused_total", code="overloaded")
    good = answered(load.seen)
    refused = [s for s in load.seen if s.status == 429]
    took_s = max(s.due_s + s.latency_ms / 1000 for s in load.seen) - min(s.due_s for s in load.seen)
    goodput = sum(not s.flagged for s in good) / took_s / 50
    assert len(good) + len(refused) == len(load.seen)
    assert goodput >= 0.8
    assert all(s.retry_after >= 1 for s in refused)
    assert not any(s.flagged for s in good), "overload is no failure of the model"
    assert counted == len(refused)
    assert grown < 0.1
    assert percentile(latencies(refused), 0.99) <= 500
    record(
        "F18 ten times the load that the model can take",
        "goodput at least 80 % of capacity, the rest 429 with Retry-After (goal within 20 ms), memory flat",
        {
            "goodput": round(goodput, 3),
            "refused": len(refused),
            "p50_ms_of_429": percentile(latencies(refused), 0.5),
            "p99_ms_of_429": percentile(latencies(refused), 0.99),
            "p99_ms_of_200": percentile(latencies(good), 0.99),
            "p99_ms_of_200_unloaded": percentile(latencies(answered(calm)), 0.99),
            "rss_growth": round(grown, 4),
        },
    )
