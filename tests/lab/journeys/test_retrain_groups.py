"""A model with groups of patients through its life: outcomes by cell, and training rows that keep what tells the groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import DataError
from ml_core.lab.config import RetrainConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.raw_tables import columns_beside
from ml_core.lab.journeys.matured_rows import new_rows
from ml_core.lab.journeys.retrain import retrain
from ml_core.lab.measuring.live_coverage import sets_of
from ml_core.lab.training.labelled_rows import rows_from_store
from ml_core.serve.features.versions import get_feature_version
from tests.homes import bento_store
from tests.lab.watching.ward import Ward, patients
from tests.toy_models import GROUPS, grouped_rows, grouped_toy, toy_config, toy_frame

CONFIG = toy_config(
    conformal=GROUPS,
    retrain=RetrainConfig(cool_down_days=0.0, min_new_labels=100, live_rows=1_000),
    gate={"min_roc_auc": 0.6, "min_positives": 20},
)
SEX = columns_beside(CONFIG.conformal.groups, get_feature_version("v1").columns)


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with bento_store(tmp_path / "bento"):
        place = Ward(tmp_path, champion=grouped_toy().folder)
        store_of(place).overwrite("v1", grouped_rows().frame, SEX)
        yield place
        place.close()


def store_of(ward: Ward) -> FeatureStore:
    return FeatureStore(ward.home.settings.feature_store, ward.home.settings.model_name)


def with_sex(rows: pd.DataFrame, seed: int = 1) -> pd.DataFrame:
    sexes = np.random.default_rng(seed).choice(np.array(["female", "male", None]), len(rows))
    return rows.assign(sex=sexes)


def test_outcomes_mature_with_the_ranks_of_their_own_cell(ward: Ward) -> None:
    """The monitor recovers each set from p-values and the sizes that its lineage names, whatever the cell."""
    answers = ward.answer(with_sex(patients(300, seed=31)))
    ward.pass_days(31)
    assert ward.look().matured == 300
    assert {a.group for a in answers} == {"sex=female", "sex=male", "sex=unknown"}
    logged = {answer.request_id: answer for answer in ward.log.rows()}
    for answer in answers:
        facts = logged[answer.request_id].lineage
        p_values = np.array([list(answer.p_values.values())])
        (found,) = sets_of(p_values, facts["calibration_sizes"], grouped_toy().bundle.manifest.confidence_level)
        assert np.flatnonzero(found).tolist() == answer.prediction_set


def test_matured_answers_bring_back_what_tells_their_group(ward: Ward) -> None:
    sent = with_sex(patients(200, seed=33))
    ward.answer(sent)
    ward.pass_days(31)
    ward.look()
    found = new_rows(ward.home.settings, "v1", 0, SEX).frame
    assert found["sex"].value_counts().to_dict() == sent["sex"].value_counts().to_dict()
    assert found["sex"].isna().sum() == sent["sex"].isna().sum()
    assert "sex" not in new_rows(ward.home.settings, "v1", 0).frame


def test_retraining_keeps_the_groups(ward: Ward) -> None:
    ward.answer(with_sex(patients(300, seed=35)))
    ward.pass_days(31)
    ward.look()
    before = store_of(ward).read("v1")
    found = retrain(CONFIG, ward.home.settings, lambda _: None)
    assert found.rows_added == 300
    stored = store_of(ward).read("v1")
    assert stored["sex"].notna().sum() > before["sex"].notna().sum()
    rows = rows_from_store(CONFIG, ward.home.settings, found.table_version)
    assert set(rows.columns_with(SEX)["sex"].tolist()) == {-1, 0, 1}
    assert found.gate is not None
    assert "coverage_by_sex" in {rule.rule for rule in found.gate.rules}


def test_a_table_from_before_the_groups_says_what_to_do(ward: Ward) -> None:
    store_of(ward).overwrite("v1", toy_frame())
    ward.answer(with_sex(patients(200, seed=37)))
    ward.pass_days(31)
    ward.look()
    with pytest.raises(DataError, match=r"column sex is new.*surety features run"):
        retrain(CONFIG, ward.home.settings, lambda _: None)


def test_erasing_a_person_keeps_the_others_groups(ward: Ward) -> None:
    store = store_of(ward)
    frame = store.read("v1")
    gone = str(frame["patient_id"].iloc[0])
    assert store.erase_people("v1", [gone]).rows
    kept = store.read("v1")
    left = frame[frame["patient_id"].astype(str) != gone].reset_index(drop=True)
    assert kept["sex"].isna().equals(left["sex"].isna())
    assert kept["sex"].dropna().tolist() == left["sex"].dropna().tolist()
