"""Every behaviour of the breaker that one thread can show, under its number (B01 to B49).

Most cases are a line of script, read from left to right; see ``Script``. The others are functions in the same table.
B25, B35-B37, B46 and the threads' half of B44 are in test_circuit_breaker_threads.py.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import math
import random
import re
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from ml_core.base.errors import BadModelOutput, CircuitOpen, ConfigError, ModelUnavailable
from ml_core.serve.running.circuit_breaker import MOST_NEWS_WAITING, Breakers, CircuitBreaker, Permit, Transition
from tests.serve.running.fake_clock import FakeClock

ROW = {"error_rate_threshold": None, "latency_p95_threshold_ms": None}
RATE = {"failure_threshold": None, "latency_p95_threshold_ms": None}
SLOW = {"failure_threshold": None, "error_rate_threshold": None}
WAIT_S = 30.0  # what a test with threads waits at most for what must happen


def toy_breaker(clock: Callable[[], float], **options: Any) -> CircuitBreaker:
    return CircuitBreaker("toy", **{"clock": clock, "jitter": 0.0, **options})


RESULTS = {
    "F": ("fail", 10.0),
    "S": ("succeed", 10.0),
    "E": ("succeed", 500.0),
    "L": ("succeed", 500.1),
    "O": ("succeed", 10_500.0),
    "X": ("fail", 500.1),
}
COMMANDS = {
    "force": "force_open",
    "disable": "disable",
    "watch": "watch_only",
    "auto": "automatic",
    "reset": "reset",
}


class Script:
    """Runs a line of words against a breaker.

    ``5F`` five calls, one after the other: F fails and S succeeds in 10 ms, E succeeds in 500.0 ms, L in 500.1 ms,
    O in 10.5 s, X fails in 500.1 ms, R is released; ``a<`` takes the permit a, ``a.F`` settles it so; ``3!`` three
    calls that must be refused; ``+60`` seconds pass; ``open:reason`` is the state (and reason) to be read;
    ``late=1`` is a field of the snapshot; ``force disable watch auto reset`` are the operator's commands.
    """

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.breaker = toy_breaker(self.clock, **options)
        self.permits: dict[str, Permit] = {}

    def settle(self, permit: Permit, result: str) -> None:
        if result == "R":
            self.breaker.release(permit)
        else:
            verb, duration_ms = RESULTS[result]
            getattr(self.breaker, verb)(permit, duration_ms)

    def run(self, line: str) -> CircuitBreaker:
        for i, word in enumerate(line.split()):
            try:
                self.step(word)
            except (AssertionError, CircuitOpen) as error:
                raise AssertionError(f"word {i + 1}, {word!r} of {line!r}: {error}") from error
        return self.breaker

    def step(self, word: str) -> None:
        if word in COMMANDS:
            getattr(self.breaker, COMMANDS[word])()
        elif word.startswith("+"):
            self.clock.advance(float(word))
        elif word.endswith("<"):
            self.permits[word[:-1]] = self.breaker.acquire()
        elif match := re.fullmatch(r"([a-z])\.([A-Z])", word):
            self.settle(self.permits[match[1]], match[2])
        elif match := re.fullmatch(r"(\d*)([A-Z!])", word):
            for _ in range(int(match[1] or 1)):
                if match[2] == "!":
                    with pytest.raises(CircuitOpen):
                        self.breaker.acquire()
                else:
                    self.settle(self.breaker.acquire(), match[2])
        elif "=" in word:
            field, _, expected = word.partition("=")
            found = getattr(self.breaker.snapshot(), field)
            assert str(found).replace(" ", "") == expected, f"{field} is {found}"
        else:
            state, _, reason = word.partition(":")
            snapshot = self.breaker.snapshot()
            assert self.breaker.state == snapshot.state == state, f"it is {snapshot.state}"
            assert not reason or snapshot.reason == reason, f"reason is {snapshot.reason}"


SCRIPTS: list[tuple[str, dict[str, Any], str]] = [
    (
        "B01 a new breaker is closed and has no rates",
        {},
        "closed calls_in_window=0 error_rate=None slow_rate=None p95_ms=None reason=None retry_after_s=None consecutive_failures=0 generation=0 transitions=() 19S error_rate=None p95_ms=None S error_rate=0.0 p95_ms=10.0",
    ),
    ("B02 failures must be in a row", {}, "4F S 4F closed consecutive_failures=4"),
    ("B03 the fifth failure opens, not the fourth", {}, "4F closed F open:consecutive_failures !"),
    ("B04 the first failure opens nothing", RATE, "F closed"),
    ("B05 no rate is judged below the minimum", RATE, "19F closed F open:error_rate"),
    ("B06 a rate that reaches its threshold opens", RATE, "10S 9F closed F open:error_rate"),
    ("B06 a rate one failure below does not", RATE, "11S 9F closed calls_in_window=20 error_rate=0.45"),
    (
        "B06 also where the product would be rounded up",
        {**RATE, "error_rate_threshold": 0.07, "minimum_calls": 100},
        "93S 6F closed F open:error_rate",
    ),
    (
        "B06 also one below at 7 of 100",
        {**RATE, "error_rate_threshold": 0.07, "minimum_calls": 100},
        "94S 6F closed error_rate=0.06",
    ),
    ("B07 a success that meets the minimum is judged", RATE, "12F 7S closed S open:error_rate"),
    (
        "B08 old calls leave one by one",
        {**RATE, "minimum_calls": 100},
        "5F 95S error_rate=0.05 S error_rate=0.04 3S error_rate=0.01 S error_rate=0.0 95S error_rate=0.0 closed",
    ),
    (
        "B08 in the order in which they came",
        {**RATE, "minimum_calls": 4, "window": 4, "error_rate_threshold": 1.0},
        "F S S F error_rate=0.5 S error_rate=0.25 2S error_rate=0.25 S error_rate=0.0 calls_in_window=4",
    ),
    (
        "B09 results leave at the age of the window, without a call",
        {**RATE, "minimum_calls": 4, "window_s": 10.0},
        "F 3S error_rate=0.25 +9.75 error_rate=0.25 calls_in_window=4 +0.25 error_rate=None calls_in_window=0",
    ),
    (
        "B09 what has left opens nothing",
        {**RATE, "minimum_calls": 4, "window_s": 10.0},
        "3F +10 F closed calls_in_window=1 +5 2F +5 calls_in_window=2 F closed F open:error_rate",
    ),
    (
        "B10 nothing comes back after a leap",
        {**RATE, "minimum_calls": 4, "window_s": 10.0},
        "3F +10000 calls_in_window=0 S calls_in_window=1 3S error_rate=0.0",
    ),
    ("B11 slow is above the threshold, not at it", {}, "E slow=0 L slow=1 X slow=2 failures=1 successes=2"),
    (
        "B11 a slow failure counts in both rates",
        {"minimum_calls": 4},
        "X 3S open:latency_p95 error_rate=0.25 slow_rate=0.25",
    ),
    ("B12 the twentieth slow call opens, not the nineteenth", SLOW, "19L closed L open:latency_p95"),
    ("B12 one outlier of 20 does not", SLOW, "19S O closed p95_ms=10.0 slow_rate=0.05"),
    ("B12 two of 20 do", SLOW, "18S O closed O open:latency_p95 p95_ms=10500.0"),
    ("B12 two of 50 do not", {**SLOW, "minimum_calls": 50}, "48S 2L closed p95_ms=10.0"),
    ("B12 three of 50 do", {**SLOW, "minimum_calls": 50}, "47S 3L open:latency_p95 p95_ms=500.1"),
    ("B12 five of 100 do not", {**SLOW, "minimum_calls": 100}, "95S 5L closed p95_ms=10.0"),
    ("B12 six of 100 do", {**SLOW, "minimum_calls": 100}, "94S 6L open:latency_p95 p95_ms=500.1"),
    ("B13 slow successes open it", {}, "18S L closed L open:latency_p95 failures=0"),
    ("B13 unless that rule is off", {"latency_p95_threshold_ms": None}, "40O closed slow=0 slow_rate=None"),
    ("B20 refused until the wait is over", {}, "5F +59.999 open 3! open"),
    ("B20 a probe when the wait is over", {}, "5F +60 a< half_open"),
    ("B22 reading it takes no place", {}, "5F +60 half_open half_open retry_after_s=None half_open a< b< c< !"),
    ("B23 a late failure neither opens again nor prolongs", {}, "a< 5F generation=1 +30 a.F late=1 generation=1 +30 half_open"),
    ("B24 a late success does not close", {}, "a< 5F a.S late=1 open successes=0"),
    ("B26 good probes close it for good", RATE, "20F +60 3S closed calls_in_window=0 100S closed generation=3"),
    ("B26 two of three do not", {}, "5F +60 2S half_open S closed"),
    ("B27 old failures do not open it again", {**RATE}, "20F +60 3S closed F closed calls_in_window=1 failures=21"),
    ("B27 nor do old failures in a row", {}, "5F +60 3S 4F closed consecutive_failures=4"),
    ("B28 a failed probe opens it for a full wait", {}, "5F +60 2S a< +20 a.F open:probe_failed +119.75 ! +0.25 half_open"),
    ("B28 the other probes are late then", {}, "5F +60 a< b< a.F open b.S late=1 open"),
    ("B29 a slow probe opens it", {}, "5F +60 2S L open:probe_slow +119.75 ! +0.25 half_open"),
    ("B29 a probe at the threshold is quick", {}, "5F +60 3E closed"),
    ("B29 a slow failure is a failure", {}, "5F +60 X open:probe_failed"),
    ("B30 released probes give their places back", {}, "5F +60 a< b< c< ! a.R b.R c.R 100R half_open ignored=103 3S closed"),
    ("B31 a hung probe loses its place", {}, "5F +60 a< b< c< +29.75 ! +0.25 2S half_open S closed a.F late=1 closed"),
    ("B31 its result is late while half-open, too", {}, "5F +60 a< +30 a.S late=1 2S half_open a.F late=2 half_open S closed"),
    ("B31 a permit counts once", {}, "5F +60 a< a.S a.S late=1 half_open a.R late=2 2S closed"),
    ("B31 all may hang again and again", {}, "5F +60 a< b< c< ! +30 a< b< c< ! +30 a< b< c< ! +30 3S closed"),
    ("B32 results of the closed era are no probes", {}, "a< b< 5F +60 c< a.F b.S late=2 half_open c.S S half_open S closed"),
    ("B33 thin traffic closes after the longest round", {}, "5F +60 S half_open +119.75 half_open +0.25 closed calls_in_window=0"),
    ("B33 without a success the time starts again", {}, "5F +60 a< a.R +500 half_open S +119.75 half_open +0.25 closed"),
    (
        "B33 also while a probe hangs",
        {"probe_lease_s": 300.0},
        "5F +60 a< +130 half_open S +109.75 half_open a.S half_open +0.25 closed",
    ),
    ("B33 no traffic at all leaves it waiting for probes", {}, "5F +100000 half_open +100000 half_open 3S closed"),
    ("B43 forced open, nothing passes whatever the time", {}, "force open:forced 3! +1e9 ! open retry_after_s=60.0"),
    ("B43 forced open and back", {}, "3F force ! auto closed calls_in_window=0 reason=None S"),
    ("B43 an override keeps the rules' state beneath", {}, "5F +20 disable closed 9S auto open:consecutive_failures +40 half_open"),
    ("B43 disabled, all pass and nothing opens", {}, "disable mode=disabled 500X closed failures=500 slow=500 auto closed S"),
    ("B43 disabled ends an open circuit", {}, "5F ! disable 30F closed reset closed mode=auto calls_in_window=0"),
    ("B43 an override drops what was under way", {}, "a< disable a.F late=1 b< auto b.F late=2 closed"),
    ("B43 an override takes the probes back", {}, "5F +60 a< force a.F late=1 auto half_open 3S closed"),
    ("B43 the same command twice is one", {}, "force force generation=1 disable disable generation=2 auto auto generation=3"),
    (
        "B43 metrics-only says once that it would open",
        {},
        "watch mode=metrics_only 500F closed calls_in_window=100 transitions=(('closed','closed','metrics_only',1),('closed','would_open','consecutive_failures',1))",
    ),
    (
        "B43 and again after it would have stayed closed",
        ROW,
        "watch 9F S 9F auto transitions=(('closed','closed','metrics_only',1),('closed','would_open','consecutive_failures',2),('closed','closed','automatic',1))",
    ),
    ("B43 reset closes with an empty window", {}, "19S F reset closed calls_in_window=0 5F ! reset closed S calls_in_window=1"),
    ("B43 reset also sets the wait back", {}, "5F +60 F +120 F reset 5F +59.75 ! +0.25 half_open"),
    ("B43 reset lifts an override", {}, "force reset mode=auto closed S watch reset mode=auto"),
]  # fmt: skip

CASES: list[Any] = [
    pytest.param(functools.partial(Script.run, line=line), options, id=title) for title, options, line in SCRIPTS
]


def behaviour(title: str, **options: Any) -> Callable[[Callable[[Script], object]], Callable[[Script], object]]:
    """Enters a function in the table; it gets a script's breaker made with these options."""

    def entered(check: Callable[[Script], object]) -> Callable[[Script], object]:
        CASES.append(pytest.param(check, options, id=title))
        return check

    return entered


