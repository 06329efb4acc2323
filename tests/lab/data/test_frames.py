"""pandas columns of every type on their way into a transform."""

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import DataError, InvalidRows
from ml_core.lab.data.frames import cells_of, encode_frame, to_arrays
from ml_core.lab.data.schemas import validate_frame
from ml_core.serve.features.versions import get_feature_version
from tests.raw_rows import object_frame, valid_rows

V1, V2 = get_feature_version("v1"), get_feature_version("v2")
GOOD = {"age": 70, "glucose": 110.0, "bmi": 28.0, "bp_systolic": 120.0}


@pytest.mark.parametrize(
    "series",
    [
        pd.Series([11, None, 13], dtype="float64"),
        pd.Series([11, None, 13], dtype="float32"),
        pd.Series([11, None, 13], dtype="Int64"),
        pd.Series([11, None, 13], dtype="Int8"),
        pd.Series([11, None, 13], dtype="Float64"),
        pd.Series([11, None, 13], dtype="int64[pyarrow]"),
        pd.Series([11, None, 13], dtype="double[pyarrow]"),
        pd.Series([11, None, 13], dtype=object),
        pd.Series([11, pd.NA, 13], dtype=object),
        pd.Series([11, None, 13], dtype="Int64").astype("category"),
        pd.Series([11.0, None, 13.0]).astype("category"),
    ],
    ids=lambda s: str(s.dtype),
)
def test_numbers_of_every_type_mean_the_same(series):
    frame = pd.DataFrame([GOOD] * 3).assign(bmi=series)
    assert to_arrays(frame, V1)["bmi"][[0, 2]].tolist() == [11, 13]
    assert np.isnan(to_arrays(frame, V1)["bmi"][1])
    assert validate_frame(frame, "v1", labelled=False).good.all()


@pytest.mark.parametrize("dtype", [object, "str", "string", "category", "string[pyarrow]"])
def test_texts_of_every_type_mean_the_same(dtype):
    frame = object_frame(valid_rows(V2.columns, 30, seed=1))
    expected = to_arrays(frame, V2)
    for name in ("medical_specialty", "diag_1", "insulin"):
        frame[name] = frame[name].astype(dtype)
        assert to_arrays(frame, V2)[name].tolist() == expected[name].tolist()
    assert validate_frame(frame, "v2", labelled=False).good.all()


def test_dates_of_every_type_are_taken():
    for dates in (
        ["2026-01-31"],
        [pd.Timestamp("2026-01-31")],
        [pd.Timestamp("2026-01-31", tz="Europe/Vienna")],
        [None],
        [pd.NaT],
    ):
        frame = pd.DataFrame([GOOD]).assign(encounter_date=dates)
        assert encode_frame(frame, V1).good.all(), dates
        assert validate_frame(frame, "v1", labelled=False).good.all(), dates


@pytest.mark.parametrize(
    "date", ["2026-02-30", "31.01.2026", "", pd.Timestamp("1850-01-01"), pd.Timestamp("2300-01-01"), 20260131]
)
def test_dates_that_are_none_are_refused(date):
    frame = pd.DataFrame([GOOD]).assign(encounter_date=[date])
    assert not encode_frame(frame, V1).good.any()
    assert not validate_frame(frame, "v1", labelled=False).good.any()


def test_booleans_are_no_numbers_in_any_type():
    for dtype in (bool, "boolean", object, "bool[pyarrow]"):
        frame = pd.DataFrame([GOOD]).assign(age=pd.Series([True], dtype=dtype))
        assert not encode_frame(frame, V1).good.any(), dtype
        assert not validate_frame(frame, "v1", labelled=False).good.any(), dtype


def test_in_a_float_column_nan_is_null_but_among_objects_it_is_refused():
    as_objects = object_frame([GOOD | {"glucose": float("nan")}])
    as_floats = as_objects.assign(glucose=as_objects["glucose"].astype("float64"))
    assert [validate_frame(f, "v1", labelled=False).good.item() for f in (as_objects, as_floats)] == [False, True]
    assert [encode_frame(f, V1).good.item() for f in (as_objects, as_floats)] == [False, True]


def test_arrays_need_every_feature_and_valid_rows_only():
    with pytest.raises(DataError, match="has no column bmi"):
        to_arrays(pd.DataFrame([GOOD]).drop(columns="bmi"), V1)
    with pytest.raises(InvalidRows, match=r"age: too high \(1 rows\)"):
        to_arrays(pd.DataFrame([GOOD, GOOD | {"age": 121}]), V1)


def test_label_and_ids_are_not_looked_at_when_making_arrays():
    frame = pd.DataFrame([GOOD]).assign(readmission_30d=[7], patient_id=[None], anything="x")
    assert set(to_arrays(frame, V1)) == set(GOOD)


def test_a_frame_stays_as_it_is():
    frame = object_frame(valid_rows(V2.columns, 20, seed=2))
    before = frame.copy(deep=True)
    to_arrays(frame, V2)
    pd.testing.assert_frame_equal(frame, before)
    assert cells_of(frame["age"]).levels is None
