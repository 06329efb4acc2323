from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import ArtefactError, DataError
from ml_core.lab.config import DriftConfig
from ml_core.lab.drift import drift_check as check
from ml_core.lab.drift.drift_check import also_advised, check_files, check_table, read_reference
from ml_core.lab.drift.reference_window import ReferenceWindow
from tests.lab.drift.windows import COLUMNS, arrays, published

BASIC, EXTENDED = DriftConfig(), DriftConfig(rule="extended")
NAMES = [c.name for c in COLUMNS]


def raw(n, seed=0, **changes):
    columns = {**arrays(n, seed), **changes}
    return pd.DataFrame({**columns, "dose": np.array(COLUMNS[2].levels, dtype=object)[columns["dose"]]})


@pytest.fixture
def files(tmp_path):
    """Reference rows, plain current rows, and current rows of which two of four columns moved."""
    frames = {
        "reference": raw(2_000),
        "steady": raw(800, 1),
        "moved": raw(800, 1, age=arrays(800, 1)["age"] + 8, glucose=arrays(800, 1)["glucose"] * 2),
    }
    for name, frame in frames.items():
        frame.to_parquet(tmp_path / f"{name}.parquet", index=False)
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "reference.npz").write_bytes(published(2_000))
    return tmp_path


@pytest.mark.parametrize("reference", ["reference.parquet", "reference.csv", "reference.npz"])
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_advice_follows_from_the_share_that_drifted(files, reference, kind):
    steady = check_files(files / reference, files / f"steady.{kind}", EXTENDED, COLUMNS)
    moved = check_files(files / reference, files / f"moved.{kind}", EXTENDED, COLUMNS)
    assert (steady.features_tested, steady.features_drifted, steady.retrain_advised) == (4, 0, False)
    assert (moved.features_tested, moved.drifted_share, moved.retrain_advised) == (4, 0.5, True)
    assert (moved.rows_reference, moved.rows_current) == (2_000, 800)


def test_the_threshold_is_the_configurations(files):
    config = EXTENDED.model_copy(update={"threshold_fraction": 0.75})
    assert not check_files(files / "reference.csv", files / "moved.csv", config, COLUMNS).retrain_advised


def test_a_file_larger_than_memory_allows_is_read_in_pieces_and_says_the_same(files, monkeypatch):
    whole = check_files(files / "reference.parquet", files / "moved.parquet", BASIC, COLUMNS)
    monkeypatch.setattr(check, "_IN_MEMORY_CELLS", 100)
    monkeypatch.setattr(check, "summarised", None)  # nothing is read at once
    streamed = check_files(files / "reference.parquet", files / "moved.parquet", BASIC, COLUMNS)
    assert [(r.state, r.ks_statistic) for r in streamed.features] == [(r.state, r.ks_statistic) for r in whole.features]
    assert replace(streamed, features=()) == replace(whole, features=())


def test_a_check_is_json_and_says_what_it_promises(files):
    for config in (BASIC, EXTENDED):
        found = json.loads(
            json.dumps(asdict(check_files(files / "reference.csv", files / "moved.csv", config, COLUMNS)))
        )
        assert found["rule"] == config.rule
        assert found["false_alarms"].startswith("per check")
        assert [f["feature"] for f in found["features"]] == NAMES


def test_without_a_column_table_common_columns_are_compared_and_others_named(files):
    pd.read_parquet(files / "steady.parquet").rename(columns={"code": "icd"}).to_parquet(files / "renamed.parquet")
    found = check_files(files / "reference.parquet", files / "renamed.parquet", EXTENDED)
    assert [(r.feature, r.kind) for r in found.features] == [("age", "number"), ("glucose", "number"), ("dose", "text")]
    assert [note.split(": ")[1] for note in found.notes] == ["code", "icd"]


def test_a_column_of_the_table_that_a_file_lacks_is_named_with_the_file(files):
    raw(50).drop(columns="age").to_parquet(files / "short.parquet")
    with pytest.raises(DataError, match=r"short\.parquet: has no column age"):
        check_files(files / "reference.parquet", files / "short.parquet", BASIC, COLUMNS)
    with pytest.raises(DataError, match=r"short\.parquet: has no column age"):
        check_files(files / "short.parquet", files / "steady.parquet", BASIC, COLUMNS)


def test_files_without_a_common_column_are_refused(files):
    pd.DataFrame({"other": [1.0]}).to_parquet(files / "other.parquet")
    with pytest.raises(DataError, match="in common"):
        check_files(files / "reference.parquet", files / "other.parquet", BASIC)


@pytest.mark.parametrize("name", ["nowhere.parquet", "rows.xlsx"])
def test_files_that_cannot_be_used_are_refused(files, name):
    with pytest.raises(DataError, match=name):
        check_files(files / "reference.parquet", files / name, BASIC)