def boom() -> None:
    raise ZeroDivisionError("boom")


# --- what counts, and what the caller gets ------------------------------------------------------------------------


@behaviour("B14 an excluded exception moves nothing and comes through", excluded=(KeyError,))
def excluded(script: Script) -> None:
    original = KeyError("age")

    def invalid() -> None:
        raise original

    before = script.breaker.snapshot()
    for _ in range(1_000):
        with pytest.raises(KeyError) as caught:
            script.breaker.call(invalid)
        assert caught.value is original
    after = script.breaker.snapshot()
    assert after.ignored == 1_000
    assert (after.state, after.calls_in_window, after.successes, after.failures) == ("closed", 0, 0, 0)
    assert (after.generation, after.consecutive_failures) == (before.generation, 0)


@behaviour("B14 a refusal is no failure of the call around it")
def refusal_inside(script: Script) -> None:
    other = toy_breaker(script.clock)
    other.force_open()
    for _ in range(30):
        with pytest.raises(CircuitOpen):
            script.breaker.call(other.call, int)
    script.run("closed failures=0 ignored=30")


@behaviour("B15 a bad result is a failure and stays inside", is_failure=math.isnan)
def bad_result(script: Script) -> None:
    assert script.breaker.call(float, "0.5") == 0.5
    for _ in range(5):
        with pytest.raises(BadModelOutput, match="toy"):
            script.breaker.call(float, "nan")
    script.run("open:consecutive_failures failures=5 successes=1")


