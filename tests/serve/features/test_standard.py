"""The standard transform: every cell of the matrix follows from the table; what a table may not ask for is told."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.features.columns import Column
from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.standard import StandardTransform, standard_fault, with_transforms
from ml_core.serve.features.versions import get_feature_version
from tests.own_versions import STANDARD

NAN = float("nan")
ROW = {
    "age": 71, "stays": 3, "lactate": 2.5, "sex": "M", "triage": 4, "band": "[30-60)", "site": "only one", "urgent": True, "on_oxygen": False,
    "seen_on": "2026-03-01T23:59:59.999999+01:00", "born": "1952-02-29", "note": "calm",
}  # fmt: skip
GOLDEN = {
    "age": 71, "age.missing": 0, "stays": 3, "lactate": 2.5, "sex=F": 0, "sex=M": 1, "triage": 3, "band=<30": 0,
    "band=[30-60)": 1, "band=60+": 0, "band.missing": 0, "site=only one": 1, "urgent": 1, "on_oxygen": 0, "on_oxygen.missing": 0,
    "seen_on.year": 2026, "seen_on.month": 3, "seen_on.day": 1, "seen_on.weekday": 6, "seen_on.hour": 22,
    "seen_on.missing": 0, "born.year": 1952, "born.month": 2, "born.day": 29, "born.weekday": 4, "born.hour": 0,
    "note.missing": 0,
}  # fmt: skip
EMPTY = {"stays": 0, "lactate": 0, "urgent": False, "born": "1900-01-01"}
GOLDEN_EMPTY = GOLDEN | {
    "age": NAN, "age.missing": 1, "stays": 0, "lactate": 0, "sex=M": 0, "triage": NAN, "band=[30-60)": 0,
    "band.missing": 1, "site=only one": 0, "urgent": 0, "on_oxygen": NAN, "on_oxygen.missing": 1, "seen_on.missing": 1, "note.missing": 1,
    **{f"seen_on.{part}": NAN for part in ("year", "month", "day", "weekday", "hour")},
    "born.year": 1900, "born.month": 1, "born.day": 1, "born.weekday": 0,
}  # fmt: skip


@pytest.mark.parametrize(("row", "golden"), [(ROW, GOLDEN), (EMPTY, GOLDEN_EMPTY)], ids=["full", "empty"])
def test_the_matrix_of_a_record_is_known_by_hand(row: dict[str, object], golden: dict[str, float]) -> None:
    version = get_feature_version(STANDARD)
    reader = RecordReader(version.columns)
    (found,) = version.transform(reader.arrays([reader.read(row)]))
    assert version.feature_names == tuple(golden)
    np.testing.assert_array_equal(found, np.array(list(golden.values()), dtype=np.float32))


@given(st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31, 23, 59, 59, 999_999)), st.integers(-720, 720))  # noqa: DTZ001
def test_parts_of_a_date_are_those_of_the_calendar_in_utc(moment: datetime, offset: int) -> None:
    told = moment.replace(tzinfo=UTC) - timedelta(minutes=offset)
    if not 1900 <= told.year <= 2199:
        return
    columns = with_transforms((Column("at", "datetime", "When."),))
    reader = RecordReader(columns)
    zone = f"{'+' if offset >= 0 else '-'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    (found,) = StandardTransform(columns)(reader.arrays([reader.read({"at": f"{moment.isoformat()}{zone}"})]))
    assert found.tolist() == [told.year, told.month, told.day, told.weekday(), told.hour]


def test_numbers_beyond_float32_become_its_largest() -> None:
    columns = with_transforms((Column("x", "float", "X."),))
    found = StandardTransform(columns)({"x": np.array([1e300, -1e300, 0.1, NAN])})
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(found[:, 0], np.array([largest, -largest, 0.1, NAN], dtype=np.float32))


def test_each_type_has_a_usual_transform() -> None:
    columns = with_transforms((
        Column("i", "int", ""),
        Column("f", "float", "", missing_flag=True, nullable=True),
        Column("b", "bool", ""),
        Column("few", "category", "", levels=tuple(range(20))),
        Column("many", "category", "", levels=tuple(range(21))),
        Column("d", "datetime", ""),
        Column("told", "category", "", levels=tuple(range(21)), transform="one_hot"),
        Column("id", "int", "", role="id"),
    ))  # fmt: skip
    assert [c.transform for c in columns] == [
        "as_is", "as_is", "as_is", "one_hot", "ordinal", "date_parts", "one_hot", None,
    ]  # fmt: skip
    assert with_transforms(columns) == columns


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            [Column("x", "float", "", transform="one_hot")],
            "x.transform cannot be one_hot for the dtype float: as_is, none can",
        ),
        ([Column("x", "bool", "", transform="ordinal")], "x.transform cannot be ordinal for the dtype bool"),
        (
            [Column("x", "category", "", levels=(1, 2), transform="as_is")],
            "x.transform cannot be as_is for the dtype category",
        ),
        (
            [Column("x", "datetime", "", transform="as_is")],
            "x.transform cannot be as_is for the dtype datetime: date_parts",
        ),
        ([Column("x", "text", "", examples=("a",))], "x.dtype is text, which is no number: make it a category"),
        ([Column("x", "float", "", missing_flag=True)], "x.missing_flag needs nullable: true"),
        (
            [Column("x", "float", "", transform="none", nullable=True)],
            "x.transform is none, so it would be used for nothing",
        ),
        (
            [Column("x", "float", ""), Column("i", "int", "", role="id", transform="as_is")],
            "i.transform and missing_flag are",
        ),
        (
            [Column("x", "category", "", levels=("a", "b")), Column("x=a", "float", "")],
            "two columns of the matrix would be named 'x=a'",
        ),
        ([Column("x", "float", "", missing_flag=True, nullable=True), Column("y", "int", "")], None),
    ],
)
def test_what_cannot_be_made_is_told_by_column_and_key(columns: list[Column], words: str | None) -> None:
    found = standard_fault(with_transforms(columns))
    assert found is None if words is None else str(found).startswith(words)


def test_every_column_of_the_matrix_has_a_sentence() -> None:
    transform = StandardTransform(get_feature_version(STANDARD).columns)
    assert len(transform.docs) == len(transform.names) == len(set(transform.names))
    assert all(transform.docs)
