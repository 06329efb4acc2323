"""The strict record, the bulk encoder and the pandera schema accept and refuse the same rows, for the same fields."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_core.base.errors import InvalidRecord
from ml_core.lab.data.frames import encode_frame
from ml_core.lab.data.schemas import get_schema, validate_frame
from ml_core.serve.features.column_rules import shown_name
from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.table import encode_table
from ml_core.serve.features.versions import get_feature_version
from tests.own_versions import EVERY_KIND
from tests.raw_rows import any_rows, object_frame, valid_rows

pytestmark = pytest.mark.parametrize("name", EVERY_KIND, ids=lambda name: name.partition("_")[0])
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


def wrong_fields(reader, row):
    try:
        reader.read(row)
    except InvalidRecord as error:
        fields = error.fields
    else:
        return []
    assert all(f.problem != "cannot be read as a record" for f in fields)
    return sorted(f.field for f in fields)


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=SLOW)
def test_the_three_readings_find_the_same_fields_wrong_in_every_row_of_a_table(name, data):
    version = get_feature_version(name)
    rows = data.draw(st.lists(any_rows(version.columns), min_size=1, max_size=12))
    frame = object_frame(rows)
    reader = RecordReader(version.columns)
    by_record = [wrong_fields(reader, row) for row in rows]

    encoded = encode_frame(frame, version)
    assert [sorted(f.field for f in encoded.problems.get(i, [])) for i in range(len(rows))] == by_record

    verdict = validate_frame(frame, name, labelled=False)
    by_schema = [sorted({reason.split(":")[0] for reason in verdict.reasons.get(i, [])}) for i in range(len(rows))]
    assert by_schema == by_record
    assert verdict.good.tolist() == encoded.good.tolist() == [not fields for fields in by_record]


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=SLOW)
def test_the_three_readings_agree_on_unknown_and_missing_fields_of_one_row(name, data):
    version = get_feature_version(name)
    row = data.draw(any_rows(version.columns, with_unknown=True))
    fields = wrong_fields(RecordReader(version.columns), row)
    encoded = encode_table(version.columns, {field: [value] for field, value in row.items()})
    assert sorted(f.field for f in encoded.problems.get(0, [])) == fields
    verdict = validate_frame(object_frame([row]), name, labelled=False)
    named = {shown_name(reason.split(": ")[0]) for reason in verdict.reasons.get(0, [])}
    assert sorted(named) == sorted(set(fields))


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=SLOW)
def test_an_accepted_row_is_encoded_alike_as_a_record_and_as_a_table_row(name, data):
    version = get_feature_version(name)
    rows = data.draw(st.lists(any_rows(version.columns), min_size=1, max_size=12))
    reader = RecordReader(version.columns)
    good = [row for row in rows if not wrong_fields(reader, row)]
    arrays = reader.arrays([reader.read(row) for row in good])
    table = encode_frame(object_frame(good), version).arrays if good else {}
    for column, values in table.items():
        assert arrays[column].dtype == values.dtype
        assert arrays[column].tolist() == values.tolist() or arrays[column].tobytes() == values.tobytes()


def test_typed_frames_are_judged_alike_by_schema_and_encoder(name):
    version = get_feature_version(name)
    frame = object_frame(valid_rows(version.columns, 40, seed=5)).infer_objects().convert_dtypes(convert_string=True)
    for column in version.features:
        if column.dtype == "int":
            frame[column.name] = frame[column.name].astype("float64")
            frame.loc[3, column.name] = np.nan
            frame.loc[4, column.name] = column.high + 1
            frame.loc[5, column.name] = column.low + 0.5
            frame.loc[6, column.name] = np.inf
        elif column.dtype == "category" and isinstance(column.levels[0], str):
            frame[column.name] = frame[column.name].astype("category")
    encoded, verdict = encode_frame(frame, version), validate_frame(frame, name, labelled=False)
    assert verdict.good.tolist() == encoded.good.tolist()
    assert set(encoded.problems) == {3, 4, 5, 6}
    assert {(c, k): n for c, k, n in verdict.problems} == dict(encoded.checks)


def test_a_training_table_needs_label_and_group_and_no_id_twice(name):
    version = get_feature_version(name)
    schema = get_schema(name)
    assert schema.strict is True
    needed = {c.name for c in version.columns if c.role in ("feature", "group", "label")}
    assert {n for n, c in schema.columns.items() if c.required} == needed
    assert not any(schema.columns[c.name].nullable for c in version.columns if c.role in ("group", "label"))


def test_what_the_schema_reports_never_contains_a_value(name):
    version = get_feature_version(name)
    canary = "canary-value-4711"
    frame = object_frame([{c.name: canary for c in version.features}] * 3)
    verdict = validate_frame(frame, name, labelled=False)
    assert verdict.good.sum() == 0
    assert canary not in f"{verdict.problems} {verdict.reasons}"


def test_a_text_that_is_no_unicode_is_refused_by_all_three(name):
    version = get_feature_version(name)
    row = valid_rows(version.columns, 1, seed=2)[0] | {version.features[0].name: "\ud800"}
    assert wrong_fields(RecordReader(version.columns), row) == [version.features[0].name]
    assert not encode_frame(object_frame([row]), version).good.any()
    assert not validate_frame(object_frame([row]), name, labelled=False).good.any()


def test_schema_and_encoder_agree_on_every_pandas_kind_of_null(name):
    version = get_feature_version(name)
    rows = valid_rows(version.columns, 6, seed=9)
    for column in version.features:
        frame = object_frame(rows)
        frame[column.name] = pd.Series([None, pd.NA, *[row[column.name] for row in rows[2:]]], dtype=object)
        encoded, verdict = encode_frame(frame, version), validate_frame(frame, name, labelled=False)
        assert verdict.good.tolist() == encoded.good.tolist() == [column.nullable] * 2 + [True] * 4