@behaviour("B15 also behind an await", is_failure=math.isnan)
def bad_awaited_result(script: Script) -> None:
    async def model() -> float:
        return math.nan

    with pytest.raises(BadModelOutput):
        asyncio.run(script.breaker.acall(model))
    script.run("failures=1")


@behaviour("B15 a check that cannot judge the result is a failure", is_failure=math.isnan)
def check_breaks(script: Script) -> None:
    with pytest.raises(TypeError):
        script.breaker.call(str, "no number")
    script.run("failures=1 successes=0")


@behaviour("B16 the original exception reaches the caller, also from the call that opens")
def original_exception(script: Script) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError, match="boom"):
            script.breaker.call(boom)
    script.run("open")


@behaviour("B16 also from with and async with")
def original_exception_of_blocks(script: Script) -> None:
    async def block() -> None:
        async with script.breaker.record():
            boom()

    with pytest.raises(ZeroDivisionError), script.breaker.record():
        boom()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(block())
    with script.breaker.record():
        script.clock.advance(0.6)
    script.run("failures=2 successes=1 slow=1 consecutive_failures=0")


@behaviour("B16 durations are those of the call")
def durations(script: Script) -> None:
    script.breaker.call(script.clock.advance, 0.5)
    script.run("slow=0")
    script.breaker.call(script.clock.advance, 0.75)
    script.run("slow=1")

    def slow_failure() -> None:
        script.clock.advance(0.75)
        boom()

    with pytest.raises(ZeroDivisionError):
        script.breaker.call(slow_failure)
    script.run("slow=2 failures=1")


