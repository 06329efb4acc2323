"""Windows of live answers, one after another: every answer is in one of them, whoever looks and whatever fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.errors import LogDamaged
from ml_core.lab.watching import live_drift as drifting
from ml_core.lab.watching.health_monitor import Watch, ledger_path
from ml_core.lab.watching.ledger import Ledger
from ml_core.serve.rollout import changes
from tests.lab.watching.ward import Ward, patients


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    place = Ward(tmp_path, drift_window_rows=100)
    yield place
    place.close()


def windows(ward: Ward) -> list[dict[str, Any]]:
    """Windows of the first model, oldest first."""
    with Ledger.reading(ledger_path(ward.home.settings)) as ledger:
        assert ledger is not None
        return ledger.windows(ward.home.hash_of(ward.home.v1), 100)[::-1]


def restarted(ward: Ward) -> Watch:
    return Watch(ward.home.settings, now=lambda: ward.now)


def test_a_window_is_judged_once_it_is_full(ward: Ward) -> None:
    ward.answer(patients(99, seed=1))
    assert ward.look().windows == 0
    ward.answer(patients(2, seed=2))
    assert ward.look().windows == 1
    ward.answer(patients(250, seed=3))
    assert ward.look().windows == 2
    assert ward.look().windows == 0
    assert [window["rows"] for window in windows(ward)] == [100, 100, 100]


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