def test_a_table_without_rows_is_refused(files):
    raw(5).head(0).to_parquet(files / "empty.parquet")
    with pytest.raises(DataError, match="no rows"):
        check_files(files / "reference.parquet", files / "empty.parquet", BASIC)


def test_a_models_reference_needs_its_feature_version(files):
    with pytest.raises(DataError, match="feature version"):
        check_files(files / "reference.npz", files / "steady.parquet", BASIC)
    with pytest.raises(ArtefactError, match="another feature version"):
        read_reference(files / "reference.npz", [replace(COLUMNS[0], name="bmi")])


def test_a_domain_classifier_sees_what_no_column_shows(files):
    frame = raw(2_000)
    frame["glucose"] = 120 + (frame["age"] - 60) * 3
    frame.to_parquet(files / "linked.parquet")
    alone = frame.assign(glucose=frame["glucose"].sample(frac=1, random_state=1).to_numpy())
    alone.to_parquet(files / "alone.parquet")
    found = check_files(files / "linked.parquet", files / "alone.parquet", EXTENDED, with_domain=True)
    assert (found.domain.drifted, found.retrain_advised) == (True, False)
    json.dumps(asdict(found), allow_nan=False)
    same = check_files(files / "linked.parquet", files / "linked.parquet", EXTENDED, with_domain=True)
    assert not same.domain.drifted


def test_a_domain_classifier_needs_rows(files):
    with pytest.raises(DataError, match="holds no rows"):
        check_files(files / "reference.npz", files / "steady.parquet", BASIC, COLUMNS, with_domain=True)


def test_scores_stand_beside_the_features_and_advise_by_themselves():
    window = ReferenceWindow.read(published(5_000), COLUMNS)
    scores = np.random.default_rng(0).uniform(size=900)
    found = check_table(window, arrays(900, 1), BASIC, probabilities={"0": 1 - scores, "1": scores})
    assert [r.state for r in found.scores] == ["drifted", "drifted"]
    assert (found.features_drifted, found.retrain_advised) == (0, True)
    assert found.reasons == ("the model's probabilities drifted",)
    without = check_table(window, arrays(900, 1), BASIC)
    assert (without.scores, without.reasons, without.retrain_advised) == ((), (), False)


@pytest.mark.parametrize(("share", "advised"), [(0.19, False), (0.2, True), (0.9, True)])
def test_one_feature_advises_if_the_model_hangs_on_it(share, advised):
    limits = BASIC.model_copy(update={"threshold_fraction": 0.5})
    window = replace(ReferenceWindow.read(published(5_000), COLUMNS), importance={"age": share})
    now = arrays(900, 1)
    now["age"] = now["age"] + 15
    found = check_table(window, now, limits)
    assert (found.features_drifted, found.retrain_advised) == (1, advised)
    assert all("importance: age" in reason for reason in found.reasons)


def test_a_patients_rows_are_one_piece_of_evidence(files):
    """The same row eight times: 40 patients are too few to tell, 320 rows would be enough."""
    window = ReferenceWindow.read(published(5_000), COLUMNS)
    few = {name: np.repeat(cells, 8) for name, cells in arrays(40, 3).items()}
    few["age"] = few["age"] + 3
    patients = np.repeat(np.arange(40), 8).tolist()
    rows, people = check_table(window, few, BASIC), check_table(window, few, BASIC, patients=patients)
    assert (rows.features[0].drifted, people.features[0].drifted) == (True, False)
    assert people.features[0].n_current <= 40
    assert people.notes == ("subjects repeat: 320 rows were tested as 40 independent ones",)
    alone = check_table(window, few, BASIC, patients=[None] * 320)
    assert (alone.features, alone.notes) == (rows.features, ())


def test_the_patients_of_a_table_are_named_by_a_column(files):
    frame = raw(300)
    twice = frame.loc[frame.index.repeat(2)].assign(who=np.repeat(np.arange(300), 2))
    twice.to_parquet(files / "twice.parquet")
    found = check_files(files / "reference.npz", files / "twice.parquet", EXTENDED, COLUMNS, patient="who")
    assert found.notes[-1] == "subjects repeat: 600 rows were tested as 300 independent ones"
    again = check_files(
        files / "twice.parquet", files / "twice.parquet", EXTENDED, COLUMNS, patient="who", with_domain=True
    )
    assert again.notes[-1] == "subjects repeat: 600 rows were tested as 200 independent ones"  # both sides repeat
    assert not again.domain.drifted
    with pytest.raises(DataError, match="no column who"):
        check_files(files / "reference.parquet", files / "twice.parquet", EXTENDED, COLUMNS, patient="who")


def test_reasons_from_elsewhere_advise_as_well():
    found = check_table(ReferenceWindow.read(published(5_000), COLUMNS), arrays(900, 1), BASIC)
    assert also_advised(found, ()) == found
    assert (also_advised(found, ("skill was lost",)).retrain_advised, found.retrain_advised) == (True, False)