@behaviour("B16 a coroutine function given to call is refused, not taken for a success")
def coroutine_in_call(script: Script) -> None:
    async def model() -> int:
        return 1

    with pytest.raises(TypeError, match="acall"):
        script.breaker.call(model)
    script.run("successes=0")


@behaviour("B23 results told without a permit count where every call passes")
def told_results(script: Script) -> None:
    script.breaker.record_success(10.0)
    script.breaker.record_success(600.0)
    script.run("successes=2 slow=1 calls_in_window=2")
    for _ in range(5):
        script.breaker.record_failure()
    script.run("open:consecutive_failures")
    script.breaker.record_failure()
    script.breaker.record_success()
    script.run("late=2 failures=5 +60 half_open")
    script.breaker.record_success()
    script.run("late=3 half_open 2S half_open S closed successes=5")


# --- arguments ----------------------------------------------------------------------------------------------------

BAD = [
    {"failure_threshold": 0},
    {"failure_threshold": -1},
    {"error_rate_threshold": 0.0},
    {"error_rate_threshold": 1.01},
    {"error_rate_threshold": math.nan},
    {"latency_p95_threshold_ms": 0.0},
    {"latency_p95_threshold_ms": math.inf},
    {"failure_threshold": None, "error_rate_threshold": None, "latency_p95_threshold_ms": None},
    {"window": 0},
    {"minimum_calls": 0},
    {"minimum_calls": 101},
    {"window": 19},
    {"window_s": 0.0},
    {"window_s": -1.0},
    {"recovery_timeout_s": 0.0},
    {"recovery_timeout_s": -60.0},
    {"recovery_timeout_s": 301.0},
    {"recovery_timeout_max_s": math.inf},
    {"recovery_timeout_max_s": math.nan},
    {"recovery_factor": 0.99},
    {"recovery_factor": math.inf},
    {"jitter": -0.1},
    {"jitter": 1.1},
    {"half_open_probes": 0},
    {"probe_lease_s": 0.0},
    {"probe_lease_s": math.inf},
    {"half_open_max_s": 0.0},
]


@pytest.mark.parametrize(
    "options", [pytest.param(o, id=f"B17 {', '.join(f'{k}={v}' for k, v in o.items())}") for o in BAD]
)
def test_what_would_be_a_silent_breaker_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^toy: "):
        CircuitBreaker("toy", **options)


@behaviour("B17 the borders are allowed")
def borders(script: Script) -> None:
    Script(failure_threshold=1, **ROW).run("F open")
    Script(**RATE | {"error_rate_threshold": 1.0}).run("20F open")
    Script(window=20, minimum_calls=20).run("19S closed")
    Script(**ROW, window=1, minimum_calls=1, half_open_probes=1).run("5F +60 S closed")
    Script(recovery_timeout_s=300.0, recovery_factor=1.0, jitter=1.0).run("5F +299.75 ! +0.25 3S closed")


# --- open ---------------------------------------------------------------------------------------------------------


