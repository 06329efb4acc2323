"""The champion's scorer calibrated anew: on a real registry, a real log, and patients who have changed."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from ml_core.base.clock import microseconds
from ml_core.base.documents import read_document
from ml_core.base.errors import CalibrationTooSmall, CannotJudge, DataError, RegistryError
from ml_core.base.journal import Journal
from ml_core.lab.config import ModelConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.journeys.challenger import train_challenger
from ml_core.lab.journeys.matured_rows import newest_outcomes
from ml_core.lab.journeys.recalibrate import Recalibrated, recalibrate
from ml_core.lab.judging.deployment_gate import validate_deployment
from ml_core.lab.judging.promoter import Promotion, promote_version
from ml_core.lab.log_care.erasure import erase_training_rows
from ml_core.lab.registry.importer import import_version
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.training.labelled_rows import outcome_rows_from_store, split_of
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.labels import AnswerLabel
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.model.bundle import ONNX_FILE, XGBOOST_FILE, read_bundle
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.promotion_record import PromotionRecord, promotion_name
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_store import RolloutStore
from tests.lab.journeys.conftest import config
from tests.lab.training.test_weighting import older
from tests.lab.watching.ward import Ward, patients
from tests.toy_models import NAME, toy_frame


def strangers(n: int, seed: int, younger_by: int = 0) -> pd.DataFrame:
    """Patients whom the table does not know; younger and healthier ones score lower in either class."""
    rows = patients(n, seed=seed)
    rows["patient_id"] = [f"stranger-{seed}-{i}" for i in range(n)]
    lower = {"age": younger_by, "glucose": 2.0 * younger_by}
    return rows.assign(
        age=(rows["age"] - lower["age"]).clip(0, 120), glucose=(rows["glucose"] - lower["glucose"]).clip(30, 600)
    )


def known_outcomes(ward: Ward, rows: pd.DataFrame) -> None:
    ward.answer(rows)
    ward.pass_days(31)
    ward.look()


def done(ward: Ward, **options: Any) -> Recalibrated:
    return recalibrate(config(), ward.home.settings, lambda _: None, **options)


def promote(ward: Ward, version: str | None) -> Promotion:
    registry = ModelRegistry(ward.home.settings)
    assert version is not None
    return promote_version(registry, registry.by_version(NAME, version), config(), ward.home.settings)


def refused(promotion: Promotion) -> list[str]:
    return [rule.rule for rule in promotion.rules if not rule.passed]


def bundle(ward: Ward, version: str) -> Any:
    registry = ModelRegistry(ward.home.settings)
    with registry.bundle_folder(registry.by_version(NAME, version)) as folder:
        return read_bundle(folder)


def test_after_a_shift_the_same_scorer_with_new_calibration_takes_the_place(ward: Ward) -> None:
    known_outcomes(ward, strangers(900, 41, younger_by=25))
    found = done(ward)
    assert (found.outcome, found.champion, found.version, found.is_new) == ("passed", "1", "2", True)
    assert sum(found.rows.values()) == 900

    old, new = bundle(ward, "1"), bundle(ward, "2")
    assert new.onnx == old.onnx
    assert new.fallback == old.fallback
    assert new.manifest.files[XGBOOST_FILE] == old.manifest.files[XGBOOST_FILE]
    assert new.manifest.recalibration.model_hash == old.model_hash
    assert new.manifest.training.table_version == old.manifest.training.table_version
    assert new.calibration.calibration_id != old.calibration.calibration_id
    assert new.scorecard_calibration.sizes == new.calibration.sizes
    assert new.model_hash == found.model_hash != old.model_hash

    promotion = promote(ward, found.version)
    assert promotion.decision == "promoted"
    rules = {rule.rule: rule for rule in promotion.rules}
    assert "below" in rules["recalibration_needed"].note
    restored = rules["coverage_restored_class_1"]
    assert restored.value > restored.limit + 0.1
    assert "roc_auc_gain" not in rules
    record = read_document((ward.home.settings.home / promotion_name(NAME)), PromotionRecord)
    assert (record.model_version, record.replaced_version) == ("2", "1")
    assert ModelRegistry(ward.home.settings).by_version(NAME, "2").tags["recalibrated_from"] == "1"
    written = [e for e in Journal(ward.home.settings.journal).entries() if e["event"] == "model.recalibrated"]
    assert [(e["version"], e["recalibrated_from"], e["gate"]) for e in written] == [("2", "1", True)]

    later = strangers(1_500, 42, younger_by=25)
    covered = {}
    for name, model in (("old", old), ("new", new)):
        predictor = Predictor(model)
        rows = [predictor.reader.read(record) for record in records(later)]
        sets = predictor.predict(predictor.reader.arrays(rows)).sets
        covered[name] = sets[later["readmission_30d"].to_numpy() == 1, 1].mean()
    assert covered["old"] < 0.75
    assert covered["new"] > 0.85


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    from tests.lab.watching.ward import records_of

    return records_of(rows)[0]


def test_people_who_trained_the_scorer_are_left_out_and_test_people_never_calibrate(ward: Ward) -> None:
    known = toy_frame().head(400)
    known_outcomes(ward, pd.concat([known, strangers(600, 43)], ignore_index=True))
    found = done(ward, shadow=True)
    parts = split_of(known["patient_id"].to_numpy(), config().split)
    trained = int(((parts == "train") | (parts == "validation")).sum())
    assert found.of_trained == trained > 0
    rows = outcome_rows_from_store(config(), ward.home.settings, 0)
    assert len(rows) == 1_000 - trained
    test = set(rows.part("test").groups.tolist())
    assert test == {name for name in rows.groups.tolist() if split_of([name], config().split)[0] == "test"}
    assert not test & set(rows.part("calibration").groups.tolist())
    assert set(known["patient_id"][parts == "test"].astype(str)) <= test


def test_without_a_loss_of_coverage_there_is_nothing_to_promote(ward: Ward) -> None:
    known_outcomes(ward, strangers(700, 44))
    found = done(ward)
    assert found.outcome == "passed"
    promotion = promote(ward, found.version)
    assert (promotion.decision, refused(promotion)) == ("refused", ["recalibration_needed"])


def test_after_a_drift_alarm_the_same_model_with_the_new_patients_as_reference_takes_the_place(ward: Ward) -> None:
    """Coverage has held, so nothing is better; but answers would stay suspect without end."""
    registry = ModelRegistry(ward.home.settings)
    served = import_version(registry, registry.by_version(NAME, "1"), ward.home.settings)
    ward.home.change(changes.full(served.tag))
    ward.look()
    rows = strangers(5_000, 49)
    known_outcomes(ward, rows.assign(bp_systolic=(rows["bp_systolic"] + 12.0).clip(50, 300)))
    found = done(ward)
    promotion = promote(ward, found.version)
    rules = {rule.rule: rule for rule in promotion.rules}
    assert rules["recalibration_needed"].note == "alarm drift"
    assert (promotion.decision, refused(promotion)) == ("promoted", [])


def test_done_again_it_finds_the_model_it_made(ward: Ward) -> None:
    known_outcomes(ward, strangers(700, 45, younger_by=25))
    first, again = done(ward), done(ward)
    assert (again.version, again.model_hash, again.is_new) == (first.version, first.model_hash, False)


def test_a_dry_run_counts_and_makes_nothing(ward: Ward) -> None:
    known_outcomes(ward, strangers(300, 46))
    found = done(ward, dry_run=True)
    assert (found.outcome, sum(found.rows.values()), found.version) == ("possible", 300, None)
    assert sum(found.class_rows["calibration"].values()) == found.rows["calibration"]
    assert "v1-outcomes" not in FeatureStore(ward.home.settings.feature_store, NAME).tables()


def test_the_newest_answers_are_used_and_those_since_a_day(ward: Ward) -> None:
    known_outcomes(ward, strangers(300, 47))
    changed = ward.now
    known_outcomes(ward, strangers(400, 48, younger_by=25))
    settings = ward.home.settings
    newest = newest_outcomes(settings, "v1", 350, frozenset()).frame
    since = newest_outcomes(settings, "v1", 10_000, frozenset(), microseconds(changed)).frame
    assert (len(newest), len(since)) == (350, 400)
    assert newest["encounter_date"].is_monotonic_increasing
    assert set(newest["patient_id"]) < set(since["patient_id"])
    assert sum(done(ward, since=changed, dry_run=True).rows.values()) == 400


def test_a_fallbacks_answer_and_a_repeated_request_do_not_calibrate(ward: Ward) -> None:
    again = ward.answer_again(strangers(1, 50), "visit-7", 3)
    ward.labels.add([AnswerLabel(id_bytes(answer.request_id), 1, ward.now) for answer in again], "ward")
    known_outcomes(ward, strangers(100, 49))
    settings = ward.home.settings
    assert len(newest_outcomes(settings, "v1", 1_000, frozenset()).frame) == 101
    with Ledger.changing(open_ledger_tables(settings, settings.model_name)) as ledger:
        ledger._connection.execute("UPDATE matured SET own = 0 WHERE n <= 20")
    assert len(newest_outcomes(settings, "v1", 1_000, frozenset()).frame) == 81


def test_too_few_outcomes_are_an_error_that_says_so(ward: Ward) -> None:
    with pytest.raises(DataError, match="none can calibrate"):
        done(ward)
    known_outcomes(ward, strangers(30, 52))
    with pytest.raises((CalibrationTooSmall, DataError)):
        done(ward)


def test_too_few_held_out_records_of_a_class_are_refused_by_the_gate(ward: Ward) -> None:
    known_outcomes(ward, strangers(700, 53, younger_by=25))
    strict = config(recalibrate={"min_held_out": 500})
    found = recalibrate(strict, ward.home.settings, lambda _: None)
    assert found.outcome == "refused"
    assert "held_out_class_1" in found.as_dict()["failed_rules"]
    assert found.tag is None


def test_a_scorer_that_has_lost_its_skill_is_refused(ward: Ward) -> None:
    rows = strangers(700, 54)
    known_outcomes(
        ward, rows.assign(readmission_30d=rows["readmission_30d"].sample(frac=1.0, random_state=3).to_numpy())
    )
    found = done(ward)
    assert found.outcome == "refused"
    assert "roc_auc" in found.as_dict()["failed_rules"]


def test_people_who_trained_the_scorer_among_the_rows_are_refused(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    from ml_core.lab.journeys import recalibrate as journey

    monkeypatch.setattr(journey, "trained_people", lambda *_: frozenset())
    known_outcomes(ward, pd.concat([toy_frame().head(400), strangers(500, 55)], ignore_index=True))
    assert "calibration_unseen" in done(ward).as_dict()["failed_rules"]


def test_a_retrained_model_meets_the_recalibrated_champion_on_test_people(ward: Ward) -> None:
    known_outcomes(ward, strangers(900, 56, younger_by=25))
    assert promote(ward, done(ward).version).decision == "promoted"
    settings = ward.home.settings
    again = train_challenger(config(seed=8), settings, lambda _: None).version
    assert again is not None
    found = promote_version(ModelRegistry(settings), again, config(seed=8), settings)
    assert "roc_auc_gain" in {rule.rule for rule in found.rules}
    assert "test_rows_shared" not in refused(found)


def test_shadow_scores_beside_the_champion(ward: Ward) -> None:
    known_outcomes(ward, strangers(700, 57, younger_by=25))
    found = done(ward, shadow=True)
    state = RolloutStore(ward.home.settings).read()
    assert state is not None
    assert (found.shadow, state.mode, state.challenger) == (True, "shadow", found.tag)


def test_without_a_champion_it_says_so(ward: Ward) -> None:
    registry = ModelRegistry(ward.home.settings)
    with registry.session("alias") as mlflow:
        mlflow.MlflowClient().delete_registered_model_alias(NAME, "champion")
    with pytest.raises(RegistryError, match="champion"):
        done(ward)


def test_an_erased_person_leaves_the_rows_that_calibrated(ward: Ward) -> None:
    known_outcomes(ward, strangers(300, 58))
    settings = ward.home.settings
    done(ward)
    hidden = Pseudonyms(settings.subject_key).all_of("stranger-58-0")
    erased = {rows.table: rows.rows for rows in erase_training_rows(settings, "stranger-58-0", hidden)}
    assert erased == {"v1-outcomes": 1}
    assert len(FeatureStore(settings.feature_store, NAME).read("v1-outcomes")) == 299


def test_the_gate_judges_it_again_by_the_same_rows(ward: Ward) -> None:
    known_outcomes(ward, strangers(700, 59, younger_by=25))
    found = done(ward)
    registry = ModelRegistry(ward.home.settings)
    again = validate_deployment(registry, registry.by_version(NAME, found.version or ""), config(), ward.home.settings)
    assert found.gate is not None
    assert again.rules == found.gate.rules
    assert ONNX_FILE in bundle(ward, found.version or "").manifest.files


def test_a_model_split_in_time_is_judged_by_the_newest_answers(ward: Ward) -> None:
    settings, timed = ward.home.settings, config(split={"by": "time"})
    version = train_challenger(timed, settings, lambda _: None).version
    registry = ModelRegistry(settings)
    assert version is not None
    registry.set_alias(version, "champion")
    known_outcomes(ward, strangers(300, 60))
    again = pd.concat([toy_frame().tail(200), strangers(300, 61)], ignore_index=True)  # whom the scorer knows too
    known_outcomes(ward, again.sample(frac=1.0, random_state=1))
    found = recalibrate(timed, settings, lambda _: None)
    assert (found.as_dict()["failed_rules"], found.of_trained) == ([], 0)
    assert found.rows == {"calibration": 640, "test": 160}
    rows = outcome_rows_from_store(timed, settings, 0)
    dates = rows.frame["encounter_date"]
    assert dates[rows.parts == "test"].min() >= dates[rows.parts == "calibration"].max()
    promotion = promote_version(registry, registry.by_version(NAME, found.version or ""), timed, settings)
    assert refused(promotion) == ["recalibration_needed"]


# --- weighted: only the mix of patients has changed, and no outcome is known ------------------------------------------


def weighing(**recalibration: int) -> ModelConfig:
    return config(recalibrate={"min_effective_rows": 30, **recalibration})


def test_weighted_needs_no_outcome_and_is_promoted_where_the_new_mix_is_covered_too_rarely(ward: Ward) -> None:
    settings = ward.home.settings
    ward.answer(older(1_500, 61))
    planned = recalibrate(weighing(), settings, lambda _: None, weighted=True, dry_run=True)
    assert (planned.outcome, planned.live) == ("possible", 1_500)
    found = recalibrate(weighing(), settings, lambda _: None, weighted=True)
    assert (found.outcome, found.live, found.version) == ("passed", 1_500, "2")
    assert found.gate is not None
    assert {"effective_rows_class_0", "weights_reproduce", "coverage_class_1"} <= {r.rule for r in found.gate.rules}
    registry = ModelRegistry(settings)
    assert registry.by_version(NAME, "2").tags["guarantee"] == "weighted"
    promotion = promote_version(registry, registry.by_version(NAME, "2"), weighing(), settings)
    assert (promotion.decision, refused(promotion)) == ("promoted", [])
    rules = {rule.rule: rule for rule in promotion.rules}
    assert "of class 0" in rules["recalibration_needed"].note
    restored = rules["coverage_restored_class_0"]
    assert restored.value > restored.limit


def test_weighted_without_a_shift_there_is_nothing_to_promote(ward: Ward) -> None:
    ward.answer(strangers(1_000, 62))
    found = recalibrate(weighing(), ward.home.settings, lambda _: None, weighted=True)
    assert found.outcome == "passed"
    assert refused(promote(ward, found.version)) == ["recalibration_needed"]


def test_weighted_is_refused_where_the_shift_is_too_large(ward: Ward) -> None:
    ward.answer(older(600, 63))
    with pytest.raises(CannotJudge, match="so large a shift"):
        recalibrate(weighing(min_effective_rows=2_000), ward.home.settings, lambda _: None, weighted=True)
    assert len(ModelRegistry(ward.home.settings).versions(NAME)) == 1


def test_weighted_gate_refuses_by_the_limit_of_the_configuration(ward: Ward) -> None:
    settings = ward.home.settings
    ward.answer(older(1_500, 64))
    found = recalibrate(weighing(), settings, lambda _: None, weighted=True)
    registry = ModelRegistry(settings)
    version = registry.by_version(NAME, found.version or "")
    strict = validate_deployment(registry, version, weighing(min_effective_rows=700), settings)
    assert "effective_rows_class_1" in strict.failed_rules
