"""Detectors by the promise of a model, and the alarms that they raise."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from ml_core.base.clock import utc_text
from ml_core.lab.drift.sequential import DriftState
from ml_core.lab.measuring.coverage_detector import DetectorState, highest_miss_rate
from ml_core.lab.watching.alarms import (
    alarms_of,
    feed_coverage,
    keep_target,
    mark_announced,
    targets_of,
    unannounced,
)
from ml_core.lab.watching.ledger import LEDGER_FORMAT, Ledger, MaturedRow
from ml_core.serve.rollout.monitor_state import Alarm
from tests.lab.watching.answered import facts_of, matured_row

A, B = "a" * 64, "b" * 64
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NINETY = Decimal("0.9")


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        LEDGER_FORMAT.bring_up_to_date(connection, "")
        yield Ledger(connection)


def rows_of(*outcomes: tuple[int | str, bool | None], **changes: Any) -> list[MaturedRow]:
    """A row for each label and whether it was missed."""
    return [
        matured_row(n, label=label, missed=missed, **changes) for n, (label, missed) in enumerate(outcomes, start=1)
    ]


def feed(
    ledger: Ledger, rows: list[MaturedRow], *, threshold: float = 500.0, at: datetime = NOON, **facts: Any
) -> None:
    metrics = facts.pop("metrics", {})
    feed_coverage(ledger, facts_of(**{"sizes": (100, 100), **facts}), rows, metrics, threshold, at)


def detectors(ledger: Ledger, model_hash: str = A) -> dict[str, DetectorState]:
    return {name: DetectorState(**state) for name, (state, _) in ledger.detectors(model_hash).items()}


# --- which detectors there are ------------------------------------------------------------------------------------


def test_each_class_has_a_detector_of_its_own(ledger: Ledger) -> None:
    feed(ledger, rows_of((0, False), (1, True), (1, False), (0, False)))
    found = detectors(ledger)
    assert {name: (d.labels, d.misses) for name, d in found.items()} == {"coverage:0": (2, 0), "coverage:1": (2, 1)}


def test_three_classes_have_three_by_their_own_calibration_rows(ledger: Ledger) -> None:
    labels = ("home", "again", "dead")
    feed(ledger, rows_of(*((label, False) for label in labels)), classes=labels, sizes=(500, 100, 50))
    expected = {f"coverage:{x}": highest_miss_rate(n, NINETY) for x, n in zip(labels, (500, 100, 50), strict=True)}
    assert {name: d.mu0 for name, d in detectors(ledger).items()} == expected


def test_a_marginal_promise_has_one_detector_for_all_classes(ledger: Ledger) -> None:
    feed(ledger, rows_of((0, False), (1, True), (1, True)), guarantee="marginal", metrics={"calibration_effect": 1.5})
    ((name, found),) = detectors(ledger).items()
    assert (name, found.labels, found.misses) == ("coverage:all", 3, 2)
    assert found.mu0 == highest_miss_rate(100, NINETY, 1.5)


def test_a_class_without_labels_has_no_detector_yet(ledger: Ledger) -> None:
    feed(ledger, rows_of((1, False)))
    assert list(detectors(ledger)) == ["coverage:1"]


def test_answers_that_cannot_be_judged_are_not_counted(ledger: Ledger) -> None:
    feed(ledger, rows_of((0, None), ("dead", None), (1, None), (1, False)))
    assert {name: d.labels for name, d in detectors(ledger).items()} == {"coverage:1": 1}


def test_the_limit_follows_from_level_calibration_rows_and_their_design_effect(ledger: Ledger) -> None:
    metrics = {"calibration_effect": 9.0, "calibration_effect_class_0": 1.0, "calibration_effect_class_1": 2.5}
    feed(ledger, rows_of((0, False), (1, False)), level="0.8", sizes=(900, 150), metrics=metrics)
    found = {name: d.mu0 for name, d in detectors(ledger).items()}
    level = Decimal("0.8")
    assert found == {"coverage:0": highest_miss_rate(900, level), "coverage:1": highest_miss_rate(150, level, 2.5)}


def test_a_manifest_without_design_effects_counts_every_row_as_its_own_patient(ledger: Ledger) -> None:
    feed(ledger, rows_of((1, False)), metrics={"roc_auc": 0.7})
    assert detectors(ledger)["coverage:1"].mu0 == highest_miss_rate(100, NINETY, 1.0)


def test_models_have_detectors_of_their_own(ledger: Ledger) -> None:
    feed(ledger, rows_of((1, True)))
    feed(ledger, rows_of((1, False), (1, False)), model_hash=B)
    assert (detectors(ledger)["coverage:1"].labels, detectors(ledger, B)["coverage:1"].labels) == (1, 2)


def test_feeding_in_pieces_is_feeding_at_once(ledger: Ledger) -> None:
    rows = rows_of(*((n % 2, n % 7 == 0) for n in range(200)))
    for start in (0, 1, 50, 199):
        end = {0: 1, 1: 50, 50: 199, 199: 200}[start]
        feed(ledger, rows[start:end])
        feed(ledger, rows[:0])
    feed(ledger, rows, model_hash=B)
    assert detectors(ledger) == detectors(ledger, B)


# --- alarms -------------------------------------------------------------------------------------------------------


def test_an_alarm_names_the_class_and_keeps_the_moment_it_went_off(ledger: Ledger) -> None:
    feed(ledger, rows_of(*[(1, True)] * 60, *[(0, False)] * 10))
    feed(ledger, rows_of(*[(1, True)] * 60), at=NOON.replace(hour=13))
    (alarm,) = alarms_of(ledger, A)
    assert (alarm.reason, alarm.since) == ("coverage:1", utc_text(NOON))
    assert "label 1" in alarm.says
    assert "500 labels" in alarm.false_alarm
    assert alarms_of(ledger, B) == ()


def test_an_alarm_stays_on_whatever_comes_after_it(ledger: Ledger) -> None:
    feed(ledger, rows_of(*[(1, True)] * 60))
    feed(ledger, rows_of(*[(1, False)] * 5_000))
    assert [alarm.reason for alarm in alarms_of(ledger, A)] == ["coverage:1"]


def test_a_marginal_alarm_speaks_of_all_answers(ledger: Ledger) -> None:
    feed(ledger, rows_of(*[(1, True)] * 60), guarantee="marginal")
    (alarm,) = alarms_of(ledger, A)
    assert (alarm.reason, "with label" in alarm.says) == ("coverage:all", False)


def test_a_detector_that_was_forgotten_begins_anew_with_what_holds_now(ledger: Ledger) -> None:
    feed(ledger, rows_of(*[(1, True)] * 60))
    ledger.forget_detector(A, "coverage:1")
    assert alarms_of(ledger, A) == ()
    feed(ledger, rows_of((1, True)), threshold=1_000.0)
    found = detectors(ledger)["coverage:1"]
    assert (found.labels, found.threshold, alarms_of(ledger, A)) == (1, 1_000.0, ())


def test_a_threshold_that_changes_does_not_change_a_detector_that_is_at_work(ledger: Ledger) -> None:
    feed(ledger, rows_of((1, True)), threshold=500.0)
    feed(ledger, rows_of(*[(1, True)] * 60), threshold=1e9)
    assert detectors(ledger)["coverage:1"].threshold == 500.0
    assert [alarm.reason for alarm in alarms_of(ledger, A)] == ["coverage:1"]


def test_the_drift_alarm_says_what_a_block_is_and_where_the_evidence_lies(ledger: Ledger) -> None:
    state = DriftState(100.0, 200.0, windows=3, alarm_at=3, block_rows=50, blocks=60, leading=("glucose", "age"))
    ledger.keep_detector(A, "drift", asdict(state), utc_text(NOON))
    (alarm,) = alarms_of(ledger, A)
    assert (alarm.reason, "window 3" in alarm.says, "glucose, age" in alarm.says) == ("drift", True, True)
    assert "blocks of 50 answers" in alarm.says
    assert "100 windows" in alarm.false_alarm
    assert "no more than 50 answers come together" in alarm.false_alarm


def test_a_drift_alarm_of_an_earlier_version_stays_on(ledger: Ledger) -> None:
    told = {"threshold": 100.0, "evidence": 150.0, "windows": 9, "alarm_at": 9}
    ledger.keep_detector(A, "drift", told, utc_text(NOON))
    (alarm,) = alarms_of(ledger, A)
    assert (alarm.since, "block" in alarm.says + alarm.false_alarm) == (utc_text(NOON), False)


def test_evidence_of_every_feeding_can_be_looked_at(ledger: Ledger) -> None:
    feed(ledger, rows_of(*[(1, True)] * 12))
    feed(ledger, rows_of(*[(1, True)] * 12), at=NOON.replace(hour=13))
    (first, low), (second, high) = ledger.evidence(A, "coverage:1")
    assert (second - first, high > low > 0) == (3_600 * 1_000_000, True)


def test_the_alarm_says_what_a_block_is_and_what_can_raise_it_without_cause(ledger: Ledger) -> None:
    feed(ledger, rows_of(*[(1, True)] * 60), sizes=(900, 100))
    (alarm,) = alarms_of(ledger, A)
    assert "blocks of 8 labels in the order of their answers" in alarm.says
    assert "none of the blocks of 8 labels" in alarm.false_alarm
    assert "alike rows one after another" in alarm.false_alarm


def test_a_rare_class_has_smaller_blocks_and_a_marginal_promise_the_largest(ledger: Ledger) -> None:
    feed(ledger, rows_of((0, False), (1, False)), sizes=(900, 100))
    feed(ledger, rows_of((0, False), (1, False)), sizes=(100, 100), model_hash=B, guarantee="marginal")
    assert {name: d.block for name, d in detectors(ledger).items()} == {"coverage:0": 12, "coverage:1": 8}
    assert {name: d.block for name, d in detectors(ledger, B).items()} == {"coverage:all": 12}


def test_a_detector_from_before_there_were_blocks_goes_on(ledger: Ledger) -> None:
    old = {"mu0": 0.11, "threshold": 500.0, "evidence": [1.0] * 5, "labels": 31, "misses": 4, "alarm_at": None}
    ledger.keep_detector(A, "coverage:1", old, None)
    ledger.keep_detector(A, "coverage:0", {**old, "alarm_at": 31}, utc_text(NOON))
    feed(ledger, rows_of(*[(1, True)] * 60, (0, False)), at=NOON.replace(hour=13))
    found = detectors(ledger)
    assert (found["coverage:1"].labels, found["coverage:1"].misses) == (91, 64)
    assert [(alarm.reason, alarm.since) for alarm in alarms_of(ledger, A)] == [
        ("coverage:0", utc_text(NOON)),
        ("coverage:1", utc_text(NOON.replace(hour=13))),
    ]


# --- telling ------------------------------------------------------------------------------------------------------


def alarm(reason: str, since: str) -> Alarm:
    return Alarm(reason=reason, since=since, says="so", false_alarm="seldom")


def test_an_alarm_is_told_once_and_again_when_it_went_off_again(ledger: Ledger) -> None:
    one, two = alarm("coverage:1", "t1"), alarm("drift", "t1")
    assert unannounced(ledger, A, [one, two]) == (one, two)
    mark_announced(ledger, A, [one])
    assert unannounced(ledger, A, [one, two]) == (two,)
    assert unannounced(ledger, B, [one]) == (one,)
    mark_announced(ledger, A, [two])
    assert unannounced(ledger, A, [one, two]) == ()
    again = alarm("coverage:1", "t2")
    assert unannounced(ledger, A, [again, two]) == (again,)


def test_the_confidence_of_a_promise_is_kept_with_its_target(ledger):
    plain, sure = facts_of(model_hash=A), {**facts_of(model_hash=B), "training_conditional": "0.95"}
    for facts in (plain, sure):
        keep_target(ledger, facts, {})
    found = [targets_of(ledger, model)[plain["calibration_id"]] for model in (A, B)]
    assert [target.confidence for target in found] == [None, Decimal("0.95")]