@behaviour("B18 a refusal does not run the function and says when to come back")
def refusal(script: Script) -> None:
    calls: list[int] = []
    script.run("5F +20")
    with pytest.raises(CircuitOpen) as caught:
        script.breaker.call(calls.append, 1)
    error = caught.value
    assert isinstance(error, ModelUnavailable)
    assert not calls
    assert (error.name, error.state, error.reason) == ("toy", "open", "consecutive_failures")
    assert error.retry_after_s == 40.0
    script.run("retry_after_s=40.0 rejected=1")


@behaviour("B18 with all probes out, until the nearest lease ends")
def refusal_half_open(script: Script) -> None:
    script.run("5F +60 a< +10 b< c<")
    with pytest.raises(CircuitOpen) as caught:
        script.breaker.acquire()
    assert (caught.value.state, caught.value.retry_after_s) == ("half_open", 20.0)
    assert caught.value.reason == "consecutive_failures"
    assert script.breaker.is_open()
    script.run("a.R")
    assert not script.breaker.is_open()


@behaviour("B18 is_open says beforehand what acquire will do")
def would_be_refused(script: Script) -> None:
    assert not script.breaker.is_open()
    script.run("5F")
    assert script.breaker.is_open()
    script.run("+60")
    assert not any(script.breaker.is_open() for _ in range(10))
    script.run("a< b< c< !")
    assert script.breaker.is_open()


@behaviour("B18 forced open, the refusal says so")
def refusal_forced(script: Script) -> None:
    script.run("force")
    with pytest.raises(CircuitOpen) as caught:
        script.breaker.acquire()
    assert (caught.value.state, caught.value.reason, caught.value.retry_after_s) == ("open", "forced", 60.0)


