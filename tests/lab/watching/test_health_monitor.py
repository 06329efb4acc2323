"""The monitor's long look, through log, late outcomes, horizon and workers."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import LogDamaged
from ml_core.base.journal import Journal
from ml_core.lab.measuring.coverage_detector import DetectorState, highest_miss_rate, update
from ml_core.lab.watching import health_monitor as module
from ml_core.lab.watching.health_monitor import HealthMonitor, acknowledge_alarm
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.lab.watching.live_performance import bands_of, matured_answers, performance_of
from ml_core.serve.answering.envelope import InferenceResponse
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.labels import AnswerLabel
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.monitor_state import MonitorView
from ml_core.serve.rollout.rollout_state import GuardLimits
from tests.homes import remade
from tests.lab.watching.ward import HORIZON_DAYS, Ward, patients, records_of, unforeseen
from tests.statistical.replays import Toy
from tests.toy_models import grouped_toy, toy_model

GUARDS = GuardLimits(set_size=1.9)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    place = Ward(tmp_path, workers=2)
    yield place
    place.close()


def validity(ward: Ward) -> set[tuple[str, tuple[str, ...]]]:
    answers = ward.answer(patients(4, seed=99))
    return {(answer.validity, answer.validity_reasons) for answer in answers}


def raised(ward: Ward) -> list[str]:
    """Alarms of the journal."""
    return [e["alarm"] for e in Journal(ward.home.settings.journal).entries() if e["event"] == "alarm.raised"]


def matured(ward: Ward, rows: pd.DataFrame) -> None:
    """Answers whose outcomes have come and count."""
    ward.answer(rows)
    ward.pass_days(HORIZON_DAYS + 1)


def canaried(ward: Ward, seed: int) -> list[InferenceResponse]:
    """300 answers in many calls, since each call goes to one model as a whole."""
    return [answer for n in range(15) for answer in ward.answer(patients(20, seed=100 * seed + n))]


# --- published validity -------------------------------------------------------------------------------------------


def test_answers_are_unmonitored_until_the_monitor_has_looked(ward: Ward) -> None:
    assert validity(ward) == {("unmonitored", ())}
    ward.look()
    assert validity(ward) == {("valid", ())}


def test_answers_are_unmonitored_again_once_the_monitor_is_silent(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    ward.look()
    state = MonitorView(ward.home.settings)
    state.look()
    assert state.state is not None
    late = state.state.beat_s + ward.home.settings.monitor_timeout_s + 1
    monkeypatch.setattr("ml_core.serve.rollout.monitor_state.time.monotonic", lambda: late)
    ward.workers[0].follower.look()
    assert ward.workers[0].service.validity == {}


def test_lost_coverage_makes_both_workers_suspect_and_names_the_class(ward: Ward) -> None:
    ward.look()
    for day in range(3):
        ward.answer(unforeseen(150, seed=1_000 + day))
        ward.pass_days(1)
        assert not ward.look().raised
    ward.pass_days(HORIZON_DAYS)
    look = ward.look()
    assert [alarm.reason for alarms in look.raised.values() for alarm in alarms] == ["coverage:1"]
    for worker in ward.workers:
        assert list(worker.service.validity.values()) == [("suspect", ("coverage:1",))]
    assert validity(ward) == {("suspect", ("coverage:1",))}
    assert raised(ward) == ["coverage:1"]
    ward.look()
    assert raised(ward) == ["coverage:1"]


def test_coverage_of_the_latest_matured_answers_is_published(ward: Ward) -> None:
    model_hash = ward.home.hash_of(ward.home.v1)
    assert not ward.look().state.models[model_hash].figures
    ward.answer(unforeseen(60, seed=7))
    ward.pass_days(HORIZON_DAYS + 1)
    figures = {(f.name, f.label): f.value for f in ward.look().state.models[model_hash].figures}
    with Ledger.reading(open_ledger_tables(ward.home.settings, ward.home.settings.model_name)) as ledger:
        assert ledger is not None
        missed = [row.missed for row in ledger.matured(model_hash) if row.label == 1]
    assert figures["live_coverage_answers", "1"] == len(missed) > 0
    assert figures["live_coverage", "1"] == pytest.approx(1 - sum(map(bool, missed)) / len(missed))


def test_an_acknowledged_alarm_is_off_until_there_is_new_evidence(ward: Ward) -> None:
    matured(ward, unforeseen(450, seed=1))
    (model_hash,) = ward.look().raised
    assert acknowledge_alarm(ward.home.settings, model_hash, "coverage:1", why="known", by="me")
    assert not acknowledge_alarm(ward.home.settings, model_hash, "coverage:1", why="known", by="me")
    assert not acknowledge_alarm(ward.home.settings, model_hash, "coverage:0", why="it is not on", by="me")
    ward.look()
    assert validity(ward) == {("valid", ())}
    matured(ward, unforeseen(450, seed=2))
    ward.look()
    assert validity(ward) == {("suspect", ("coverage:1",))}
    assert raised(ward) == ["coverage:1", "coverage:1"]
    told = [e for e in Journal(ward.home.settings.journal).entries() if e["event"] == "alarm.acknowledged"]
    assert [(e["alarm"], e["why"], e["who"], e["model_hash"]) for e in told] == [
        ("coverage:1", "known", "me", model_hash)
    ]


def test_a_new_champion_is_valid_while_the_old_one_stays_suspect(ward: Ward) -> None:
    matured(ward, unforeseen(450, seed=1))
    assert ward.look().raised
    ward.home.change(changes.full(ward.home.v2))
    ward.look()
    assert validity(ward) == {("valid", ())}
    state = ward.watch.look().state
    assert {h: bool(health.alarms) for h, health in state.models.items()} == {
        ward.home.hash_of(ward.home.v1): True,
        ward.home.hash_of(ward.home.v2): False,
    }
    ward.home.change(changes.rollback())
    ward.look()
    assert validity(ward) == {("suspect", ("coverage:1",))}
    assert raised(ward) == ["coverage:1"]


# --- which answers count ------------------------------------------------------------------------------------------


def test_a_label_counts_only_once_the_horizon_has_passed(ward: Ward) -> None:
    rows = patients(400, seed=1)
    ward.answer(rows)
    ward.pass_days(6)
    assert ward.look().matured == 0
    found = matured_answers(ward.home.settings)
    assert (len(found.rows), found.waiting) == (0, int(rows["readmission_30d"].sum()))
    ward.pass_days(HORIZON_DAYS - 6 + 0.01)
    assert ward.look().matured == 400
    assert ward.look().matured == 0
    found = matured_answers(ward.home.settings)
    assert (len(found.rows), found.waiting, found.unknown) == (400, 0, 0)


def test_what_matured_is_what_was_answered_and_told(ward: Ward) -> None:
    rows = patients(600, seed=2)
    ward.answer(rows)
    ward.pass_days(31)
    ward.look()
    found = matured_answers(ward.home.settings)
    judged = performance_of(found)
    assert judged is not None
    assert judged.n_per_class == (int((rows["readmission_30d"] == 0).sum()), int(rows["readmission_30d"].sum()))
    assert judged.auc is not None
    assert 0.6 < judged.auc.value < 1.0
    assert {band.label: band.n for band in bands_of(found)} == {
        None: 600,
        0: judged.n_per_class[0],
        1: judged.n_per_class[1],
    }


def test_fallback_answers_never_feed_a_detector(ward: Ward) -> None:
    for worker in ward.workers:
        worker.live.champion.guard.breaker.override("forced_open")
    assert {answer.fallback_used for answer in ward.answer(patients(200, seed=3))} == {True}
    ward.pass_days(31)
    assert ward.look().matured == 200
    assert ward.detectors(ward.home.v1) == {}
    assert matured_answers(ward.home.settings).rows == ()


def test_answers_of_a_canary_feed_its_own_detectors(ward: Ward) -> None:
    ward.home.change(changes.canary(ward.home.v2, 0.4, GUARDS))
    ward.look()
    answers = canaried(ward, seed=4)
    by_slot = {slot: sum(a.lineage.slot == slot for a in answers) for slot in ("champion", "challenger")}
    assert min(by_slot.values()) > 0
    ward.pass_days(31)
    ward.look()
    counted = {tag: sum(d.labels for d in ward.detectors(tag).values()) for tag in (ward.home.v1, ward.home.v2)}
    assert counted == {ward.home.v1: by_slot["champion"], ward.home.v2: by_slot["challenger"]}
    assert len(matured_answers(ward.home.settings, slot="challenger").rows) == by_slot["challenger"]


def test_rows_of_a_bulk_call_count_one_by_one(ward: Ward) -> None:
    rows = patients(300, seed=5)
    records, outcomes = records_of(rows)
    batch_id = ward.answer_bulk(records)
    ids = [id_bytes(answer.request_id) for answer in ward.log.of_batch(batch_id)]
    ward.labels.add([AnswerLabel(i, outcome) for i, outcome in zip(ids, outcomes, strict=True)], "test")
    ward.now = ward.log.of_batch(batch_id)[0].at
    ward.pass_days(31)
    assert ward.look().matured == 300
    assert {name: d.labels for name, d in ward.detectors(ward.home.v1).items()} == {
        "coverage:0": outcomes.count(0),
        "coverage:1": outcomes.count(1),
    }


# --- promises of other kinds --------------------------------------------------------------------------------------


def test_a_marginal_promise_is_watched_as_one(tmp_path: Path) -> None:
    ward = Ward(tmp_path, champion=Toy(200, guarantee="marginal").packed.folder)
    matured(ward, patients(300, seed=6))
    ward.look()
    assert {name: d.labels for name, d in ward.detectors(ward.home.store.read().champion).items()} == {
        "coverage:all": 300
    }
    assert [band.promised is None for band in bands_of(matured_answers(ward.home.settings))] == [False, True, True]
    ward.close()


def test_cells_of_a_model_feed_one_detector_a_class_in_the_order_of_time(tmp_path: Path) -> None:
    ward = Ward(tmp_path, champion=grouped_toy().folder)
    manifest = grouped_toy().bundle.manifest
    rows = patients(400, seed=6)
    matured(ward, rows.assign(sex=np.random.default_rng(5).choice(["female", "male"], len(rows))))
    ward.look()
    tag = ward.home.store.read().champion
    with Ledger.reading(open_ledger_tables(ward.home.settings, ward.home.settings.model_name)) as ledger:
        assert ledger is not None
        kept = [row for _, row in ledger.matured_after(0)]
    assert len({row.calibration_id for row in kept}) == 2
    for label in (0, 1):
        found = ward.detectors(tag)[f"coverage:{label}"]
        fewest = min(cell.rows[str(label)] for cell in manifest.groups.cells if cell.is_own)
        effect = manifest.metrics[f"calibration_effect_class_{label}"]
        mu0 = highest_miss_rate(fewest, Decimal("0.9"), effect)
        as_they_matured = [bool(row.missed) for row in kept if row.label == label]
        assert found == update(DetectorState(mu0, found.threshold, block=found.block), as_they_matured)
    ward.close()


def test_a_model_whose_manifest_knows_no_design_effects_is_watched_without(tmp_path: Path) -> None:
    remade(toy_model().folder, tmp_path / "old", metrics={"roc_auc": 0.7})
    ward = Ward(tmp_path, champion=tmp_path / "old")
    matured(ward, patients(200, seed=7))
    ward.look()
    sizes = toy_model().bundle.calibration.sizes
    assert {name: d.mu0 for name, d in ward.detectors(ward.home.store.read().champion).items()} == {
        f"coverage:{k}": highest_miss_rate(sizes[k], Decimal("0.9")) for k in (0, 1)
    }
    (promise,) = matured_answers(ward.home.settings).targets.values()
    assert promise.effects is None
    ward.close()


def test_models_that_differ_in_level_alone_are_watched_by_their_own(ward: Ward, tmp_path: Path) -> None:
    remade(toy_model().folder, tmp_path / "other", confidence_level=Decimal("0.7"))
    other = ward.home.add("5", tmp_path / "other")
    ward.home.change(changes.canary(other, 0.5, GUARDS))
    ward.look()
    canaried(ward, seed=8)
    ward.pass_days(31)
    ward.look()
    usual, low = ward.detectors(ward.home.v1)["coverage:0"], ward.detectors(other)["coverage:0"]
    assert low.mu0 > 0.3 > usual.mu0
    assert low.misses / low.labels > usual.misses / usual.labels
    found = [matured_answers(ward.home.settings, slot=slot).targets for slot in ("champion", "challenger")]
    assert [target.level for targets in found for target in targets.values()] == [Decimal("0.9"), Decimal("0.7")]


def test_late_labels_of_a_model_that_is_no_longer_stored_end_no_look(ward: Ward) -> None:
    ward.answer(patients(200, seed=9))
    for tag in (ward.home.v2, ward.home.add("5", Toy(201).packed.folder)):
        ward.home.change(changes.full(tag))
    old = ward.home.v1
    before = ward.home.hash_of(old)
    shutil.rmtree(ward.home.folder(old))
    ward.pass_days(31)
    assert HealthMonitor(ward.home.settings, now=lambda: ward.now).look().matured == 200
    with Ledger.reading(open_ledger_tables(ward.home.settings, ward.home.settings.model_name)) as ledger:
        assert ledger is not None
        assert set(ledger.detectors(before)) == {"coverage:0", "coverage:1"}


def test_a_promise_keeps_its_design_effects_once_its_model_is_no_longer_live(ward: Ward) -> None:
    for day in range(2):
        ward.answer(patients(100, seed=10 + day))
        ward.pass_days(1)
    ward.pass_days(HORIZON_DAYS - 1.5)
    assert ward.look().matured == 100
    before = matured_answers(ward.home.settings).targets
    for tag in (ward.home.v2, ward.home.add("5", Toy(201).packed.folder)):
        ward.home.change(changes.full(tag))
    ward.pass_days(1)
    assert ward.look().matured == 100
    ward.home.change(changes.full(ward.home.v1))
    assert [target.effects is None for target in before.values()] == [False]
    assert matured_answers(ward.home.settings).targets == before


# --- exactly once -------------------------------------------------------------------------------------------------


def test_a_monitor_that_starts_anew_counts_nothing_twice(ward: Ward) -> None:
    matured(ward, patients(300, seed=3))
    ward.look()
    before = matured_answers(ward.home.settings)
    again = HealthMonitor(ward.home.settings, now=lambda: ward.now)
    assert again.look().matured == 0
    after = matured_answers(ward.home.settings)
    assert (after.detectors, after.rows) == (before.detectors, before.rows)


def test_a_monitor_that_was_away_for_weeks_finds_what_one_found_that_looked_every_day(ward: Ward) -> None:
    for day in range(3):
        ward.answer(patients(60, seed=20 + day))
        ward.pass_days(1)
        ward.look()
    for _ in range(int(HORIZON_DAYS)):
        ward.pass_days(1)
        ward.look()
    late = ward.another_monitor("late")
    assert late.look().matured == 180
    assert ward.detectors(ward.home.v1, late) == ward.detectors(ward.home.v1)


def test_a_look_that_fails_in_the_middle_has_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ward = Ward(tmp_path, drift_window_rows=100)
    ward.look()
    published = ward.home.settings.monitor_state.read_bytes()
    matured(ward, patients(250, seed=3))

    def fail(*_: object) -> None:
        raise LogDamaged("predictions.db", "its disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(module.alarms, "alarms_of", fail)  # after labels and windows were taken in, before the commit
        for _ in range(2):
            with pytest.raises(LogDamaged):
                ward.look()
    assert ward.detectors(ward.home.v1) == {}
    assert ward.home.settings.monitor_state.read_bytes() == published
    look, other = ward.look(), ward.another_monitor("other")
    undisturbed = other.look()
    assert (look.matured, look.windows) == (undisturbed.matured, undisturbed.windows) == (250, 2)
    assert ward.detectors(ward.home.v1) == ward.detectors(ward.home.v1, other)
    ward.close()


KILLED_AT = [
    (Ledger, "wait_for", 1),
    (Ledger, "stop_waiting", 1),
    (Ledger, "add_matured", 1),
    (Ledger, "remember", 1),
    (Ledger, "keep_detector", 1),
    (Ledger, "keep_detector", 2),
    (Ledger, "keep_detector", 3),
    (Ledger, "add_evidence", 1),
    (Ledger, "keep_window", 1),
    (HealthMonitor, "_publish", 1),
    (HealthMonitor, "_announce", 1),
]


def look_and_die(ward: Ward, where: type, name: str, nth: int) -> None:
    """A monitor of its own process begins to look, and is killed when it comes to that call for the n-th time."""
    child = os.fork()
    if child == 0:
        original, calls = getattr(where, name), []

        def dying(*arguments: Any, **more: Any) -> Any:
            calls.append(name)
            if len(calls) == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **more)

        setattr(where, name, dying)
        try:
            HealthMonitor(ward.home.settings, now=lambda: ward.now).look()
        finally:
            os._exit(3)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_monitor_that_is_killed_anywhere_and_started_again_counts_every_label_once(tmp_path: Path) -> None:
    ward = Ward(tmp_path, drift_window_rows=100)
    undisturbed = ward.another_monitor("undisturbed")
    for n, (where, name, nth) in enumerate(KILLED_AT):
        matured(ward, (unforeseen if n > 6 else patients)(200, 30 + n))
        look_and_die(ward, where, name, nth)
        ward.watch = HealthMonitor(ward.home.settings, now=lambda: ward.now)
        ward.look()
        undisturbed.look()
        assert ward.detectors(ward.home.v1) == ward.detectors(ward.home.v1, undisturbed)
    assert len(matured_answers(ward.home.settings).rows) == 200 * len(KILLED_AT)
    assert "coverage:1" in raised(ward)
    ward.close()


@pytest.mark.parametrize(
    ("where", "told"), [((HealthMonitor, "_publish"), 1), ((Journal, "append"), 1), ((Ledger, "changing"), 2)]
)
def test_an_alarm_reaches_the_journal_though_its_monitor_was_killed_before_it_could_tell(
    ward: Ward, where: tuple[type, str], told: int
) -> None:
    matured(ward, unforeseen(450, seed=1))
    look_and_die(ward, *where, 2 if where[0] is Ledger else 1)  # the second change keeps that it was told
    ward.watch = HealthMonitor(ward.home.settings, now=lambda: ward.now)
    for _ in range(2):
        ward.look()
    assert raised(ward) == ["coverage:1"] * told
    assert validity(ward) == {("suspect", ("coverage:1",))}


# --- drift --------------------------------------------------------------------------------------------------------


def test_inputs_unlike_those_of_training_raise_the_drift_alarm(tmp_path: Path) -> None:
    ward = Ward(tmp_path, drift_window_rows=200, drift_block_rows=20)
    ward.look()
    ward.answer(patients(400, seed=7))
    assert not ward.look().raised
    strange = patients(600, seed=8)
    ward.answer(strange.assign(glucose=(strange["glucose"] * 1.6).clip(30, 600)))
    look = ward.look()
    assert [alarm.reason for alarms in look.raised.values() for alarm in alarms] == ["drift"]
    assert look.windows == 3
    ward.close()


def test_a_damaged_file_of_the_log_does_not_blind_the_monitor(tmp_path: Path) -> None:
    ward = Ward(tmp_path, drift_window_rows=200)
    ward.answer(patients(150, seed=7))
    ward.pass_days(1)
    ward.answer(patients(250, seed=8))
    ward.close()
    (damaged, _) = ward.answered_files()
    damaged.path.write_bytes(b"not what it was " * 1_000)
    assert ward.look().windows == 1
    assert ward.look().windows == 0


# --- a gate that says no later ------------------------------------------------------------------------------------


def test_a_later_no_of_the_gate_is_an_alarm_until_it_says_yes(ward: Ward) -> None:
    ward.look()
    assert validity(ward) == {("valid", ())}
    ward.home.pass_gate(ward.home.v1, passed=False)
    ward.look()
    assert validity(ward) == {("suspect", ("gate",))}
    ward.look()
    assert raised(ward) == ["gate"]
    ward.home.pass_gate(ward.home.v1)
    ward.look()
    assert validity(ward) == {("valid", ())}


def test_an_acknowledged_no_of_the_gate_is_off(ward: Ward) -> None:
    model_hash = ward.home.hash_of(ward.home.v1)
    ward.home.pass_gate(ward.home.v1, passed=False)
    ward.look()
    assert acknowledge_alarm(ward.home.settings, model_hash, "gate", why="known", by="test")
    assert not acknowledge_alarm(ward.home.settings, model_hash, "gate", why="again", by="test")
    ward.look()
    assert validity(ward) == {("valid", ())}


def test_a_refused_model_that_only_runs_in_shadow_is_no_alarm(ward: Ward) -> None:
    ward.home.pass_gate(ward.home.v3, passed=False)
    ward.home.change(changes.shadow(ward.home.v3))
    ward.look()
    assert raised(ward) == []
