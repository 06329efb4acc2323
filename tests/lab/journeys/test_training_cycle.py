"""One turn of continuous training, on a real registry, a real log and outcomes that came late."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.errors import CannotJudge, DataError
from ml_core.base.settings import Settings
from ml_core.lab.config import ModelConfig, RetrainConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.journeys.retrain import last_retraining
from ml_core.lab.journeys.training_cycle import Cycle, run_cycle
from ml_core.lab.registry.model_registry import ModelRegistry
from tests.homes import bento_store
from tests.lab.watching.ward import Ward, patients
from tests.toy_models import NAME, toy_config, toy_frame

DRIFT = {"age": 15, "glucose": 60}


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with bento_store(tmp_path / "bento"):
        place = Ward(tmp_path)
        FeatureStore(place.home.settings.feature_store).overwrite("v1", toy_frame())
        yield place
        place.close()


def config(**changes: Any) -> ModelConfig:
    retraining = RetrainConfig(min_new_labels=100, live_rows=600)
    return toy_config(**{"retrain": retraining, "gate": {"min_roc_auc": 0.6, "min_positives": 20}, **changes})


def answered(ward: Ward, n: int = 600, **shift: int) -> None:
    """So many answers, their outcomes known; patients as ever, or shifted in these columns."""
    rows = patients(n, seed=51)
    for column, by in shift.items():
        rows[column] += by
    rows["age"] = rows["age"].clip(upper=120)
    rows["glucose"] = rows["glucose"].clip(upper=600)
    ward.answer(rows)
    ward.pass_days(31)
    ward.look()


def turn(ward: Ward, *, force: bool = False, **changes: Any) -> Cycle:
    return run_cycle(config(**changes), ward.home.settings, lambda _: None, force=force)


def registered(settings: Settings) -> list[str]:
    registry = ModelRegistry(settings)
    return [v.version for v in registry.versions(NAME)] if NAME in registry.names() else []


def test_patients_as_ever_advise_nothing_and_nothing_is_trained(ward: Ward) -> None:
    answered(ward)
    found = turn(ward)
    assert (found.outcome, found.retrained.version) == ("not advised", None)
    assert (found.as_row()["drift"]["rows"], found.as_row()["drift"]["features_tested"]) == (600, 4)
    assert registered(ward.home.settings) == []
    assert last_retraining(ward.home.settings) is None


def test_drift_advises_it_and_the_gate_judges_what_was_trained(ward: Ward) -> None:
    answered(ward, **DRIFT)
    found = turn(ward)
    assert found.outcome == "passed"
    assert found.retrained.rows_added == 600
    assert "age" in found.retrained.decision.reasons[0]
    assert registered(ward.home.settings) == [found.retrained.version]


def test_drift_with_too_few_labels_is_held_back(ward: Ward) -> None:
    answered(ward, **DRIFT)
    found = turn(ward, retrain=RetrainConfig(min_new_labels=601, live_rows=600))
    assert (found.outcome, found.retrained.version) == ("held back", None)
    assert registered(ward.home.settings) == []


def test_forced_it_trains_without_drift(ward: Ward) -> None:
    answered(ward)
    found = turn(ward, force=True)
    assert (found.outcome, found.drift, found.as_row()["drift"]) == ("passed", None, None)
    assert registered(ward.home.settings) == [found.retrained.version]


def test_a_refused_model_is_registered_and_said_to_be_refused(ward: Ward) -> None:
    answered(ward)
    found = turn(ward, force=True, gate={"min_roc_auc": 0.99, "min_positives": 20})
    assert found.outcome == "refused"
    assert found.as_row()["failed_rules"] == ["roc_auc"]


def test_a_log_that_is_not_there_is_no_absence_of_drift(ward: Ward) -> None:
    shutil.rmtree(ward.home.settings.log)
    with pytest.raises(DataError, match="holds no answer"):
        turn(ward)


def test_too_few_answers_are_no_absence_of_drift(ward: Ward) -> None:
    answered(ward, 29)
    with pytest.raises(CannotJudge, match="29 answers"):
        turn(ward)