def refuse(breaker: CircuitBreaker, times: int) -> None:
    """Refusals leave no state, no memory and no longer traceback behind."""
    depths: set[int] = set()
    for _ in range(1_000):  # first uses fill caches
        with pytest.raises(CircuitOpen):
            breaker.acquire()
    before = breaker.snapshot()
    gc.collect()
    blocks = sys.getallocatedblocks()
    for i in range(times):
        try:
            breaker.acquire()
        except CircuitOpen as error:
            if i % (times // 10) == 0:
                depths.add(sum(1 for _ in traceback.walk_tb(error.__traceback__)))
    gc.collect()
    assert sys.getallocatedblocks() - blocks < times // 100  # what one kept block per refusal would be, times 100
    assert len(depths) == 1
    after = breaker.snapshot()
    assert after.rejected == before.rejected + times
    assert (after.state, after.generation, after.transitions) == (before.state, before.generation, before.transitions)


@behaviour("B19 100,000 refusals leave nothing behind")
def refusals(script: Script) -> None:
    refuse(script.run("5F"), 100_000)


@pytest.mark.slow
@pytest.mark.parametrize("times", [pytest.param(1_000_000, id="B19 1,000,000 refusals leave nothing behind")])
def test_refusals_leave_nothing_behind(times: int) -> None:
    refuse(Script().run("5F"), times)


@pytest.mark.parametrize("hours", [pytest.param(h, id=f"B21 the wall clock jumps {h:+} h") for h in (-1, 1, 8_760)])
def test_the_wall_clock_means_nothing(hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    breaker = CircuitBreaker("toy", **ROW)
    for _ in range(5):
        breaker.record_failure()
    wait_s = breaker.snapshot().retry_after_s
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + hours * 3_600)
    monkeypatch.setattr(time, "time_ns", lambda: int((real + hours * 3_600) * 1e9))
    assert breaker.clock is time.monotonic
    assert breaker.state == "open"
    left_s = breaker.snapshot().retry_after_s
    assert wait_s is not None
    assert left_s is not None
    assert 0 < left_s <= wait_s <= 66


# --- half-open ----------------------------------------------------------------------------------------------------


@behaviour("B30 a cancelled probe gives its place back")
def cancelled_probes(script: Script) -> None:
    async def hung() -> None:
        await asyncio.Event().wait()

    async def cancel_all(n: int) -> None:
        for _ in range(n):
            task = asyncio.create_task(script.breaker.acall(hung))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    script.run("5F +60")
    asyncio.run(cancel_all(10))
    script.run("half_open ignored=10 3S closed")


@behaviour("B34 waits grow by the factor to the cap, and one good round sets them back")
def waits(script: Script) -> None:
    script.run("5F +59.75 ! +0.25 F +119.75 ! +0.25 F +239.75 ! +0.25 F +299.75 ! +0.25 F +299.75 ! +0.25 3S closed")
    script.run("5F +59.75 ! +0.25 3S closed")


@behaviour("B34 finite after 10,000 failed rounds", recovery_factor=1e6)
def many_rounds(script: Script) -> None:
    script.run("5F +60 " + "F +300 " * 10_000 + "half_open F retry_after_s=300.0 +300 3S closed 5F retry_after_s=60.0")


@behaviour("B34 finite also in whole numbers", recovery_timeout_s=60, recovery_factor=2, recovery_timeout_max_s=300)
def many_rounds_of_integers(script: Script) -> None:
    script.run("5F +60 " + "F +300 " * 10_000 + "half_open F retry_after_s=300.0")


@behaviour("B34 jitter only lengthens, within its share and the cap")
def jitter(script: Script) -> None:
    found: dict[int, list[float]] = {0: [], 1: [], 2: [], 3: []}
    breaker = toy_breaker(script.clock, jitter=0.1, rng=random.Random(7))
    for _ in range(200):
        breaker.reset()
        for _ in range(5):
            breaker.fail(breaker.acquire(), 1.0)
        for waits_s in found.values():
            wait_s = breaker.snapshot().retry_after_s
            assert wait_s is not None
            waits_s.append(wait_s)
            script.clock.advance(wait_s)
            breaker.fail(breaker.acquire(), 1.0)
    for waits_s, least_s, most_s in zip(found.values(), (60, 120, 240, 300), (66, 132, 264, 300), strict=True):
        assert least_s - 1e-6 <= min(waits_s) <= max(waits_s) <= most_s + 1e-6
    assert max(found[0]) - min(found[0]) > 5
    assert max(found[2]) - min(found[2]) > 20


# --- asyncio ------------------------------------------------------------------------------------------------------


@behaviour("B38 1,000 awaits are inside at once and hold no lock")
def concurrent_awaits(script: Script) -> None:
    async def together() -> None:
        inside, all_inside = 0, asyncio.Event()

        async def model(i: int) -> int:
            nonlocal inside
            inside += 1
            if inside == 1_000:
                # From another thread, for which a lock held here would be taken.
                assert (
                    await asyncio.wait_for(asyncio.to_thread(lambda: script.breaker.snapshot().successes), WAIT_S) == 0
                )
                all_inside.set()
            await asyncio.wait_for(all_inside.wait(), WAIT_S)
            return i

        assert await asyncio.gather(*(script.breaker.acall(model, i) for i in range(1_000))) == list(range(1_000))

    asyncio.run(together())
    script.run("closed successes=1000")


@behaviour("B38 also in async with")
def concurrent_blocks(script: Script) -> None:
    async def together() -> None:
        inside, all_inside = 0, asyncio.Event()

        async def block() -> None:
            nonlocal inside
            async with script.breaker.record():
                inside += 1
                if inside == 1_000:
                    all_inside.set()
                await asyncio.wait_for(all_inside.wait(), WAIT_S)

        await asyncio.gather(*(block() for _ in range(1_000)))

    asyncio.run(together())
    script.run("closed successes=1000")


@behaviour("B39 a caller who leaves counts as nothing")
def cancelled(script: Script) -> None:
    async def leave() -> None:
        started = asyncio.Event()

        async def model() -> None:
            started.set()
            await asyncio.Event().wait()

        for _ in range(30):
            started.clear()
            task = asyncio.create_task(script.breaker.acall(model))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(leave())
    script.run("closed successes=0 failures=0 calls_in_window=0 ignored=30")


@behaviour("B39 nor does a cancelled future")
def cancelled_future(script: Script) -> None:
    def model() -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        script.breaker.call(model)
    script.run("failures=0 ignored=1")


@behaviour("B40 interrupts go through, count as nothing and give the place back")
def interrupts(script: Script) -> None:
    script.run("5F +60")
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError) * 3:

        def model(kind: type[BaseException] = kind) -> None:
            raise kind

        with pytest.raises(kind):
            script.breaker.call(model)
        with pytest.raises(kind), script.breaker.record():
            model()
    script.run("half_open failures=5 ignored=24 3S closed")


@behaviour("B41 a call through the breaker may call through it")
def nested(script: Script) -> None:
    done = threading.Event()

    def run() -> None:
        assert script.breaker.call(script.breaker.call, script.breaker.call, int, "7") == 7
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert done.wait(WAIT_S)
    script.run("successes=3 5F +60")
    assert script.breaker.call(script.breaker.call, script.breaker.call, int, "7") == 7
    script.run("closed")


@behaviour("B41 a stream collected while its thread is in the bookkeeping does not stop it")
def collected_inside(script: Script) -> None:
    done = threading.Event()

    def run() -> None:
        stream = script.breaker.call(iter_of, 1, 2)
        with script.breaker._lock:
            stream.close()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    assert done.wait(WAIT_S)
    script.run("ignored=1")


# --- listeners ----------------------------------------------------------------------------------------------------


class Told:
    """Keeps what a listener is told, until there is as much as is waited for."""

    def __init__(self, expected: int) -> None:
        self.transitions: list[Transition] = []
        self.threads: set[threading.Thread] = set()
        self._expected, self._complete = expected, threading.Event()

    def __call__(self, transition: Transition) -> None:
        self.transitions.append(transition)
        self.threads.add(threading.current_thread())
        if len(self.transitions) == self._expected:
            self._complete.set()

    def wait(self) -> list[tuple[str, str, str, int]]:
        assert self._complete.wait(WAIT_S), self.transitions
        return [(t.before, t.after, t.reason, t.generation) for t in self.transitions]


