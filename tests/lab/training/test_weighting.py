"""A model whose calibration rows are weighted as patients come now: the artefact, its answers, and what is refused."""

from __future__ import annotations

import asyncio
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import ArtefactError, CannotJudge, DataError
from ml_core.lab.config import ModelConfig
from ml_core.lab.data.frames import to_arrays
from ml_core.lab.training.labelled_rows import label_rows
from ml_core.lab.training.packing import PackedModel
from ml_core.lab.training.weighting import LiveRows, weight_model
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.serve.answering.requests import PredictRequest
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.model.bundle import CALIBRATION_FILE, ONNX_FILE, read_bundle
from ml_core.serve.model.predictor import Predictor, check_golden
from tests.homes import remade
from tests.lab.watching.ward import Ward, patients, records_of
from tests.toy_models import toy_config, toy_frame, toy_model, toy_rows


def config(min_effective_rows: int = 30) -> ModelConfig:
    return toy_config(recalibrate={"min_effective_rows": min_effective_rows})


def older(n: int, seed: int, strength: float = 1.0) -> pd.DataFrame:
    """Patients of the same law, of whom the old come more often: only the mix is another."""
    rows = patients(20 * n, seed)
    weights = np.exp(strength * ((rows["age"] - rows["age"].mean()) / rows["age"].std()).clip(-2, 2))
    return rows.sample(n, weights=weights.to_numpy(), random_state=seed).reset_index(drop=True)


def live(rows: pd.DataFrame) -> LiveRows:
    version = get_feature_version("v1")
    columns = to_arrays(rows, version)
    return LiveRows(columns, version.transform(columns), rows["patient_id"].to_numpy().astype(str))


@cache
def weighted() -> PackedModel:
    folder = Path(mkdtemp(prefix="surety-weighted-")) / "bundle"
    return weight_model(toy_model().folder, None, config(), toy_rows(), live(older(1_500, 91)), folder, lambda _: None)


def test_it_has_the_scorer_and_scores_of_the_model_and_a_hash_of_its_own() -> None:
    old, new = toy_model().bundle, weighted().bundle
    assert new.onnx == old.onnx
    assert new.manifest.files[ONNX_FILE] == old.manifest.files[ONNX_FILE]
    assert new.calibration.calibration_id == old.calibration.calibration_id
    assert new.manifest.guarantee == "weighted"
    assert new.weighted is not None
    assert new.weighted_scorecard is not None
    assert new.manifest.calibration_id == new.weighted.calibration_id != old.manifest.calibration_id
    assert new.manifest.weighting is not None
    assert new.manifest.weighting.model_hash == old.model_hash
    assert new.model_hash != old.model_hash
    assert all(0 < w < n for w, n in zip(new.weighted.sizes, new.calibration.sizes, strict=True))
    check_golden(Predictor(read_bundle(weighted().folder, new.model_hash)))


def test_done_again_it_is_the_same_model(tmp_path: Path) -> None:
    again = weight_model(
        toy_model().folder, None, config(), toy_rows(), live(older(1_500, 91)), tmp_path / "b", lambda _: None
    )
    assert again.model_hash == weighted().model_hash


def test_a_model_without_weights_is_written_as_before() -> None:
    assert {"weighting", "recalibration"}.isdisjoint(toy_model().bundle.manifest.content())


def test_it_covers_the_mix_that_comes_now() -> None:
    rows = older(6_000, 92)
    y = rows["readmission_30d"].to_numpy().astype(int)
    covered = {}
    for name, bundle in (("old", toy_model().bundle), ("new", weighted().bundle)):
        sets = Predictor(bundle).predict(to_arrays(rows, bundle.features)).sets[np.arange(y.size), y]
        covered[name] = sets[y == 0].mean()
    assert covered["old"] < 0.85
    assert covered["new"] > covered["old"] + 0.03


