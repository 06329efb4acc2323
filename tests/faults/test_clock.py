"""The wall clock jumps (F13): ids stay unique, and the circuit waits by the monotonic clock.

Without libfaketime on the machine the jump is played in this process: whatever reads the wall clock here reads another.
"""

from __future__ import annotations

import time

import pytest

from ml_core.base.errors import CircuitOpen
from ml_core.base.settings import Settings
from ml_core.serve.answering.requests import id_texts, new_id, new_ids
from ml_core.serve.rollout.worker_reports import beating
from ml_core.serve.running.circuit_breaker import CircuitBreaker
from ml_core.serve.running.runner import model_breaker
from tests.faults.figures import record

HOUR_S = 3_600
JUMPS_S = (0, HOUR_S, -HOUR_S, 365 * 24 * HOUR_S, -365 * 24 * HOUR_S, 0)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Shifts the wall clock by ``wall[0]`` seconds; the monotonic clock goes on."""
    shift = [0.0]
    true_time, true_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: true_time() + shift[0])
    monkeypatch.setattr(time, "time_ns", lambda: true_ns() + int(shift[0] * 1e9))
    return shift


def test_f13_ids_stay_unique_over_jumps_of_the_wall_clock(wall: list[float]) -> None:
    seen: set[str] = set()
    made = 0
    for jump_s in JUMPS_S * 3:
        wall[0] = jump_s
        rows = id_texts(new_ids(20_000))
        seen.update(row.tobytes().decode() for row in rows)
        seen.update(str(new_id()) for _ in range(20_000))
        made += 40_000
    assert len(seen) == made
    assert all(len(one) == 36 and one[14] == "7" for one in list(seen)[:1_000])
    record("F13 wall clock jumps by an hour and a year, both ways: ids", "0 duplicates", {"ids": made, "duplicates": 0})


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 365 * 24 * HOUR_S])
def test_f13_open_circuit_waits_by_the_monotonic_clock(wall: list[float], jump_s: float) -> None:
    breaker: CircuitBreaker = model_breaker("model", Settings(circuit_wait_s=0.3, circuit_failures=1))
    assert breaker.clock is time.monotonic
    breaker.fail(breaker.acquire(), 1.0)
    wall[0] = jump_s
    with pytest.raises(CircuitOpen) as refused:
        breaker.acquire()
    assert 0 < refused.value.retry_after_s <= 0.34
    time.sleep(0.34)
    breaker.succeed(breaker.acquire(), 1.0)
    assert breaker.snapshot().state == "half_open"


def test_f13_reports_age_by_the_monotonic_clock(wall: list[float]) -> None:
    from ml_core.serve.rollout.worker_reports import WorkerReport

    facts = {"server": "s", "role": "api", "index": 1, "pid": 1, "started_at": "", "generation": 1, "stage": 1}
    report = WorkerReport.model_validate({**facts, "beat_s": time.monotonic()})
    for jump_s in JUMPS_S:
        wall[0] = jump_s
        assert beating([report]) == [report]