@behaviour("B42 listeners are told in order, on another thread")
def order(script: Script) -> None:
    first, second = Told(6), Told(6)
    script.breaker.add_listener(first)
    script.breaker.add_listener(second)
    script.run("5F +60 F +120 3S force")
    expected = [
        ("closed", "open", "consecutive_failures", 1),
        ("open", "half_open", "wait_over", 2),
        ("half_open", "open", "probe_failed", 3),
        ("open", "half_open", "wait_over", 4),
        ("half_open", "closed", "probes_succeeded", 5),
        ("closed", "open", "forced", 6),
    ]
    assert first.wait() == second.wait() == expected
    assert first.threads == second.threads
    assert len(first.threads) == 1
    thread = first.threads.pop()
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert {t.name for t in first.transitions} == {"toy"}


@behaviour("B42 a listener that raises is logged, and the next is told")
def raising_listener(script: Script) -> None:
    def raising(transition: Transition) -> None:
        raise SystemExit if transition.after == "open" else ValueError("listener")

    told, logged = Told(2), logging.Handler()
    records: list[logging.LogRecord] = []
    logged.emit = records.append  # type: ignore[method-assign]
    logging.getLogger(CircuitBreaker.__module__).addHandler(logged)
    try:
        script.breaker.add_listener(raising)
        script.breaker.add_listener(told)
        script.run("5F open reset closed")
        assert [after for _, after, _, _ in told.wait()] == ["open", "closed"]
    finally:
        logging.getLogger(CircuitBreaker.__module__).removeHandler(logged)
    assert [(r.getMessage(), r.levelname, r.circuit) for r in records] == [
        ("circuit.listener_failed", "ERROR", "toy")
    ] * 2  # type: ignore[attr-defined]


@behaviour("B42 a listener that hangs holds nobody up")
def hanging_listener(script: Script) -> None:
    entered, leave, told = threading.Event(), threading.Event(), Told(3)

    def hanging(transition: Transition) -> None:
        entered.set()
        assert leave.wait(WAIT_S)

    script.breaker.add_listener(hanging)
    script.breaker.add_listener(told)
    script.run("5F open")
    assert entered.wait(WAIT_S)
    script.run("+60 half_open 3S closed 5S successes=8")  # all of this while the listener hangs
    assert not told.transitions
    leave.set()
    assert [after for _, after, _, _ in told.wait()] == ["open", "half_open", "closed"]


@behaviour("B42 what a hanging listener has not heard is bounded, and counted all the same")
def bounded_news(script: Script) -> None:
    leave = threading.Event()
    script.breaker.add_listener(lambda _: leave.wait(WAIT_S))
    for _ in range(MOST_NEWS_WAITING + 100):
        script.breaker.reset()
    assert script.breaker._news.qsize() <= MOST_NEWS_WAITING
    assert script.breaker.snapshot().transitions == (("closed", "closed", "reset", MOST_NEWS_WAITING + 100),)
    leave.set()


@behaviour("B42 the listeners' thread ends with its breaker")
def thread_ends(script: Script) -> None:
    breaker, told = toy_breaker(script.clock), Told(1)
    breaker.add_listener(told)
    breaker.reset()
    told.wait()
    (thread,) = told.threads
    del breaker
    gc.collect()
    thread.join(WAIT_S)
    assert not thread.is_alive()


@behaviour("B43 would-open is announced, in the same generation")
def would_open(script: Script) -> None:
    told = Told(3)
    script.breaker.add_listener(told)
    script.run("watch 100F reset")
    assert told.wait() == [
        ("closed", "closed", "metrics_only", 1),
        ("closed", "would_open", "consecutive_failures", 1),
        ("closed", "closed", "reset", 2),
    ]


# --- names, streams, counts ---------------------------------------------------------------------------------------


@behaviour("B44 one breaker per name, independent of the others")
def names(script: Script) -> None:
    breakers = Breakers()
    a, b = breakers.get("a", failure_threshold=1), breakers.get("b")
    assert breakers.get("a") is a
    assert a is not b
    a.record_failure()
    assert (a.state, b.state) == ("open", "closed")
    assert (a.name, b.name) == ("a", "b")
    assert Breakers().get("a") is not a


def iter_of(*items: Any) -> Iterator[Any]:
    for item in items:
        if isinstance(item, BaseException):
            raise item
        yield item


