"""What a live model's answers lead to expect, day by day: which answers count, how often, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from ml_core.lab.measuring.expected_performance import expected_performance, recalibration_of, score_sums
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.lab.watching.live_expectations import ExpectedStretch, expected_between, expected_lately
from ml_core.lab.watching.live_performance import expected_of
from ml_core.serve.answering.envelope import InferenceResponse
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.rollout import changes
from tests.lab.watching.ward import START, Ward, patients
from tests.statistical.replays import Toy
from tests.toy_models import toy_model

TODAY = datetime(START.year, START.month, START.day, tzinfo=UTC)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    place = Ward(tmp_path, workers=2)
    yield place
    place.close()


def expected(ward: Ward, since: datetime | None = None, tag: str = "") -> ExpectedStretch | None:
    return expected_of(ward.home.settings, ward.home.hash_of(tag or ward.home.v1), since)


def answers_in(ward: Ward, tag: str = "") -> int:
    found = expected(ward, tag=tag)
    return 0 if found is None else found.found.answers


def by_hand(answers: Sequence[InferenceResponse]) -> object:
    recalibration = recalibration_of(toy_model().bundle.calibration)
    assert recalibration is not None
    p1 = np.array([answer.probability for answer in answers], dtype=float)
    sets = np.array([[label in answer.prediction_set for label in (0, 1)] for answer in answers])
    return expected_performance(recalibration, score_sums(recalibration, np.column_stack([1.0 - p1, p1]), sets))


def test_what_is_expected_follows_from_the_answers_alone(ward: Ward) -> None:
    answers = ward.answer(patients(300, seed=1))
    ward.look()
    found = expected(ward)
    assert found is not None
    assert (found.since, found.until) == (TODAY, TODAY + timedelta(days=1))
    wanted = by_hand(answers)
    for name in ("auc", "brier"):
        assert getattr(found.found, name).value == pytest.approx(getattr(wanted, name).value, abs=1e-6)
    for mine, theirs in zip(found.found.coverage, wanted.coverage, strict=True):
        assert (mine.value, mine.standard_error) == pytest.approx((theirs.value, theirs.standard_error), abs=1e-6)


def test_every_answer_is_taken_in_once_however_often_the_monitor_looks(ward: Ward) -> None:
    assert answers_in(ward) == 0
    for n, seed in ((40, 1), (40, 2), (60, 3)):
        ward.answer(patients(n, seed=seed))
        ward.look()
        ward.look()
    assert answers_in(ward) == 140
    ward.another_monitor("second").look()  # another home: it reads all by itself and changes nothing here
    assert answers_in(ward) == 140


def test_a_look_reads_only_what_is_new(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    ward.answer(patients(80, seed=1))
    ward.look()
    read: list[int] = []
    whole = PredictionLog.after

    def counted(self: PredictionLog, *arguments: object) -> object:
        found = whole(self, *arguments)  # type: ignore[arg-type]  # passed on as they came
        read.append(len(found[0]))
        return found

    monkeypatch.setattr(PredictionLog, "after", counted)
    with Ledger.changing(open_ledger_tables(ward.home.settings, ward.home.settings.model_name)) as ledger:
        ward.watch._expected.look(ledger, ward.watch.live_models())
    assert sum(read) == 0
    ward.answer(patients(30, seed=2))
    with Ledger.changing(open_ledger_tables(ward.home.settings, ward.home.settings.model_name)) as ledger:
        ward.watch._expected.look(ledger, ward.watch.live_models())
    assert sum(read) == 30


def test_the_same_case_asked_again_counts_once(ward: Ward) -> None:
    ward.answer(patients(30, seed=1))
    ward.answer_again(patients(1, seed=2), "case", times=5)
    ward.look()
    assert answers_in(ward) == 31


def test_each_model_has_its_own_answers(ward: Ward) -> None:
    ward.answer(patients(50, seed=1))
    ward.look()
    ward.home.change(changes.full(ward.home.v2))
    ward.look()
    ward.answer(patients(30, seed=2))
    ward.look()
    assert (answers_in(ward), answers_in(ward, ward.home.v2)) == (50, 30)


def test_days_are_kept_apart_and_put_together_as_asked(ward: Ward) -> None:
    for n in (30, 0, 40, 50):
        if n:
            ward.answer(patients(n, seed=n))
        ward.pass_days(1)
    ward.look()
    model_hash, day = ward.home.hash_of(ward.home.v1), timedelta(days=1)
    with Ledger.reading(open_ledger_tables(ward.home.settings, ward.home.settings.model_name)) as ledger:
        assert ledger is not None
        starts = [TODAY + k * day for k in range(5)]
        found = expected_between(ledger, model_hash, starts, day)
        assert [None if each is None else each.answers for each in found] == [30, None, 40, 50, None]
        (week,) = expected_between(ledger, model_hash, [TODAY], 7 * day)
        assert week is not None
        assert week.answers == 120
        latest = expected_lately(ledger, model_hash, least=45)
        assert latest is not None
        assert (latest.found.answers, latest.since, latest.until) == (50, TODAY + 3 * day, TODAY + 4 * day)
        more = expected_lately(ledger, model_hash, least=51)
        assert more is not None
        assert (more.found.answers, more.since) == (90, TODAY + 2 * day)
        since = expected_lately(ledger, model_hash, since=TODAY + 2 * day + timedelta(hours=5))
        assert since is not None
        assert since.found.answers == 90
        assert expected_lately(ledger, model_hash, since=TODAY + 9 * day) is None


def test_days_long_ago_are_forgotten(ward: Ward) -> None:
    ward.answer(patients(30, seed=1))
    ward.look()
    ward.pass_days(900)
    ward.answer(patients(40, seed=2))
    ward.look()
    with Ledger.reading(open_ledger_tables(ward.home.settings, ward.home.settings.model_name)) as ledger:
        assert ledger is not None
        assert len(list(ledger.facts("expected:"))) == 1
    assert answers_in(ward) == 40


def test_the_monitor_publishes_it(ward: Ward) -> None:
    ward.answer(patients(200, seed=1))
    figures = {(f.name, f.label): f.value for f in ward.look().state.models[ward.home.hash_of(ward.home.v1)].figures}
    found = expected(ward)
    assert found is not None
    assert figures["expected_answers", ""] == 200
    assert found.found.auc is not None
    assert figures["expected_auc", ""] == found.found.auc.value
    assert figures["expected_auc_error", ""] == found.found.auc.standard_error
    assert {label for name, label in figures if name == "expected_coverage"} == {"0", "1"}


def test_nothing_is_expected_of_a_marginal_calibration(tmp_path: Path) -> None:
    ward = Ward(tmp_path, champion=Toy(3, guarantee="marginal").packed.folder)
    ward.answer(patients(100, seed=1))
    state = ward.look().state
    assert not any(f.name.startswith("expected") for health in state.models.values() for f in health.figures)
    ward.close()
