"""Reading one record: what is said about wrong fields, what is kept apart, and the one canonical spelling."""

import json

import numpy as np
import pytest

from ml_core.base.errors import InvalidRecord
from ml_core.features.columns import Column
from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.versions import get_feature_version
from tests.raw_rows import valid_rows

V1 = {"age": 70, "glucose": 110.5, "bmi": 28, "bp_systolic": None}


@pytest.fixture
def v1():
    return RecordReader(get_feature_version("v1").columns)


@pytest.fixture
def v2():
    return RecordReader(get_feature_version("v2").columns)


def problems(reader, obj):
    with pytest.raises(InvalidRecord) as caught:
        reader.read(obj)
    return {f.field: f.problem for f in caught.value.fields}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (130, "130 is above the highest allowed value 120 years"),
        (-1, "-1 is below the lowest allowed value 0 years"),
        (45.7, "45.7 is not a whole number"),
        ("45", "this text is not a number"),
        (True, "true is not a number"),
        (None, "must not be null"),
        (float("nan"), "nan is not a finite number"),
        (float("-inf"), "-inf is not a finite number"),
        ([45], "a list is not a number"),
        ({"years": 45}, "an object is not a number"),
        (10**400, "a number of more than 64 bits is above the highest allowed value 120 years"),
    ],
)
def test_a_wrong_number_is_refused_in_words(v1, value, problem):
    assert problems(v1, V1 | {"age": value}) == {"age": problem}


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("insulin", "up", "this text is not one of: No, Steady, Up, Down"),
        ("insulin", 1, "1 is not one of: No, Steady, Up, Down"),
        ("admission_type_id", True, "true is not one of: 1, 2, 3, 4, 5, 6, 7, 8"),
        ("admission_type_id", 9, "9 is not one of: 1, 2, 3, 4, 5, 6, 7, 8"),
        ("diag_1", "25O", "this text does not have the form "),
        ("diag_1", 250, "250 is not text"),
        ("diag_1", "x" * 1_000, "this text does not have the form "),
        ("diag_1", "428\n", "this text does not have the form "),
        ("medical_specialty", "Magic", "this text is not one of the 72 allowed values (AllergyandImmunology, "),
    ],
)
def test_a_wrong_level_or_text_is_refused_in_words(v2, field, value, problem):
    row = valid_rows(get_feature_version("v2").columns, 1, seed=1)[0]
    assert problems(v2, row | {field: value})[field].startswith(problem)


def test_a_stay_that_ended_in_death_or_a_hospice_is_refused(v2):
    row = valid_rows(get_feature_version("v2").columns, 1, seed=1)[0]
    for code in (11, 13, 14, 19, 20, 21):
        assert "discharge_disposition_id" in problems(v2, row | {"discharge_disposition_id": code})


def test_every_wrong_missing_and_unknown_field_is_named_at_once(v1):
    assert problems(v1, {"glucose": 601, "bmi": "30", "weight": 80, "readmission_30d": 1}) == {
        "age": "is missing",
        "glucose": "601 is above the highest allowed value 600 mg/dL",
        "bmi": "this text is not a number",
        "weight": "is not a field of this model; GET /docs.json names the fields",
        "readmission_30d": "is the outcome, which is to be predicted; it must not be sent",
    }


@pytest.mark.parametrize("obj", [None, 3, "age", [V1], True])
def test_what_is_no_object_is_refused(v1, obj):
    assert list(problems(v1, obj)) == [""]


def test_ten_thousand_unknown_fields_give_a_short_answer(v1):
    found = problems(v1, V1 | {f"x{i}": 1 for i in range(10_000)})
    assert len(found) == 51
    assert found[""] == "has 9950 more fields that are not known"


@pytest.mark.parametrize("name", ["\ud800" + "x" * 500, 7, "Anna Müller", "1985-04-12", "x" * 65, ""])
def test_what_does_not_look_like_the_name_of_a_field_is_not_repeated(v1, name):
    assert problems(v1, V1 | {name: 1}) == {
        "(a field)": "is not a field of this model; GET /docs.json names the fields"
    }


def test_nullable_fields_may_be_null_or_missing(v1):
    assert v1.read({"age": 1}).values == {"age": 1, "glucose": None, "bmi": None, "bp_systolic": None}


def test_values_come_in_table_order_whatever_the_order_sent(v1):
    record = v1.read({"bmi": 20, "bp_systolic": 100, "age": 1})
    assert list(record.values) == ["age", "glucose", "bmi", "bp_systolic"]


def test_ids_and_times_are_kept_apart_from_the_features(v1):
    record = v1.read(V1 | {"patient_id": "P-1", "encounter_date": "2026-01-31"})
    assert record.ids == {"patient_id": "P-1", "encounter_date": "2026-01-31"}
    assert set(record.values) == set(V1)
    assert b"P-1" not in v1.canonical(record)


@pytest.mark.parametrize("value", ["P 1", "", "x" * 65, 17, "2026-02-30"])
def test_a_wrong_id_is_refused(v1, value):
    field = "encounter_date" if value == "2026-02-30" else "patient_id"
    assert list(problems(v1, V1 | {field: value})) == [field]


def test_equal_records_have_one_canonical_spelling(v1):
    spellings = [
        {"age": 70, "glucose": 110, "bmi": 28.0},
        {"bmi": 28, "age": 70.0, "glucose": 110.0, "bp_systolic": None},
        {"age": 70, "glucose": 110, "bmi": 28, "patient_id": "P1"},
    ]
    assert {v1.canonical(v1.read(s)) for s in spellings} == {
        b'{"age":70,"glucose":110.0,"bmi":28.0,"bp_systolic":null}'
    }


def test_a_canonical_record_reads_back_as_itself(v2):
    for row in valid_rows(get_feature_version("v2").columns, 50, seed=2):
        record = v2.read(row)
        assert v2.read(json.loads(v2.canonical(record))) == record


def test_arrays_have_the_promised_types(v2):
    version = get_feature_version("v2")
    arrays = v2.arrays([v2.read(row) for row in valid_rows(version.columns, 5, seed=3)])
    kinds = {"int": np.float64, "float": np.float64, "category": np.int64, "text": np.object_}
    assert {name: a.dtype.type for name, a in arrays.items()} == {c.name: kinds[c.dtype] for c in version.features}
    assert {a.shape for a in arrays.values()} == {(5,)}


def test_missing_is_nan_minus_one_or_none_by_kind():
    columns = (
        Column("x", "float", "A number.", low=0, high=1, nullable=True),
        Column("c", "category", "A level.", levels=("a", "b"), nullable=True),
        Column("t", "text", "A text.", pattern="z", nullable=True),
    )
    arrays = RecordReader(columns).arrays([RecordReader(columns).read({})])
    assert np.isnan(arrays["x"][0])
    assert arrays["c"][0] == -1
    assert arrays["t"][0] is None


def test_the_json_schema_tells_units_bounds_levels_and_what_is_required(v1, v2):
    schema = v1.json_schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["age"]
    assert "readmission_30d" not in schema["properties"]
    assert schema["properties"]["age"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 120,
        "description": "Age in completed years. Unit: years.",
        "x-unit": "years",
    }
    assert schema["properties"]["glucose"]["anyOf"][0] == {"type": "number", "minimum": 30.0, "maximum": 600.0}
    assert v2.json_schema()["properties"]["insulin"]["enum"] == ["No", "Steady", "Up", "Down"]
    assert v2.json_schema()["properties"]["admission_type_id"]["type"] == "integer"
    json.dumps([schema, v2.json_schema()])
