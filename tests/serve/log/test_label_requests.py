"""Bodies of /labels: what is taken, and every wrong field named without its value."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.errors import InvalidRequest
from ml_core.serve.log.label_requests import CLOCK_SKEW, parse_labels
from ml_core.serve.log.labels import AnswerLabel
from tests.serve.log.labelled import NOW, rid, text_of


def row(**changes: object) -> dict[str, object]:
    kept = {"request_id": text_of(1), "label": 1, "observed_at": "2026-11-20T08:00:00Z", **changes}
    return {name: value for name, value in kept.items() if value is not ...}


def parsed(*rows: object, most: int = 10, classes: object = (0, 1)) -> list[AnswerLabel]:
    return parse_labels({"labels": list(rows)}, most, classes, lambda: NOW)


def problems(body: object, most: int = 10, classes: object = (0, 1)) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse_labels(body, most, classes, lambda: NOW)
    return {p.field: p.problem for p in caught.value.fields}


def problem_of(**changes: object) -> dict[str, str]:
    return problems({"labels": [row(**changes)]})


def test_a_body_gives_its_labels_in_order():
    assert parsed(row(), row(request_id=text_of(2), label=0, observed_at=...)) == [
        AnswerLabel(rid(1), 1, datetime(2026, 11, 20, 8, tzinfo=UTC)),
        AnswerLabel(rid(2), 0, None),
    ]


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title])
def test_ids_are_read_in_either_case(change):
    assert parsed(row(request_id=change(text_of(1))))[0].request_id == rid(1)


@pytest.mark.parametrize(
    "value",
    [
        "", "7", 7, True, [], {}, "{" + text_of(1) + "}", "urn:uuid:" + text_of(1), text_of(1).replace("-", ""),
        text_of(1) + "\n", " " + text_of(1), text_of(1)[:-1], text_of(1)[:-1] + "g", text_of(1)[:-1] + "٣",
        text_of(1).replace("-", "_"),
    ],
)  # fmt: skip
def test_only_the_written_form_of_an_id_is_one(value):
    assert problem_of(request_id=value) == {
        "labels[0].request_id": "must be the request_id of an answer, a UUID of 36 characters"
    }


@given(st.uuids())
def test_every_id_is_read_back(value: uuid.UUID):
    assert parsed(row(request_id=str(value)))[0].request_id == value.bytes


@pytest.mark.parametrize("value", [2, -1, 1.0, 0.0, True, False, "1", "", [], {}, [1], 1e300, 2**64])
def test_a_label_must_be_one_of_the_models_and_of_its_kind(value):
    assert problem_of(label=value) == {"labels[0].label": "must be one of the model's labels: 0, 1"}


def test_labels_that_are_texts_are_shown_as_texts():
    assert parsed(row(label="no"), classes=("no", "yes"))[0].label == "no"
    assert problems({"labels": [row(label=1)]}, classes=("0", "1")) == {
        "labels[0].label": 'must be one of the model\'s labels: "0", "1"'
    }


def test_of_many_labels_a_few_are_shown():
    shown = problems({"labels": [row(label=-1)]}, classes=tuple(range(50)))["labels[0].label"]
    assert shown.endswith("18, 19 and 30 more")


@pytest.mark.parametrize("value", [0, 7, -(2**63), 2**63 - 1, "yes", "später", "x" * 200])
def test_where_the_models_labels_are_not_known_numbers_and_short_texts_are_taken(value):
    assert parsed(row(label=value), classes=None)[0].label == value


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 1.0, True, "", "x" * 201, "a\nb", "a\x00", "\ud800", [], {}])
def test_other_values_are_never_labels(value):
    assert set(problems({"labels": [row(label=value)]}, classes=None)) == {"labels[0].label"}


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20T08:00:00Z", datetime(2026, 11, 20, 8, tzinfo=UTC)),
        ("2026-11-20T10:00:00.000001+02:00", datetime(2026, 11, 20, 8, 0, 0, 1, tzinfo=UTC)),
        ("2026-11-20T02:30-05:30", datetime(2026, 11, 20, 8, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_times_of_any_zone_are_read(text, moment):
    found = parsed(row(observed_at=text))[0].observed_at
    assert (found, found.utcoffset()) == (moment, timedelta(0))


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-20T08:00:00",
        "2026-11-20",
        "yesterday",
        "",
        1_700_000_000,
        1.5,
        True,
        [],
        {},
        "2026-02-30T00:00Z",
        "1969-12-31T23:59:59Z",
    ],
)
def test_a_time_needs_its_date_its_hour_and_its_zone(value):
    assert problem_of(observed_at=value) == {
        "labels[0].observed_at": "must be a time in ISO 8601 with its zone, such as 2026-11-23T10:15:30Z"
    }


@pytest.mark.parametrize("text", ["1970-01-01T00:00:00+00:01", "1970-01-01T13:59:59.999999+14:00"])
def test_a_time_before_1970_is_none(text):
    assert problem_of(observed_at=text) == {"labels[0].observed_at": "lies before 1970"}


def test_a_time_may_be_ahead_by_five_minutes_and_no_more():
    assert timedelta(minutes=5) == CLOCK_SKEW
    last = NOW + CLOCK_SKEW
    assert parsed(row(observed_at=last.isoformat()))[0].observed_at == last
    later = (last + timedelta(microseconds=1)).isoformat()
    assert problem_of(observed_at=later) == {"labels[0].observed_at": "lies in the future"}
    assert problem_of(observed_at="2199-12-31T23:59:59-14:00") == {"labels[0].observed_at": "lies in the future"}


def test_no_time_and_null_are_the_same():
    assert [label.observed_at for label in parsed(row(observed_at=...), row(observed_at=None))] == [None, None]


def test_every_wrong_field_of_every_row_is_named_and_none_of_the_values():
    body = {
        "labels": [
            row(),
            row(request_id="s3cret", label="s3cret", observed_at="s3cret"),
            row(label=...),
            row(request_id=None, colour="s3cret"),
            "s3cret",
        ]
    }
    found = problems(body)
    assert found == {
        "labels[1].request_id": "must be the request_id of an answer, a UUID of 36 characters",
        "labels[1].label": "must be one of the model's labels: 0, 1",
        "labels[1].observed_at": "must be a time in ISO 8601 with its zone, such as 2026-11-23T10:15:30Z",
        "labels[2].label": "is missing",
        "labels[3].colour": "is not known here",
        "labels[3].request_id": "is missing",
        "labels[4]": "must be an object with request_id and label",
    }


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (None, "body"), ([], "body"), ("labels", "body"), (1, "body"),
        ({}, "labels"), ({"labels": []}, "labels"), ({"labels": {}}, "labels"), ({"labels": None}, "labels"),
        ({"labels": [row()], "source": "me"}, "source"),
        ({"label": [row()]}, "label"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_list_of_labels_is_refused(body, field):
    assert set(problems(body)) == {field}


def test_as_many_labels_as_allowed_are_taken_and_not_one_more():
    assert len(parsed(*[row()] * 3, most=3)) == 3
    told = problems({"labels": [row()] * 4}, most=3)["labels"]
    assert told == "has 4 labels, more than the 3 allowed: split it, or use `surety labels import`"


def test_a_flood_of_unknown_names_is_cut_short():
    flood = {f"x{i:03}": 1 for i in range(100)}
    assert len(problems({"labels": [row(**flood)]})) == 20
    assert len(problems(flood)) == 20


@pytest.mark.parametrize("name", ["Anna Müller", "1985-04-12", "x" * 500])
def test_what_does_not_look_like_the_name_of_a_field_is_not_repeated(name):
    assert list(problems({"labels": [row(**{name: 1})]})) == ["labels[0].(a field)"]
    assert list(problems({name: 1})) == ["(a field)"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.just(text_of(1)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
rows = st.dictionaries(st.sampled_from(["request_id", "label", "observed_at", "x"]), values, max_size=4) | values


@given(
    values | st.fixed_dictionaries({"labels": st.lists(rows, max_size=4)}), st.sampled_from([None, (0, 1), ("a", "b")])
)
def test_whatever_comes_is_read_or_refused_by_field(body, classes):
    labels, refused = [], ()
    try:
        labels = parse_labels(body, 3, classes, lambda: NOW)
    except InvalidRequest as error:
        refused = error.fields
    assert labels or refused
    assert all(type(label.label) in (int, str) for label in labels)
    assert all(classes is None or label.label in classes for label in labels)
