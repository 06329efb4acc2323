"""Ten thousand different records on two workers: log, answers and metrics agree."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ml_core.serve.log.reader import PredictionLog
from tests.e2e.workplace import Workplace
from tests.faults.load import Load
from tests.faults.place import Served, until

pytestmark = pytest.mark.e2e

RECORDS = [
    {
        "age": i % 121,
        "glucose": None if i % 7 == 0 else 30.0 + i / 20,
        "bmi": 10.0 + (i * 37 % 7_000) / 100,
        "bp_systolic": 50.0 + i % 250,
    }
    for i in range(10_000)
]


def numbers(record: Mapping[str, Any]) -> tuple[float, ...]:
    """The values of the record; -1 for a missing one."""
    return tuple(-1.0 if value is None else float(value) for value in record.values())


def test_log_rows_are_the_answers_given_and_what_the_metrics_count(example: Workplace, tmp_path: Path) -> None:
    assert len({numbers(r) for r in RECORDS}) == len(RECORDS)
    home = example.copied_home(tmp_path / "home")
    with example.serving(SURETY_WORKERS="2", SURETY_HOME=str(home)) as address:
        served = Served(address, example.server_pid, Path(), 0.0)
        until(lambda: served.metric("surety_workers", role="api") == 2, 15, "both workers report")
        bodies = [{"features": r} for r in RECORDS]
        seen = Load(address, bodies=bodies, rate=2_000, total=len(bodies), connections=16).run()
        until(lambda: served.metric("surety_log_rows_total") >= len(bodies), 10, "the metrics know")
        time.sleep(0.3)  # whatever counts more than there is has done so by then
        stored = served.metric("surety_log_rows_total", outcome="stored")
        counted, answers = served.metric("surety_log_rows_total"), served.metric("surety_answers_total")
    log = PredictionLog(home / "log" / example.model)
    logged = {answer.request_id: answer for answer in log.rows()}
    assert {s.status for s in seen} == {200}
    assert logged.keys() == {s.request_id for s in seen}
    assert stored == counted == answers == len(logged) == len(RECORDS)
    assert {s.request_id: s.probability for s in seen} == {i: a.probabilities[1] for i, a in logged.items()}
    assert sorted(numbers(answer.input or {}) for answer in logged.values()) == sorted(map(numbers, RECORDS))
