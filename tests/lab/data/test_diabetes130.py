"""Diabetes 130-US: the published cells as v2 columns, whatever container they came in."""

from pathlib import Path

import pandas as pd
import pytest

from ml_core.base.errors import DataError
from ml_core.lab.data.diabetes130 import (
    FETCH_STEPS,
    PUBLISHED_COLUMNS,
    PUBLISHED_CSV_SHA256,
    REORDERED_CSV_SHA256,
    as_published,
    csv_sha256,
    fetch_diabetes130,
    to_v2,
)
from ml_core.lab.data.raw_tables import read_source
from ml_core.lab.data.schemas import validate_frame

REAL = Path(__file__).parents[3] / ".." / "shared" / "data" / "diabetes130.parquet"
needs_real_data = pytest.mark.skipif(not REAL.exists(), reason="the published table is not on this machine")


@pytest.fixture(scope="module")
def published():
    if not REAL.exists():
        pytest.skip("the published table is not on this machine")
    return pd.read_parquet(REAL)


def small(**changes):
    """Two published rows; the second with every cell missing that can be."""
    cells = {name: ["No", "No"] for name in PUBLISHED_COLUMNS} | {
        "encounter_id": [11, 12], "patient_nbr": [7, 8], "race": ["Caucasian", "?"], "gender": ["Male", "Unknown/Invalid"],
        "age": ["[50-60)", "[70-80)"], "weight": ["?", "?"], "admission_type_id": [1, 6], "discharge_disposition_id": [1, 25],
        "admission_source_id": [7, 17], "time_in_hospital": [3, 14], "payer_code": ["MC", "?"],
        "medical_specialty": ["Cardiology", "?"], "num_lab_procedures": [41, 1], "num_procedures": [0, 6],
        "num_medications": [9, 1], "number_outpatient": [0, 1], "number_emergency": [0, 2], "number_inpatient": [0, 3],
        "diag_1": ["250.83", "?"], "diag_2": ["V27", "?"], "diag_3": ["E878", "?"], "number_diagnoses": [9, 1],
        "max_glu_serum": ["None", ">300"], "A1Cresult": [">8", "None"], "change": ["Ch", "No"], "diabetesMed": ["Yes", "No"],
        "readmitted": ["<30", ">30"],
    }  # fmt: skip
    return pd.DataFrame(cells | changes)


def test_published_words_for_missing_become_null():
    frame, left_out = to_v2(small())
    assert left_out == 0
    second = frame.iloc[1]
    assert [second[c] for c in ("gender", "medical_specialty", "diag_1", "diag_2", "diag_3", "A1Cresult")] == [None] * 6
    assert second["max_glu_serum"] == ">300"
    assert frame.iloc[0]["max_glu_serum"] is None
    assert validate_frame(frame, "v2").good.all()


def test_only_a_return_within_thirty_days_is_positive():
    frame, _ = to_v2(small(readmitted=["NO", "<30"]))
    assert frame["readmission_30d"].tolist() == [0, 1]
    assert to_v2(small(readmitted=[">30", "NO"]))[0]["readmission_30d"].tolist() == [0, 0]


@pytest.mark.parametrize("code", [11, 13, 14, 19, 20, 21])
def test_stays_that_ended_in_death_or_a_hospice_are_left_out(code):
    frame, left_out = to_v2(small(discharge_disposition_id=[code, 1]))
    assert frame["encounter_id"].tolist() == [12]
    assert left_out == 1


def test_cells_that_are_not_as_published_are_kept_for_the_schema_to_refuse():
    frame, _ = to_v2(small(readmitted=["<30", "maybe"], age=["[50-60)", "77"], time_in_hospital=[3, 15]))
    verdict = validate_frame(frame, "v2")
    assert verdict.good.tolist() == [True, False]
    assert {c for c, _, _ in verdict.problems} == {"readmission_30d", "age", "time_in_hospital"}


def test_the_adapter_makes_v2_only(tmp_path):
    small().to_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match="makes the columns of v2, not of v1"):
        read_source(tmp_path / "d.parquet", "diabetes130", "v1")


def test_csv_and_parquet_of_the_same_rows_give_the_same_frame(tmp_path):
    small().to_parquet(tmp_path / "d.parquet")
    small().to_csv(tmp_path / "d.csv", index=False)
    a, b = (read_source(tmp_path / f"d.{kind}", "diabetes130", "v2").frame for kind in ("parquet", "csv"))
    pd.testing.assert_frame_equal(a, b)


