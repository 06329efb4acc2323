"""Windows of live answers, one after another: every answer is in one of them, whoever looks and whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_core.base.errors import ArtefactError, DataError, LogDamaged, NotLoaded
from ml_core.base.settings import Settings
from ml_core.lab.config import DriftConfig
from ml_core.lab.drift.block_means import blocks_of
from ml_core.lab.drift.sequential import DriftState
from ml_core.lab.watching import live_drift as drifting
from ml_core.lab.watching.health_monitor import HealthMonitor
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.lab.watching.live_drift import check_live, inputs_of, live_window, reference_of, scores_of
from ml_core.serve.answering.requests import PredictRequest
from ml_core.serve.model.bundle import REFERENCE_FILE
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout import changes
from tests.lab.watching.ward import Ward, patients, records_of
from tests.serve.answering.builders import until
from tests.toy_models import toy_model


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    place = Ward(tmp_path, drift_window_rows=100)
    yield place
    place.close()


def windows(ward: Ward) -> list[dict[str, Any]]:
    """Windows of the first model, oldest first."""
    with Ledger.reading(open_ledger_tables(ward.home.settings, ward.home.settings.model_name)) as ledger:
        assert ledger is not None
        return ledger.windows(ward.home.hash_of(ward.home.v1), 100)[::-1]


def restarted(ward: Ward) -> HealthMonitor:
    return HealthMonitor(ward.home.settings, now=lambda: ward.now)


def test_a_window_is_judged_once_it_is_full(ward: Ward) -> None:
    ward.answer(patients(99, seed=1))
    assert ward.look().windows == 0
    ward.answer(patients(2, seed=2))
    assert ward.look().windows == 1
    ward.answer(patients(250, seed=3))
    assert ward.look().windows == 2
    assert ward.look().windows == 0
    assert [window["rows"] for window in windows(ward)] == [100, 100, 100]


def test_a_request_sent_again_is_one_row_of_a_window(ward: Ward) -> None:
    ward.answer_again(patients(1, seed=4), "visit-7", 8)
    ward.answer(patients(98, seed=1))
    assert (ward.look().windows, live_window(ward.home.settings, 1_000).rows) == (0, 99)
    ward.answer_again(patients(1, seed=4), "visit-7", 3)
    assert ward.look().windows == 0
    ward.answer(patients(1, seed=2))
    assert ward.look().windows == 1
    assert [window["rows"] for window in windows(ward)] == [100]


def asked_of(ward: Ward, seed: int, subjects: list[str | None]) -> None:
    """One row of each subject, who sends it again and again."""
    rows: dict[str | None, Any] = {}
    for n, subject in enumerate(subjects):
        (record,), _ = records_of(patients(1, seed=seed + n))
        record = {**record, "patient_id": f"p{seed + n}"}  # whom an answer without a subject is about
        record = record if subject is None else rows.setdefault(subject, record)
        asyncio.run(ward.workers[0].service.predict(PredictRequest(record, subject=subject)))
    until(lambda: ward.writers[0].counts.pending == 0)


def detector(ward: Ward) -> DriftState:
    with Ledger.reading(open_ledger_tables(ward.home.settings, ward.home.settings.model_name)) as ledger:
        assert ledger is not None
        return DriftState(**ledger.detectors(ward.home.hash_of(ward.home.v1))["drift"][0])


def test_all_rows_of_a_subject_are_in_one_block(tmp_path: Path) -> None:
    """Two subjects, one after the other in turns: in blocks of 10 answers there are two blocks, not ten."""
    ward = Ward(tmp_path, drift_window_rows=100, drift_block_rows=10)
    asked_of(ward, 500, ["a", "b"] * 50)
    assert ward.look().windows == 1
    assert detector(ward).blocks == 2
    found = live_window(ward.home.settings, 100)
    assert len(set(found.patients)) == 2
    asked_of(ward, 700, [None] * 100)
    ward.look()
    assert detector(ward).blocks == 2 + 10
    ward.close()


def test_the_advice_counts_a_subject_once(ward: Ward) -> None:
    asked_of(ward, 900, ["a"] * 60)
    found = check_live(live_window(ward.home.settings, 60), DriftConfig())
    assert found.features_tested == 0  # one patient is too few to test anything
    assert "60 rows were tested as 1 independent" in found.notes[-1]


def test_a_window_of_several_files_is_cut_into_blocks_by_time(shared: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Any]] = []
    monkeypatch.setattr(drifting, "blocks_of", lambda s, size: seen.append(list(s)) or blocks_of(s, size))
    compare = drifting.DriftMonitor._compare

    def spying(self: Any, ledger: Any, reference: Any, window: Any, now: Any) -> None:
        assert [answer.at for answer in window] == sorted(answer.at for answer in window)
        assert len({answer.at for answer in window}) > 5
        compare(self, ledger, reference, window, now)

    monkeypatch.setattr(drifting.DriftMonitor, "_compare", spying)
    for n in range(50):
        shared.answer(patients(20, seed=40 + n))
        shared.pass_days(0.01)
    assert shared.look().windows == 1
    assert [len(subjects) for subjects in seen] == [1_000]


def test_windows_go_on_where_they_were_after_a_restart(ward: Ward) -> None:
    ward.answer(patients(80, seed=7))
    assert ward.look().windows == 0
    ward.watch = restarted(ward)
    ward.answer(patients(80, seed=8))
    assert ward.look().windows == 1
    ward.watch = restarted(ward)
    assert ward.look().windows == 0
    ward.answer(patients(40, seed=9))
    assert ward.look().windows == 1


def test_two_monitors_judge_no_answer_twice(ward: Ward) -> None:
    other = restarted(ward)
    judged = 0
    for n in range(5):
        ward.answer(patients(60, seed=10 + n))
        judged += (ward.watch, other)[n % 2].look().windows
        judged += other.look().windows
    assert judged == len(windows(ward)) == 3
    spans = [(window["first_us"], window["last_us"]) for window in windows(ward)]
    assert all(first <= last for first, last in spans)


def test_a_window_that_could_not_be_judged_is_judged_at_the_next_look(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward.answer(patients(60, seed=1))
    ward.look()
    ward.answer(patients(60, seed=2))

    def fail(*_: object, **__: object) -> None:
        raise LogDamaged("predictions.db", "its disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(drifting, "detect_score_drift", fail)
        with pytest.raises(LogDamaged):
            ward.look()
    assert ward.look().windows == 1
    assert [window["rows"] for window in windows(ward)] == [100]


def test_a_new_champion_is_held_against_its_own_reference_by_its_own_answers(ward: Ward) -> None:
    ward.answer(patients(60, seed=1))
    ward.look()
    ward.home.change(changes.full(ward.home.v2))
    ward.look()
    ward.answer(patients(60, seed=2))
    assert ward.look().windows == 0
    ward.answer(patients(40, seed=3))
    assert ward.look().windows == 1
    assert windows(ward) == []


def test_inputs_that_are_not_kept_make_no_window(tmp_path: Path) -> None:
    ward = Ward(tmp_path, drift_window_rows=100, log_inputs=False)
    ward.answer(patients(150, seed=1))
    assert ward.look().windows == 0
    ward.close()


def test_a_window_keeps_what_every_feature_and_score_has_shown(ward: Ward) -> None:
    ward.answer(patients(100, seed=4))
    ward.look()
    (window,) = windows(ward)
    assert [report["feature"] for report in window["reports"]["features"]] == ["age", "glucose", "bmi", "bp_systolic"]
    assert [report["feature"] for report in window["reports"]["scores"]] == ["0", "1"]
    assert 0.0 <= window["p_value"] <= 1.0


def test_a_bulk_call_fills_several_windows_and_the_last_takes_the_remainder(ward: Ward) -> None:
    ward.answer_bulk(records_of(patients(250, seed=1))[0])
    ward.look()
    assert [window["rows"] for window in windows(ward)] == [100, 150]


# --- the newest answers -------------------------------------------------------------------------------------------


FEATURES = ["age", "glucose", "bmi", "bp_systolic"]


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Ward]:
    place = Ward(tmp_path, workers=2)
    yield place
    place.close()


def test_a_window_has_the_newest_answers_of_all_workers(shared: Ward) -> None:
    shared.answer(patients(60, seed=1))
    old = shared.now
    shared.pass_days(1)
    newer = patients(40, seed=2)
    shared.answer(newer)
    window = live_window(shared.home.settings, 40)
    assert (window.rows, window.since, window.until, window.reference.tag) == (
        40,
        shared.now,
        shared.now,
        shared.home.v1,
    )
    assert sorted(window.inputs["age"].tolist()) == sorted(newer["age"].tolist())
    assert np.isnan(window.inputs["glucose"]).sum() == newer["glucose"].isna().sum() > 0
    assert live_window(shared.home.settings, 1_000).since == old


def test_inputs_and_scores_are_those_that_were_asked_and_answered(shared: Ward) -> None:
    rows = patients(30, seed=3)
    answers = {answer.request_id: answer for answer in shared.answer(rows)}
    logged = shared.log.last(30)
    scores = scores_of(logged)
    assert list(scores) == ["0", "1"]
    np.testing.assert_array_equal(scores["1"], [answers[one.request_id].probability for one in logged])
    np.testing.assert_allclose(scores["0"] + scores["1"], 1.0)
    inputs = inputs_of(logged, reference_of(ModelLoader(shared.home.settings), shared.home.v1).columns)
    assert list(inputs) == FEATURES
    asked = sorted(tuple(str(record[name]) for name in ("age", "bmi")) for record in records_of(rows)[0])
    told = sorted(
        (str(int(a)), str(None if np.isnan(b) else b)) for a, b in zip(inputs["age"], inputs["bmi"], strict=True)
    )
    assert told == asked


def test_answers_of_earlier_models_are_left_out(shared: Ward) -> None:
    shared.answer(patients(50, seed=1))
    shared.home.change(changes.full(shared.home.v2))
    shared.look()
    with pytest.raises(DataError, match="no answer of"):
        live_window(shared.home.settings, 100)
    shared.answer(patients(20, seed=2))
    window = live_window(shared.home.settings, 100)
    assert (window.rows, window.reference.model_hash) == (20, shared.home.hash_of(shared.home.v2))


def test_where_nothing_is_live_or_nothing_was_asked_that_is_said(shared: Ward, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="start the service"):
        live_window(Settings(home=tmp_path / "elsewhere", model_name="toy"), 100)
    with pytest.raises(DataError, match="no answer of"):
        live_window(shared.home.settings, 100)


def test_inputs_that_are_not_kept_are_asked_for_as_a_file(tmp_path: Path) -> None:
    shared = Ward(tmp_path, log_inputs=False)
    shared.answer(patients(20, seed=1))
    with pytest.raises(DataError, match="--current FILE"):
        live_window(shared.home.settings, 100)
    shared.close()


def test_the_reference_is_that_of_the_artefact_and_trusted_only_with_all_of_it(shared: Ward) -> None:
    loader = ModelLoader(shared.home.settings)
    normal = reference_of(loader, shared.home.v1)
    assert (normal.model_hash, [column.name for column in normal.columns]) == (toy_model().model_hash, FEATURES)
    with pytest.raises(NotLoaded):
        reference_of(loader, "toy_risk:v9-00000000")
    file = shared.home.file(shared.home.v1, REFERENCE_FILE)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtefactError):
        reference_of(loader, shared.home.v1)
