"""What was asked lately, beside what was normal for the model that was asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml_core.base.errors import ArtefactError, DataError, NotLoaded
from ml_core.base.settings import Settings
from ml_core.lab.watching.live_window import inputs_of, live_window, normal_of, scores_of
from ml_core.serve.model.bundle import REFERENCE_FILE
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout import changes
from tests.lab.watching.ward import Ward, patients, records_of
from tests.toy_models import toy_model

FEATURES = ["age", "glucose", "bmi", "bp_systolic"]


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    place = Ward(tmp_path, workers=2)
    yield place
    place.close()


def test_a_window_has_the_newest_answers_of_all_workers(ward: Ward) -> None:
    ward.answer(patients(60, seed=1))
    old = ward.now
    ward.pass_days(1)
    newer = patients(40, seed=2)
    ward.answer(newer)
    window = live_window(ward.home.settings, 40)
    assert (window.rows, window.since, window.until, window.normal.tag) == (40, ward.now, ward.now, ward.home.v1)
    assert sorted(window.inputs["age"].tolist()) == sorted(newer["age"].tolist())
    assert np.isnan(window.inputs["glucose"]).sum() == newer["glucose"].isna().sum() > 0
    assert live_window(ward.home.settings, 1_000).since == old


def test_inputs_and_scores_are_those_that_were_asked_and_answered(ward: Ward) -> None:
    rows = patients(30, seed=3)
    answers = {answer.request_id: answer for answer in ward.answer(rows)}
    logged = ward.log.last(30)
    scores = scores_of(logged)
    assert list(scores) == ["0", "1"]
    np.testing.assert_array_equal(scores["1"], [answers[one.request_id].probability for one in logged])
    np.testing.assert_allclose(scores["0"] + scores["1"], 1.0)
    inputs = inputs_of(logged, normal_of(ModelLoader(ward.home.settings), ward.home.v1).columns)
    assert list(inputs) == FEATURES
    asked = sorted(tuple(str(record[name]) for name in ("age", "bmi")) for record in records_of(rows)[0])
    told = sorted(
        (str(int(a)), str(None if np.isnan(b) else b)) for a, b in zip(inputs["age"], inputs["bmi"], strict=True)
    )
    assert told == asked


def test_answers_of_earlier_models_are_left_out(ward: Ward) -> None:
    ward.answer(patients(50, seed=1))
    ward.home.change(changes.full(ward.home.v2))
    ward.look()
    with pytest.raises(DataError, match="no answer of"):
        live_window(ward.home.settings, 100)
    ward.answer(patients(20, seed=2))
    window = live_window(ward.home.settings, 100)
    assert (window.rows, window.normal.model_hash) == (20, ward.home.hash_of(ward.home.v2))


def test_where_nothing_is_live_or_nothing_was_asked_that_is_said(ward: Ward, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="start the service"):
        live_window(Settings(home=tmp_path / "elsewhere", model_name="toy"), 100)
    with pytest.raises(DataError, match="no answer of"):
        live_window(ward.home.settings, 100)


def test_inputs_that_are_not_kept_are_asked_for_as_a_file(tmp_path: Path) -> None:
    ward = Ward(tmp_path, log_inputs=False)
    ward.answer(patients(20, seed=1))
    with pytest.raises(DataError, match="--current FILE"):
        live_window(ward.home.settings, 100)
    ward.close()


def test_the_reference_is_that_of_the_artefact_and_trusted_only_with_all_of_it(ward: Ward) -> None:
    loader = ModelLoader(ward.home.settings)
    normal = normal_of(loader, ward.home.v1)
    assert (normal.model_hash, [column.name for column in normal.columns]) == (toy_model().model_hash, FEATURES)
    with pytest.raises(NotLoaded):
        normal_of(loader, "toy_risk:v9-00000000")
    file = ward.home.file(ward.home.v1, REFERENCE_FILE)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtefactError):
        normal_of(loader, ward.home.v1)