def test_columns_the_version_does_not_use_are_named(tmp_path):
    small().to_parquet(tmp_path / "d.parquet")
    ignored = read_source(tmp_path / "d.parquet", "diabetes130", "v2").ignored
    assert {"race", "payer_code", "weight", "examide"} <= set(ignored)


def openml_like(frame):
    """As OpenML delivers: NaN for '?', categories, numbers as floats, other column order, quotes around some levels."""
    other = frame.replace("?", None)[sorted(frame.columns)]
    for name in other.columns:
        if other[name].dtype == "int64":
            other[name] = other[name].astype("float64")
        else:
            other[name] = other[name].astype("category")
    other["age"] = other["age"].astype(object).map(lambda v: f"'{v}'")
    return other


def test_an_openml_frame_becomes_the_published_cells():
    pd.testing.assert_frame_equal(as_published(openml_like(small())), as_published(small()))
    assert csv_sha256(as_published(openml_like(small()))) == csv_sha256(small())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: f.drop(columns=["diag_1", "age"]), "has no column age, diag_1"),
        (lambda f: f.assign(patient_nbr=["x", 2]), "column patient_nbr holds cells that are no whole numbers"),
        (lambda f: f.assign(patient_nbr=[1.5, 2]), "column patient_nbr holds cells that are no whole numbers"),
        (lambda f: f.assign(patient_nbr=[None, 2]), "column patient_nbr holds cells that are no whole numbers"),
    ],
)
def test_a_frame_that_is_something_else_is_refused(change, problem):
    with pytest.raises(DataError, match=problem):
        as_published(change(small()))


def test_fetch_refuses_rows_that_are_not_the_published_ones(tmp_path):
    small().to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(DataError, match=r"rows are not the published ones .* --unverified"):
        fetch_diabetes130(tmp_path / "out.parquet", tmp_path / "d.csv")
    assert not (tmp_path / "out.parquet").exists()
    fetched = fetch_diabetes130(tmp_path / "out.parquet", tmp_path / "d.csv", unverified=True)
    assert (fetched.rows, fetched.verified) == (2, False)
    assert as_published(pd.read_parquet(tmp_path / "out.parquet")).equals(as_published(small()))


@needs_real_data
def test_fetch_knows_the_published_table_in_its_csv_form(tmp_path, published):
    published.to_csv(tmp_path / "diabetic_data.csv", index=False)  # LF line ends: the container does not matter
    steps = []
    fetched = fetch_diabetes130(tmp_path / "o.parquet", tmp_path / "diabetic_data.csv", step=lambda: steps.append(1))
    assert (fetched.rows, fetched.verified, fetched.csv_sha256) == (101_766, True, PUBLISHED_CSV_SHA256)
    assert len(steps) == FETCH_STEPS
    assert pd.read_parquet(tmp_path / "o.parquet").equals(published)


@pytest.mark.slow
@needs_real_data
def test_fetch_knows_the_published_table_as_openml_has_it(tmp_path, published, monkeypatch):
    from types import SimpleNamespace

    delivered = openml_like(published).sample(frac=1, random_state=1)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *_a, **_k: SimpleNamespace(frame=delivered))
    fetched = fetch_diabetes130(tmp_path / "o.parquet")
    assert (fetched.origin, fetched.verified, fetched.csv_sha256) == ("OpenML", True, REORDERED_CSV_SHA256)


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("no such data set"), TimeoutError()])
def test_an_openml_that_does_not_deliver_is_one_clear_line(tmp_path, monkeypatch, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fail)
    with pytest.raises(DataError, match=r"^OpenML: cannot deliver Diabetes130US \(\w+\); .* --path$"):
        fetch_diabetes130(tmp_path / "o.parquet")


@needs_real_data
def test_the_real_table_is_clean_and_has_the_known_counts():
    raw = read_source(REAL, "diabetes130", "v2")
    assert (raw.rows_in, raw.left_out, len(raw.frame)) == (101_766, 2_423, 99_343)
    assert int(raw.frame["readmission_30d"].sum()) == 11_314
    verdict = validate_frame(raw.frame, "v2")
    assert verdict.problems == ()
