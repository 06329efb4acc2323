"""A listener hears every outcome once, however it behaves."""

from __future__ import annotations

import logging
import threading
from collections import Counter

import pytest

from ml_core.serve.log.outcome_notifier import OutcomeNotifier


def test_sums_are_told_once() -> None:
    told: list[tuple[str, int]] = []
    teller = OutcomeNotifier(lambda outcome, n: told.append((outcome, n)))
    teller.start()
    for _ in range(10_000):
        teller.add("stored", 1)
    teller.add("lost", 3)
    teller.close(10.0)
    sums: Counter[str] = Counter()
    for outcome, n in told:
        sums[outcome] += n
    assert sums == {"stored": 10_000, "lost": 3}
    assert len(told) < 100


def test_what_many_threads_add_is_told_exactly() -> None:
    told: Counter[str] = Counter()
    teller = OutcomeNotifier(lambda outcome, n: told.update({outcome: n}))
    teller.start()
    threads = [threading.Thread(target=lambda: [teller.add("stored", 2) for _ in range(2_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    teller.close(10.0)
    assert told == {"stored": 8 * 2_000 * 2}


def test_a_listener_that_raises_is_told_on(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    def listen(outcome: str, _n: int) -> None:
        told.append(outcome)
        raise RuntimeError("patient 7")

    caplog.set_level(logging.WARNING)
    teller = OutcomeNotifier(listen)
    teller.add("stored", 1)
    teller.add("lost", 1)
    teller.start()
    teller.close(10.0)
    assert told == ["stored", "lost"]
    assert [record.message for record in caplog.records] == ["log.listener_failed"] * 2
    assert "patient" not in caplog.text


def test_a_listener_that_hangs_holds_up_no_end() -> None:
    release = threading.Event()
    teller = OutcomeNotifier(lambda _outcome, _n: release.wait() and None)
    teller.start()
    teller.add("stored", 1)
    teller.close(0.2)
    release.set()
    teller._thread.join(10)
    assert not teller._thread.is_alive()


def test_nobody_is_told_before_the_start() -> None:
    told: list[str] = []
    teller = OutcomeNotifier(lambda outcome, _n: told.append(outcome))
    teller.add("lost", 1)
    teller.close(1.0)
    assert told == []