def test_recorded_coverage_is_that_of_the_new_mix() -> None:
    metrics = weighted().evaluation.metrics
    assert abs(metrics["coverage_class_0"] - 0.9) < 0.06
    assert metrics["roc_auc"] == toy_model().evaluation.metrics["roc_auc"]


def test_weights_that_were_changed_are_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(weighted().folder, folder)
    (folder / CALIBRATION_FILE).write_bytes(toy_model().folder.joinpath(CALIBRATION_FILE).read_bytes())
    with pytest.raises(ArtefactError):
        read_bundle(folder)
    plain = toy_model().folder.joinpath(CALIBRATION_FILE).read_bytes()
    with pytest.raises(ArtefactError, match="does not hold the scores"):
        remade(weighted().folder, tmp_path / "c", {CALIBRATION_FILE: plain})


def test_a_shift_that_leaves_too_few_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotJudge, match="so large a shift"):
        weight_model(
            toy_model().folder, None, config(10_000), toy_rows(), live(older(1_500, 93)), tmp_path / "b", lambda _: None
        )


def test_too_few_answers_show_no_shift(tmp_path: Path) -> None:
    with pytest.raises(CannotJudge, match="500 of each"):
        weight_model(
            toy_model().folder, None, config(), toy_rows(), live(older(400, 94)), tmp_path / "b", lambda _: None
        )


def test_rows_that_did_not_calibrate_it_are_refused(tmp_path: Path) -> None:
    other = label_rows(toy_frame(4_000, 12), "v1", config().split, "other rows")
    with pytest.raises(DataError, match="other calibration rows"):
        weight_model(toy_model().folder, None, config(), other, live(older(1_500, 95)), tmp_path / "b", lambda _: None)


def test_one_record_a_batch_and_the_predictor_give_the_same_bits_and_the_monitor_judges_them(tmp_path: Path) -> None:
    ward = Ward(tmp_path, champion=weighted().folder)
    rows = older(120, 96)
    records, outcomes = records_of(rows)
    batch = ward.answer(rows)
    service = ward.workers[0].service
    predictor = Predictor(weighted().bundle)
    found = predictor.predict(predictor.reader.arrays([predictor.reader.read(record) for record in records]))
    for record, answer, row in list(zip(records, batch, found.rows(), strict=True))[:40]:
        alone = asyncio.run(service.predict(PredictRequest(record)))
        assert alone.guarantee == answer.guarantee == "weighted"
        assert alone.p_values == answer.p_values == dict(zip(("0", "1"), row.p_values, strict=True))
        assert alone.prediction_set == answer.prediction_set == row.members
        assert alone.lineage.calibration_id == weighted().bundle.manifest.calibration_id
    ward.pass_days(31)
    ward.look()
    with Ledger.reading(open_ledger_tables(ward.home.settings, ward.home.settings.model_name)) as ledger:
        assert ledger is not None
        matured = {row.request_id.hex(): row for _, row in ledger.matured_after(0)}
    missed = {
        answer.request_id.replace("-", ""): outcome not in answer.prediction_set
        for answer, outcome in zip(batch, outcomes, strict=True)
    }
    assert {name: matured[name].missed for name in missed} == missed
    ward.close()


def test_a_fallback_of_a_weighted_model_is_weighted_too(tmp_path: Path) -> None:
    from ml_core.serve.answering.fallback import FallbackStrategy

    bundle = weighted().bundle
    baseline = FallbackStrategy.from_baseline(bundle)
    assert bundle.weighted_scorecard is not None
    assert baseline.calibration_id == bundle.weighted_scorecard.calibration_id
    rows = older(50, 97)
    columns = to_arrays(rows, bundle.features)
    features = bundle.features.transform(columns)
    found = baseline.by_scorecard(features, bundle.manifest.confidence_level, columns)
    assert found is not None
    again = Predictor(bundle).sets(found.proba, columns, of_scorecard=True)
    assert np.array_equal(found.p_values, again.p_values)