async def aiter_of(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        await asyncio.sleep(0)
        if isinstance(item, BaseException):
            raise item
        yield item


@behaviour("B45 a stream counts when it ends")
def stream(script: Script) -> None:
    items = script.breaker.call(iter_of, 1, 2)
    script.run("successes=0")
    assert next(items) == 1
    assert next(items) == 2
    script.run("successes=0")
    script.clock.advance(0.75)
    assert list(items) == []
    script.run("successes=1 slow=1")


@behaviour("B45 a stream that breaks is a failure")
def broken_stream(script: Script) -> None:
    items = script.breaker.call(iter_of, 1, ZeroDivisionError())
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError):
        next(items)
    script.run("failures=1 successes=0 ignored=0")


@behaviour("B45 a stream passes on what is sent to it, and its return value")
def generator_protocol(script: Script) -> None:
    def echo() -> Iterator[Any]:
        got = None
        try:
            while got != "end":
                got = yield got
        except KeyError:
            yield "caught"
        return "value"

    items: Any = script.breaker.call(echo)
    assert next(items) is None
    assert items.send("x") == "x"
    assert items.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(items)
    assert stop.value.value == "value"
    script.run("successes=1")


@behaviour("B45 a stream closed or dropped early, even unread, is released")
def dropped_stream(script: Script) -> None:
    script.run("5F +60")
    closed = script.breaker.call(iter_of, 1, 2)
    assert next(closed) == 1
    closed.close()  # type: ignore[attr-defined]
    dropped = script.breaker.call(iter_of, 1, 2)
    assert next(dropped) == 1
    del dropped
    unread = script.breaker.call(iter_of, 1, 2)
    del unread
    gc.collect()
    script.run("half_open ignored=3 3S closed")


@behaviour("B45 an async stream counts when it ends, and fails when it breaks")
def async_stream(script: Script) -> None:
    async def read(items: AsyncIterator[Any]) -> list[Any]:
        return [item async for item in items]

    async def check() -> None:
        items = await script.breaker.acall(aiter_of, 1, 2)
        script.run("successes=0")
        assert await read(items) == [1, 2]
        script.run("successes=1")
        assert await read(script.breaker.call(aiter_of, 3, 4)) == [3, 4]
        script.run("successes=2")
        with pytest.raises(ZeroDivisionError):
            await read(await script.breaker.acall(aiter_of, 1, ZeroDivisionError()))
        script.run("successes=2 failures=1")

    asyncio.run(check())


@behaviour("B45 an async stream closed, cancelled or dropped early, even unread, is released")
def dropped_async_stream(script: Script) -> None:
    ended: list[str] = []

    async def model(name: str) -> AsyncIterator[int]:
        try:
            for i in range(3):
                await asyncio.sleep(0)
                yield i
        finally:
            ended.append(name)

    async def check() -> None:
        inner = model("closed")  # held here, so that nobody but the stream around it can close it
        closed = await script.breaker.acall(lambda: inner)
        assert await anext(closed) == 0
        await closed.aclose()
        script.run("ignored=1")
        assert ended == ["closed"]
        unread = script.breaker.call(model, "unread")
        await unread.aclose()
        script.run("ignored=2")
        dropped = await script.breaker.acall(model, "dropped")
        assert await anext(dropped) == 0
        del dropped
        for _ in range(10):  # the loop closes what was dropped
            await asyncio.sleep(0)
        script.run("ignored=3")
        reading = asyncio.create_task(anext(script.breaker.call(hanging)))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        script.run("ignored=4")

    async def hanging() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    script.run("5F +60")
    asyncio.run(check())
    assert ended == ["closed", "dropped"]
    script.run("half_open 3S closed")


@behaviour("B49 the counts of a known schedule add up")
def counts(script: Script) -> None:
    # 18 results while closed, the last 5 of which open; 4 refusals; a failed probe; then 1 released and 3 good ones.
    script.run("a< 7S 4F 2L 5F open 4! a.S +60 F ! +120 R 3S closed b< force b.F ! auto")
    snapshot = script.breaker.snapshot()
    totals = {
        field: getattr(snapshot, field) for field in ("successes", "failures", "slow", "ignored", "rejected", "late")
    }
    assert totals == {"successes": 12, "failures": 10, "slow": 2, "ignored": 1, "rejected": 6, "late": 2}
    assert sorted(snapshot.transitions) == [
        ("closed", "open", "consecutive_failures", 1),
        ("closed", "open", "forced", 1),
        ("half_open", "closed", "probes_succeeded", 1),
        ("half_open", "open", "probe_failed", 1),
        ("open", "closed", "automatic", 1),
        ("open", "half_open", "wait_over", 2),
    ]
    assert snapshot.generation == sum(count for *_, count in snapshot.transitions)


@pytest.mark.parametrize(("check", "options"), CASES)
def test_behaviour(check: Callable[[Script], object], options: dict[str, Any]) -> None:
    check(Script(**options))


ELSEWHERE = {"B25", "B35", "B36", "B37", "B46", "B47", "B48", "B50"}


def test_every_behaviour_has_a_case() -> None:
    named = {str(case.id)[:3] for case in CASES} | {"B17", "B21"}
    assert named | ELSEWHERE == {f"B{i:02}" for i in range(1, 51)}
