"""The loop in one call, on a real registry, a real log and outcomes that came late."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.errors import CannotJudge, DataError, RetrainBusy
from ml_core.base.files import FileLock
from ml_core.base.journal import Journal
from ml_core.lab.config import ModelConfig, RetrainConfig
from ml_core.lab.data.cohort import CohortKnobs
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.journeys import retrain as loop
from ml_core.lab.journeys.matured_rows import new_rows
from ml_core.lab.journeys.retrain import Retrained, decide, last_retraining, retrain
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.training.labelled_rows import rows_from_store
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.labels import AnswerLabel
from ml_core.serve.rollout.rollout_store import RolloutStore
from tests.homes import bento_store
from tests.lab.watching.ward import Ward, patients
from tests.toy_models import NAME, toy_config, toy_frame


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with bento_store(tmp_path / "bento"):
        place = Ward(tmp_path)
        FeatureStore(place.home.settings.feature_store, place.home.settings.model_name).overwrite("v1", toy_frame())
        yield place
        place.close()


def config(**retraining: Any) -> ModelConfig:
    facts = {"cool_down_days": 7.0, "min_new_labels": 100, "live_rows": 1_000, **retraining}
    return toy_config(retrain=RetrainConfig(**facts), gate={"min_roc_auc": 0.6, "min_positives": 20})


def known_outcomes(ward: Ward, n: int = 400, seed: int = 31) -> None:
    ward.answer(patients(n, seed=seed))
    ward.pass_days(31)
    ward.look()


def test_too_few_new_labels_are_a_reason_to_wait(ward: Ward) -> None:
    known_outcomes(ward, 50)
    found = decide(config(), ward.home.settings, if_drift=False, force=False)
    assert (found.go, found.new_labels, len(found.against)) == (False, 50, 1)
    assert decide(config(), ward.home.settings, if_drift=False, force=True).go


def test_without_drift_or_alarm_nothing_is_trained_if_drift_is_asked_for(ward: Ward) -> None:
    known_outcomes(ward)
    found = retrain(config(), ward.home.settings, lambda _: None, if_drift=True)
    assert (found.version, found.decision.against) == (None, ("neither drift, nor lost skill, nor an alarm",))
    assert last_retraining(ward.home.settings) is None


def test_drift_of_the_newest_answers_is_a_reason_and_is_named(ward: Ward) -> None:
    known_outcomes(ward)
    old = patients(600, seed=32)
    ward.answer(old.assign(age=(old["age"] + 15).clip(0, 120), glucose=(old["glucose"] * 1.3).clip(30, 600)))
    found = decide(config(live_rows=600), ward.home.settings, if_drift=True, force=False)
    assert found.go
    assert found.reasons[0].startswith("drift: ")
    assert "age" in found.reasons[0]


def test_lost_skill_is_a_reason_though_no_input_has_changed(ward: Ward) -> None:
    ward.answer(patients(800, seed=33, knobs=CohortKnobs(signal=0.0)))
    ward.pass_days(31)
    ward.look()
    found = decide(config(), ward.home.settings, if_drift=True, force=False)
    assert found.go
    assert found.drift is not None
    assert not found.drift.retrain_advised
    assert any(reason.startswith("skill was lost") for reason in found.reasons)


def test_it_trains_on_what_became_known_and_starts_the_shadow(ward: Ward) -> None:
    known_outcomes(ward)
    settings = ward.home.settings
    before = len(FeatureStore(settings.feature_store, settings.model_name).read("v1"))
    found = retrain(config(), settings, lambda _: None, shadow=True)
    assert found.decision.go
    assert (found.rows_added, found.is_new, found.shadow) == (400, True, True)
    assert len(FeatureStore(settings.feature_store, settings.model_name).read("v1")) == before + 400
    state = RolloutStore(settings).read()
    assert state is not None
    assert (state.mode, state.challenger) == ("shadow", found.tag)
    done = last_retraining(settings)
    assert done is not None
    assert (done.model_hash, done.outcomes_upto) == (found.model_hash, 400)
    assert "model.retrained" in {entry["event"] for entry in Journal(settings.journal).entries()}
    cooling = decide(config(), settings, if_drift=False, force=False)
    assert not cooling.go
    assert "cool-down" in cooling.against[0]


def test_killed_before_the_end_the_same_call_ends_with_the_same_model(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_outcomes(ward)
    settings = ward.home.settings

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(loop, "validate_deployment", die)
        with pytest.raises(Killed):
            retrain(config(), settings, lambda _: None)
    rows = len(FeatureStore(settings.feature_store, settings.model_name).read("v1"))
    assert last_retraining(settings) is None
    found = retrain(config(), settings, lambda _: None)
    assert (found.is_new, found.rows_added) == (False, 0)
    assert len(FeatureStore(settings.feature_store, settings.model_name).read("v1")) == rows
    assert last_retraining(settings) is not None


def test_a_patient_whom_the_store_knows_keeps_his_name_and_part(ward: Ward) -> None:
    known = toy_frame().head(300)
    ward.answer(known)
    strangers = patients(100, seed=77)
    strangers["patient_id"] = [f"stranger-{i}" for i in range(len(strangers))]
    ward.answer(strangers)
    ward.pass_days(31)
    ward.look()
    found = new_rows(ward.home.settings, "v1", 0).frame
    names = set(found["patient_id"])
    assert {str(name) for name in known["patient_id"]} <= names
    assert not any(name.startswith("stranger") for name in names)
    assert sum(name.startswith("h-") for name in names) == 100


def test_a_request_sent_again_is_one_row_of_training(ward: Ward) -> None:
    again = ward.answer_again(patients(1, seed=5), "visit-7", 8)
    ward.labels.add([AnswerLabel(id_bytes(answer.request_id), 1, ward.now) for answer in again], "ward")
    ward.pass_days(31)
    assert ward.look().matured == 1
    assert len(new_rows(ward.home.settings, "v1", 0).frame) == 1


def test_the_table_says_up_to_which_outcome_it_goes(ward: Ward) -> None:
    known_outcomes(ward)
    settings = ward.home.settings
    store = FeatureStore(settings.feature_store, settings.model_name)
    found = new_rows(settings, "v1", 0)
    version = store.extend("v1", found.frame, found.upto)
    assert store.extended_upto("v1") == found.upto
    assert store.extend("v1", found.frame, found.upto) == version
    store.overwrite("v1", toy_frame())
    assert store.extended_upto("v1") == 0


def test_the_promise_can_be_about_the_newest_rows_alone(ward: Ward) -> None:
    known_outcomes(ward, 400)
    settings = ward.home.settings
    changed = config()
    changed = changed.model_copy(update={"split": changed.split.model_copy(update={"newest_rows": 2_000})})
    found = retrain(changed, settings, lambda _: None)
    rows = rows_from_store(changed, settings, found.table_version)
    newest = set(range(len(rows) - 2_000, len(rows)))
    assert {"left_out", "train", "test"} <= set(rows.counts)
    for part in ("calibration", "test"):
        assert set(rows.part(part).frame.index) <= newest
    assert len(rows.part("train").recent()) < len(rows.part("train"))
    assert found.gate is not None
    assert "split_newest_rows" not in found.gate.failed_rules


def test_a_second_run_at_the_same_time_is_refused(ward: Ward) -> None:
    held = FileLock(ward.home.settings.home / "retrain" / f"{ward.home.settings.model_name}.lock")
    with pytest.raises(RetrainBusy):
        retrain(config(), ward.home.settings, lambda _: None, force=True)
    held.release()


# --- unattended: what a scheduler runs ------------------------------------------------------------------------------

OLDER = {"age": 15, "glucose": 60}


def answered(ward: Ward, n: int = 600, **shift: int) -> None:
    """So many answers whose outcome is known; patients as ever, or shifted in these columns."""
    rows = patients(n, seed=51)
    for column, by in shift.items():
        rows[column] += by
    ward.answer(rows.assign(age=rows["age"].clip(upper=120), glucose=rows["glucose"].clip(upper=600)))
    ward.pass_days(31)
    ward.look()


def unattended(ward: Ward, *, force: bool = False, min_roc_auc: float = 0.6, **retraining: Any) -> Retrained:
    asked = config(live_rows=600, **retraining)
    asked = asked.model_copy(update={"gate": asked.gate.model_copy(update={"min_roc_auc": min_roc_auc})})
    return retrain(asked, ward.home.settings, lambda _: None, if_drift=True, force=force, unattended=True)


def registered(ward: Ward) -> list[str]:
    registry = ModelRegistry(ward.home.settings)
    return [v.version for v in registry.versions(NAME)] if NAME in registry.names() else []


def test_patients_as_ever_advise_nothing_and_nothing_is_trained(ward: Ward) -> None:
    answered(ward)
    found = unattended(ward)
    assert (found.outcome, found.version) == ("not advised", None)
    assert (found.as_dict()["drift"]["rows"], found.as_dict()["drift"]["features_tested"]) == (600, 4)
    assert registered(ward) == []
    assert last_retraining(ward.home.settings) is None


def test_drift_advises_it_and_the_gate_judges_what_was_trained(ward: Ward) -> None:
    answered(ward, **OLDER)
    found = unattended(ward)
    assert found.outcome == "passed"
    assert found.rows_added == 600
    assert "age" in found.decision.reasons[0]
    assert registered(ward) == [found.version]


def test_drift_with_too_few_labels_is_held_back(ward: Ward) -> None:
    answered(ward, **OLDER)
    found = unattended(ward, min_new_labels=601)
    assert (found.outcome, found.version) == ("held back", None)
    assert registered(ward) == []


def test_a_refused_model_is_registered_and_said_to_be_refused(ward: Ward) -> None:
    answered(ward)
    found = unattended(ward, force=True, min_roc_auc=0.99)
    assert found.outcome == "refused"
    assert found.as_dict()["failed_rules"] == ["roc_auc"]
    assert registered(ward) == [found.version]


def test_a_log_that_is_not_there_is_no_absence_of_drift(ward: Ward) -> None:
    shutil.rmtree(ward.home.settings.log)
    with pytest.raises(DataError, match="holds no answer"):
        unattended(ward)


def test_too_few_answers_are_no_absence_of_drift(ward: Ward) -> None:
    answered(ward, 29)
    with pytest.raises(CannotJudge, match="29 answers"):
        unattended(ward)
    assert decide(config(), ward.home.settings, if_drift=True, force=False).reasons == ()
