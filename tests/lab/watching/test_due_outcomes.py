"""Due answers are counted once, and missing outcomes are told: how many, what they leave open, and what is held."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_core.base.clock import microseconds, utc_text
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.lab.measuring.coverage_detector import DetectorState, update
from ml_core.lab.watching import due_outcomes as module
from ml_core.lab.watching.alarms import alarms_of, held_alarms
from ml_core.lab.watching.due_outcomes import OutcomeCounter, due_outcomes, judge_outcomes, unverified_of
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.lab.watching.maturing import Horizons, mature_answers
from ml_core.lab.watching.outcome_counts import DueAnswer
from ml_core.lab.watching.readable_log import ReadableLog
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.worker.status import ServiceStatus
from tests.lab.watching.answered import HORIZON_DAYS, START, Answered, facts_of
from tests.lab.watching.ward import Ward, patients, unforeseen

MODEL, OTHER = "a" * 64, "b" * 64
ONE, ZERO, BOTH, NONE = (0.1, 0.5), (0.5, 0.1), (0.5, 0.5), (0.1, 0.1)
"""p-values among nine calibration rows, by the set they make at 90 %."""


def manifest_of(**changes: Any) -> Any:
    usual = {
        "classes": (0, 1), "guarantee": "class_conditional", "metrics": {}, "confidence_level": Decimal("0.9"),
        "label_horizon_days": None,
    }  # fmt: skip
    return SimpleNamespace(**{**usual, **changes})


class Watched(Answered):
    """A log whose due answers are counted."""

    def __init__(self, folder: Path, database: str = "") -> None:
        super().__init__(folder, database)
        self.counter = OutcomeCounter(ReadableLog(self.log), keep_days=180.0)

    def look(self, usual: float = HORIZON_DAYS, **by_model: float) -> None:
        horizons = Horizons(usual, {name * 64: days for name, days in by_model.items()})
        with Ledger.changing(self.ledger) as ledger:
            matured = mature_answers(ledger, self.labels, self.log, self.now, horizons)
            self.counter.look(ledger, matured, self.now, horizons)

    def counted(self, model: str = MODEL) -> dict[tuple[int, ...], tuple[tuple[int, ...], int]]:
        """Outcomes by class, and missing ones, by set."""
        with Ledger.reading(self.ledger) as ledger:
            assert ledger is not None
            return {c.members: (c.returned, c.missing) for c in due_outcomes(ledger, model, manifest_of()).cells}

    def of_fallbacks(self) -> tuple[int, int]:
        with Ledger.reading(self.ledger) as ledger:
            assert ledger is not None
            return due_outcomes(ledger, MODEL, manifest_of()).of_fallbacks


@pytest.fixture
def home(tmp_path: Path, either_url: str) -> Watched:
    return Watched(tmp_path, either_url)


# --- counting -----------------------------------------------------------------------------------------------------


def test_answers_are_counted_by_set_and_outcome_once_they_are_due(home: Watched) -> None:
    ids = home.answer([ONE, ONE, ZERO, BOTH, NONE])
    home.tell([ids[0], ids[4]], 1)
    home.pass_days(HORIZON_DAYS - 0.001)
    home.look()
    assert home.counted() == {}
    home.pass_days(0.001)
    home.look()
    expected = {(1,): ((0, 1), 1), (0,): ((0, 0), 1), (0, 1): ((0, 0), 1), (): ((0, 1), 0)}
    assert home.counted() == expected
    home.look()
    assert home.counted() == expected


def test_an_outcome_that_comes_late_is_no_longer_missing(home: Watched) -> None:
    (answer,) = home.answer([BOTH])
    home.pass_days(HORIZON_DAYS + 5)
    home.look()
    assert home.counted() == {(0, 1): ((0, 0), 1)}
    home.tell([answer], 0)
    home.look()
    home.tell([answer], 1)  # a correction changes nothing any more
    home.look()
    assert home.counted() == {(0, 1): ((1, 0), 0)}


def test_a_retry_counts_once_and_the_label_of_any_of_them_is_its_outcome(home: Watched) -> None:
    tries = home.answer([BOTH, ZERO, ZERO], client="a caller's name", ids=[bytes([n]) * 16 for n in range(3)])
    home.pass_days(HORIZON_DAYS)
    home.look()
    assert home.counted() == {(0, 1): ((0, 0), 1)}
    home.tell([tries[2]], 1)
    home.look()
    assert home.counted() == {(0, 1): ((0, 1), 0)}


def test_answers_of_fallbacks_and_of_other_calibrations_are_counted_apart(home: Watched) -> None:
    told = home.answer([BOTH, BOTH], reason="circuit_open")
    home.answer([(0.123, 0.5)])  # no rank among nine rows
    home.answer([BOTH], facts_of(slot="prior"))
    home.tell(told[:1], 1)
    home.pass_days(HORIZON_DAYS)
    home.look()
    assert (home.counted(), home.of_fallbacks()) == ({}, (4, 3))


def test_sets_are_those_of_the_confidence_that_the_model_promises_with(home: Watched) -> None:
    sizes = (99, 99)  # at 0.9 a label enters above rank 10, with a confidence of 0.95 above rank 5
    home.answer([(0.08, 0.5)], facts_of(sizes=sizes))
    home.answer([(0.08, 0.5)], facts_of(sizes=sizes, model_hash=OTHER, training_conditional="0.95"))
    home.pass_days(HORIZON_DAYS)
    home.look()
    assert (home.counted(), home.counted(OTHER)) == ({(1,): ((0, 0), 1)}, {(0, 1): ((0, 0), 1)})


def test_an_erased_answer_is_not_missing(home: Watched) -> None:
    early, late = home.answer([BOTH, ZERO])
    home.erase(early)
    home.pass_days(HORIZON_DAYS)
    home.look()
    assert home.counted() == {(0,): ((0, 0), 1)}
    home.erase(late)
    Ledger.erase(home.ledger, [], [late])
    home.look()
    assert home.counted() == {}


def test_every_model_has_its_own_horizon_and_a_changed_one_counts_anew(home: Watched) -> None:
    home.answer([ONE])
    home.answer([ZERO], facts_of(model_hash=OTHER))
    home.pass_days(10)
    home.look(b=7.0)
    assert (home.counted(MODEL), home.counted(OTHER)) == ({}, {(0,): ((0, 0), 1)})
    home.look(usual=5.0, b=7.0)
    assert (home.counted(MODEL), home.counted(OTHER)) == ({(1,): ((0, 0), 1)}, {(0,): ((0, 0), 1)})
    home.look(usual=30.0, b=7.0)
    assert (home.counted(MODEL), home.counted(OTHER)) == ({}, {(0,): ((0, 0), 1)})


def test_a_look_reads_what_has_become_due_and_nothing_else(home: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counting(self: OutcomeCounter, ledger: Ledger, due: Any) -> None:
        read.append(len(due))
        count(self, ledger, due)

    count = OutcomeCounter._count
    monkeypatch.setattr(OutcomeCounter, "_count", counting)
    for _ in range(3):
        home.answer([ONE] * 7)
        home.pass_days(HORIZON_DAYS)
        home.look()
        home.look()
    assert read == [7, 7, 7]


def test_counts_do_not_depend_on_how_often_somebody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_A_TIME", 3)
    rng, homes = np.random.default_rng(5), [Watched(tmp_path / name) for name in ("often", "once")]
    for day in range(12):
        sets = [(ONE, ZERO, BOTH)[k] for k in rng.integers(3, size=5)]
        told = rng.random(5) < 0.5
        for home in homes:
            ids = home.answer(sets, ids=[bytes([day, n]) * 8 for n in range(5)])
            home.tell([i for i, one in zip(ids, told, strict=True) if one], 1)
            home.pass_days(1)
        homes[0].look(usual=3.0)
    for home in homes:
        home.pass_days(30)
        home.look(usual=3.0)
    assert homes[0].counted() == homes[1].counted()
    assert sum(sum(returned) + missing for returned, missing in homes[0].counted().values()) == 60


def test_a_damaged_file_is_passed_over(home: Watched) -> None:
    home.answer([ONE])
    damaged = next(home.folder.glob("*.db"))
    home.pass_days(2)
    home.answer([ZERO])
    damaged.write_bytes(b"no database" * 500)
    home.pass_days(HORIZON_DAYS)
    home.look()
    assert home.counted() == {(0,): ((0, 0), 1)}


# --- judging ------------------------------------------------------------------------------------------------------

NOW = START + timedelta(days=400)
LONG_AGO, LATELY = NOW - timedelta(days=200), NOW - timedelta(days=60)
CERTAIN = [True] * 60
"""Misses that raise the alarm of a detector."""


@pytest.fixture
def ledger(tmp_path: Path, either_url: str) -> Iterator[Ledger]:
    with Ledger.changing(open_ledger_tables(Settings(home=tmp_path, database=either_url), "toy")) as opened:
        yield opened


def settings_of(**changes: Any) -> Settings:
    return Settings(home=Path("nowhere"), **changes)


def fill(ledger: Ledger, cells: dict[tuple[int, ...], tuple[int, int, int]], at: Any = LATELY) -> None:
    """Due answers by set: outcomes 0, outcomes 1, missing ones."""
    for members, counts in cells.items():
        answers = [
            DueAnswer(os.urandom(16), microseconds(at), MODEL, own=True, members=members, prediction=members[-1])
            for _ in range(sum(counts))
        ]
        outcomes = [0] * counts[0] + [1] * counts[1]
        ledger.outcomes.add(answers, {a.request_id: y for a, y in zip(answers, outcomes, strict=False)})


def judged(ledger: Ledger, **changes: Any) -> tuple[str, ...]:
    found = judge_outcomes(ledger, MODEL, manifest_of(), settings_of(**changes), NOW).unverified
    assert unverified_of(ledger, MODEL) == found
    return tuple(each.reason for each in found)


def alarm(ledger: Ledger, name: str, at: Any) -> None:
    state = update(DetectorState(0.1), CERTAIN)
    assert state.is_alarmed
    ledger.keep_detector(MODEL, name, asdict(state), utc_text(at))


COMPLETE = {(0,): (450, 20, 30), (1,): (45, 180, 25), (0, 1): (150, 90, 10)}
"""93 to 96 % of the outcomes of each set have come."""
BY_SET = {(0,): (90, 10, 400), (1,): (40, 160, 50), (0, 1): (120, 80, 50)}
"""Those of 80 % of the sets with label 1 have come, and of 20 % of the others: coverage of 1 looks like .96, and is .86."""


def test_outcomes_that_come_leave_nothing_open(ledger: Ledger) -> None:
    fill(ledger, COMPLETE)
    assert judged(ledger) == ()


def test_return_that_depends_on_the_set_leaves_both_classes_open(ledger: Ledger) -> None:
    fill(ledger, BY_SET)
    assert judged(ledger) == ("outcomes:0", "outcomes:1")
    of_one = unverified_of(ledger, MODEL)[1]
    assert "80% of the answers whose set holds 1 and for 20% of the others" in of_one.says
    assert "coverage of 1 may be anything from 0." in of_one.says


def test_too_many_missing_outcomes_leave_all_open_even_if_they_are_of_all_sets_alike(ledger: Ledger) -> None:
    fill(ledger, {(0,): (300, 20, 80), (1,): (20, 140, 40)})
    assert judged(ledger) == ()
    fill(ledger, {(0,): (0, 0, 2), (1,): (0, 0, 1)})
    assert judged(ledger) == ("outcomes:0", "outcomes:1")
    assert judged(ledger, unverified_missing=0.3) == ()


@pytest.mark.parametrize(("due", "found"), [(199, ()), (200, ("outcomes:0", "outcomes:1"))])
def test_where_outcomes_never_come_it_is_told_after_a_stated_number_of_due_answers(
    ledger: Ledger, due: int, found: tuple[str, ...]
) -> None:
    fill(ledger, {(0,): (0, 0, due)})
    assert judged(ledger) == found
    assert alarms_of(ledger, MODEL) == ()


def test_outcomes_may_come_late_within_the_grace(ledger: Ledger) -> None:
    fill(ledger, BY_SET, NOW - timedelta(days=30.9))
    assert judged(ledger) == ()
    assert judged(ledger, outcome_grace_days=0.5) == ("outcomes:0", "outcomes:1")


def test_only_the_latest_answers_are_judged(ledger: Ledger) -> None:
    fill(ledger, BY_SET, LONG_AGO)
    assert judged(ledger) == ("outcomes:0", "outcomes:1")
    fill(ledger, COMPLETE, LATELY)
    assert judged(ledger) == ()


def test_a_marginal_promise_is_left_open_as_a_whole(ledger: Ledger) -> None:
    fill(ledger, BY_SET)
    found = judge_outcomes(ledger, MODEL, manifest_of(guarantee="marginal"), settings_of(), NOW).unverified
    assert [each.reason for each in found] == ["outcomes:all"]


# --- alarms that are held -----------------------------------------------------------------------------------------


def test_an_alarm_whose_evidence_depends_on_the_set_is_held_and_its_class_left_open(ledger: Ledger) -> None:
    fill(ledger, BY_SET)
    alarm(ledger, "coverage:0", NOW)
    assert judged(ledger) == ("outcomes:0", "outcomes:1")
    assert (alarms_of(ledger, MODEL), held_alarms(ledger, MODEL)) == ((), ("coverage:0",))
    assert "the alarm coverage:0 is held" in unverified_of(ledger, MODEL)[0].says


def test_an_alarm_that_went_off_before_outcomes_came_to_depend_on_the_set_stays(ledger: Ledger) -> None:
    fill(ledger, COMPLETE, LONG_AGO)
    alarm(ledger, "coverage:0", LONG_AGO + timedelta(days=31))
    fill(ledger, BY_SET, LATELY)
    assert judged(ledger) == ("outcomes:0", "outcomes:1")
    assert [each.reason for each in alarms_of(ledger, MODEL)] == ["coverage:0"]


def test_an_alarm_that_weighted_outcomes_confirm_stays(ledger: Ledger) -> None:
    fill(ledger, {(0,): (90, 40, 370), (1,): (40, 160, 50), (0, 1): (120, 80, 50)})
    alarm(ledger, "coverage:1", NOW)
    assert judged(ledger) == ("outcomes:0", "outcomes:1")
    assert [each.reason for each in alarms_of(ledger, MODEL)] == ["coverage:1"]


def test_outcomes_that_come_after_all_release_the_alarm(ledger: Ledger) -> None:
    fill(ledger, BY_SET)
    alarm(ledger, "coverage:0", NOW)
    judged(ledger)
    late = [row[0] for row in ledger._connection.execute("SELECT request_id FROM missing_outcome").fetchall()]
    ledger.outcomes.came(dict.fromkeys(late, 0))
    assert judged(ledger) == ()
    assert [each.reason for each in alarms_of(ledger, MODEL)] == ["coverage:0"]


def test_a_held_detector_begins_anew_once_the_latest_outcomes_come(ledger: Ledger) -> None:
    fill(ledger, BY_SET, LONG_AGO)
    alarm(ledger, "coverage:0", LONG_AGO + timedelta(days=40))
    assert judged(ledger) == ("outcomes:0", "outcomes:1")
    fill(ledger, COMPLETE, LATELY)
    found = judge_outcomes(ledger, MODEL, manifest_of(), settings_of(), NOW)
    assert (found.unverified, found.restarted) == ((), ("coverage:0",))
    assert (alarms_of(ledger, MODEL), ledger.detectors(MODEL)) == ((), {})
    fill(ledger, COMPLETE, LATELY + timedelta(hours=2))
    alarm(ledger, "coverage:0", LATELY + timedelta(days=31))  # of outcomes since then: it is believed
    assert judged(ledger) == ()
    assert [each.reason for each in alarms_of(ledger, MODEL)] == ["coverage:0"]


# --- the real monitor ---------------------------------------------------------------------------------------------


@pytest.fixture
def ward_of(tmp_path: Path) -> Iterator[Callable[..., Ward]]:
    opened: list[Ward] = []

    def make(**settings: Any) -> Ward:
        opened.append(Ward(tmp_path, **settings))
        return opened[-1]

    yield make
    for ward in opened:
        ward.close()


def matured(ward: Ward, rows: pd.DataFrame, holds: float, lacks: float) -> None:
    """Outcomes return for that share of the answers whose set holds 1, and of the others."""
    rng = np.random.default_rng(3)
    has_one = {answer.request_id: 1 in answer.prediction_set for answer in ward.answer(rows)}
    ward.due = [told for told in ward.due if rng.random() < (holds if has_one[told[1]] else lacks)]
    ward.pass_days(HORIZON_DAYS + 1)
    ward.look()


def says(ward: Ward) -> tuple[str, tuple[str, ...]]:
    (found,) = ward.workers[0].service.validity.values()
    return found


def test_a_label_that_comes_only_for_one_kind_of_set_makes_answers_unverified(ward_of: Callable[..., Ward]) -> None:
    ward = ward_of(coverage_alarm_labels=100.0)  # so that the alarm would go off on what is seen of class 0
    ward.look()
    assert says(ward) == ("valid", ())
    for day in range(2):
        matured(ward, patients(400, seed=10 + day), 0.8, 0.2)
    assert says(ward) == ("unverified", ("outcomes:0", "outcomes:1"))
    assert ward.detectors(ward.home.v1)["coverage:0"].is_alarmed
    worker = ward.workers[0]
    told = ServiceStatus(ward.home.settings, worker.service, worker.follower).report()
    assert (told["models"][0]["validity"], told["models"][0]["validity_reasons"]) == (
        "unverified",
        ["outcomes:0", "outcomes:1"],
    )
    (seen,) = told["monitor"]["models"].values()
    assert "the alarm coverage:0 is held; coverage of 0 may be anything from 0." in seen["unverified"][0]["says"]
    events = [entry["event"] for entry in Journal(ward.home.settings.journal).entries()]
    assert ("alarm.raised" in events, events.count("coverage.unverified")) == (False, 1)
    (health,) = ward.watch.look().state.models.values()
    figures = {(f.name, f.label): f.value for f in health.figures}
    assert figures["due_answers", ""] == 800
    for label in ("0", "1"):
        low, high = figures["lowest_coverage", label], figures["highest_coverage", label]
        assert low <= figures["weighted_coverage", label] <= high
    assert abs(figures["weighted_coverage", "0"] - 0.9) < abs(figures["live_coverage", "0"] - 0.9)


def test_outcomes_that_all_come_leave_answers_valid(ward_of: Callable[..., Ward]) -> None:
    ward = ward_of()
    matured(ward, patients(400, seed=10), 1.0, 1.0)
    assert says(ward) == ("valid", ())


def test_lost_coverage_is_still_an_alarm_where_some_outcomes_are_missing_by_chance(
    ward_of: Callable[..., Ward],
) -> None:
    ward = ward_of()
    matured(ward, unforeseen(700, seed=1), 0.7, 0.7)
    assert says(ward) == ("suspect", ("coverage:1",))


def test_a_hospital_that_never_sends_outcomes_is_told_and_not_alarmed(ward_of: Callable[..., Ward]) -> None:
    ward = ward_of()
    matured(ward, patients(150, seed=1), 0.0, 0.0)
    assert says(ward) == ("valid", ())
    matured(ward, patients(150, seed=2), 0.0, 0.0)
    assert says(ward) == ("unverified", ("outcomes:0", "outcomes:1"))


def test_a_retry_is_one_due_answer(ward_of: Callable[..., Ward]) -> None:
    ward = ward_of()
    answers = ward.answer_again(patients(1, seed=1), "once", times=8)
    assert len({id_bytes(answer.request_id) for answer in answers}) == 8
    ward.pass_days(HORIZON_DAYS + 1)
    (health,) = ward.look().state.models.values()
    assert [(f.name, f.value) for f in health.figures if not f.label] == [
        ("due_answers", 1.0),
        ("missing_outcomes", 1.0),
        ("expected_answers", 1.0),
    ]
