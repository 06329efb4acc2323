"""What a soak promises is judged by what it has seen, and a run that is too short says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.soak import Plan, Row, Stretch, judge

CALM = Stretch(
    at_min=0, sent=60_000, failed={}, flagged=0, p99_ms=5.0, rss_mb=400.0, descriptors=98, threads=15, monitor_rss_mb=120.0, wal_kb=30_000
)  # fmt: skip


def stretches(n: int = 60, **growing: float) -> list[Stretch]:
    """Minutes with a little noise, and some series that grow by so much over the run."""
    dice = np.random.default_rng(3)
    made = []
    for i in range(n):
        noisy = {
            "rss_mb": 400 + dice.normal(0, 0.05),
            "p99_ms": 5 + dice.normal(0, 0.05),
            "monitor_rss_mb": 120 + dice.normal(0, 0.05),
        }
        at = i / (n - 1)
        grown = {name: noisy.get(name, getattr(CALM, name)) + by * at for name, by in growing.items()}
        made.append(replace(CALM, at_min=float(i), **{**noisy, **grown}))
    return made


def verdicts(
    seen: list[Stretch], failed: dict[str, int] | None = None, lost: int = 0, stretch_s: float = 60.0
) -> dict[str, str]:
    return {row.what: row.verdict for row in judge(seen, stretch_s, failed_requests=failed or {}, lost_rows=lost)}


def test_calm_hour_keeps_every_promise() -> None:
    assert set(verdicts(stretches()).values()) == {"holds"}


@pytest.mark.parametrize(
    ("growing", "broken"),
    [
        ({"rss_mb": 3.0}, "service, MB/h"),
        ({"monitor_rss_mb": 3.0}, "monitor, MB/h"),
        ({"descriptors": 12.0}, "descriptors more at the end"),
        ({"threads": 5.0}, "threads more at the end"),
        ({"wal_kb": 9_000.0}, "WAL files, drift over the run"),
        ({"p99_ms": 2.0}, "p99, drift over the run"),
    ],
)
def test_series_that_grows_breaks_its_own_promise_alone(growing: dict[str, float], broken: str) -> None:
    found = verdicts(stretches(**growing))
    assert found.pop(broken) == "broken"
    assert set(found.values()) == {"holds"}


def test_one_failed_request_or_lost_row_breaks_a_promise() -> None:
    assert verdicts(stretches(), failed={"429": 1})["failed requests"] == "broken"
    assert verdicts(stretches(), lost=1)["answers not in the log"] == "broken"
    assert verdicts(stretches(), lost=-1)["answers not in the log"] == "broken"


def test_what_shrinks_breaks_nothing() -> None:
    assert set(verdicts(stretches(rss_mb=-30.0, wal_kb=-9_000.0)).values()) == {"holds"}


def test_run_of_two_minutes_is_too_short_to_call_memory_broken() -> None:
    assert verdicts(stretches(12, rss_mb=30.0), stretch_s=10.0)["service, MB/h"] == "open"


def test_noise_larger_than_the_limit_leaves_it_open() -> None:
    dice = np.random.default_rng(4)
    noisy = [replace(s, rss_mb=s.rss_mb + dice.normal(0, 5)) for s in stretches(20)]
    (row,) = [r for r in judge(noisy, 60.0, failed_requests={}, lost_rows=0) if r.what == "service, MB/h"]
    assert row == Row(row.what, row.found, "< 1", "open")


@pytest.mark.parametrize(("minutes", "warm_up_min", "flap_min"), [(20, 5, 2), (480, 30, 10)])
def test_plan_warms_up_before_it_judges(minutes: float, warm_up_min: float, flap_min: float) -> None:
    plan = Plan.of(minutes, None)
    assert (plan.stretch_s, plan.stretches) == (60.0, minutes)
    assert (plan.warm_up, plan.flap_s) == (warm_up_min, flap_min * 60)


def test_short_try_still_has_points_to_judge() -> None:
    plan = Plan.of(2, None)
    assert plan.stretches - plan.warm_up >= 8
