"""A ledger of three days whose coverage is known by hand: nine calibration rows, so p > 0.1 is rank 2 of 10."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ml_core.base.clock import microseconds
from ml_core.base.settings import Settings
from ml_core.lab.report.collect_period import DAY, Stretch
from ml_core.lab.report.facts_drift import Detector
from ml_core.lab.watching.alarms import keep_target
from ml_core.lab.watching.ledger import Ledger, MaturedRow, open_ledger_tables
from tests.toy_models import toy_model

BEGAN = datetime(2026, 3, 2, tzinfo=UTC)
THREE_DAYS = Stretch(BEGAN, BEGAN + 3 * DAY, DAY)
MODEL, CALIBRATION = "aa", toy_model().bundle.manifest.calibration_id
QUIET = Detector(1.0, 5e4, 10, "promise")


def matured(n: int, day: int, label: int, *, covered: bool, **facts) -> MaturedRow:
    """The n-th answer; its set holds its label or not."""
    at_us = microseconds(BEGAN + timedelta(days=day, minutes=n))
    p_values = tuple(0.1 if k == label and not covered else 0.5 for k in (0, 1))
    usual = {
        "request_id": n.to_bytes(16, "big"), "at_us": at_us, "matured_us": at_us, "model_hash": MODEL,
        "calibration_id": CALIBRATION, "slot": "champion", "own": True, "label": label, "missed": not covered,
        "probabilities": (0.7, 0.3) if label == 0 else (0.4, 0.6), "p_values": p_values, "subject": None,
    }  # fmt: skip
    return MaturedRow(**{**usual, **facts})


ROWS = [
    *(matured(n, 0, 0, covered=n < 27) for n in range(30)),
    *(matured(30 + n, 0, 1, covered=n < 10) for n in range(25)),
    *(matured(100 + n, 2, 1, covered=True) for n in range(4)),
    matured(200, 1, 1, covered=False, own=False),
    matured(201, 1, 1, covered=False, calibration_id="another"),
    matured(202, 1, 1, covered=False, missed=None),
    matured(203, 1, 1, covered=False, model_hash="bb"),
    matured(204, 5, 1, covered=False),
]


def ledger(tmp_path, guarantee="class_conditional"):
    tables = open_ledger_tables(Settings(home=tmp_path), "toy")
    facts = {
        "model_hash": MODEL, "calibration_id": CALIBRATION, "classes": [0, 1], "calibration_sizes": [9, 9],
        "level": "0.9", "guarantee": guarantee,
    }  # fmt: skip
    with Ledger.changing(tables) as found:
        keep_target(found, facts, {})
        found.add_matured(ROWS)
    return tables
