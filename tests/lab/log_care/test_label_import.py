"""Tables of labels: read strictly, refused as a whole, stored in batches that may be repeated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from ml_core.base.errors import DataError, LabelsNotStored
from ml_core.lab.data.table_frames import write_table
from ml_core.lab.log_care.label_import import ImportedLabels, import_labels
from ml_core.serve.log.labels import AnswerLabel, LabelCounts
from tests.serve.log.labelled import NOW, rid, store_in, text_of

SUFFIXES = (".csv", ".parquet")


@pytest.fixture
def store(tmp_path):
    return store_in(tmp_path, map(rid, range(100)))


def table(tmp_path, suffix=".csv", **columns):
    path = tmp_path / f"outcomes{suffix}"
    write_table(pd.DataFrame(columns), path)
    return path


def brought(path, store, **options) -> ImportedLabels:
    given = {"source": "office", "batch_rows": 10, "classes": (0, 1), "clock": lambda: NOW, **options}
    return import_labels(path, store, **given)


def refusal(path, store, **options) -> str:
    with pytest.raises(DataError) as caught:
        brought(path, store, **options)
    assert not store.path.exists()
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_of_labels_is_stored_with_its_times_and_source(tmp_path, store, suffix):
    path = table(
        tmp_path, suffix,
        label=[0, 1], request_id=[text_of(1), text_of(2).upper()], ward=["a", "b"],
        observed_at=["2026-11-01T00:00:00Z", "2026-11-02T01:00:00.5+01:00"],
    )  # fmt: skip
    assert brought(path, store) == ImportedLabels(2, 0, LabelCounts(accepted=2))
    assert store.current([rid(1), rid(2)]) == {
        rid(1): AnswerLabel(rid(1), 0, datetime(2026, 11, 1, tzinfo=UTC)),
        rid(2): AnswerLabel(rid(2), 1, datetime(2026, 11, 2, 0, 0, 0, 500_000, tzinfo=UTC)),
    }
    assert store.history(rid(1))[0].source == "office"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_times_labels_were_seen_when_they_came(tmp_path, store, suffix):
    brought(table(tmp_path, suffix, request_id=[text_of(1)], label=[1]), store)
    assert store.history(rid(1))[0].observed_at == NOW


def test_single_times_may_be_missing(tmp_path, store):
    for suffix, n in ((".csv", 1), (".parquet", 3)):
        times = [None, "2026-11-01T00:00:00Z"]
        path = table(tmp_path, suffix, request_id=[text_of(n), text_of(n + 1)], label=[1, 1], observed_at=times)
        brought(path, store)
        assert store.history(rid(n))[0].observed_at == NOW
        assert store.history(rid(n + 1))[0].observed_at == datetime(2026, 11, 1, tzinfo=UTC)


def test_times_of_parquet_keep_their_zone(tmp_path, store):
    times = pd.to_datetime(["2026-11-01T02:00:00.000000999+02:00", None], utc=True).tz_convert("Europe/Berlin")
    brought(table(tmp_path, ".parquet", request_id=[text_of(1), text_of(2)], label=[1, 0], observed_at=times), store)
    assert store.history(rid(1))[0].observed_at == datetime(2026, 11, 1, tzinfo=UTC)
    assert store.history(rid(2))[0].observed_at == NOW


def test_times_of_parquet_without_a_zone_are_refused(tmp_path, store):
    path = table(tmp_path, ".parquet", request_id=[text_of(1)], label=[1], observed_at=[datetime(2026, 11, 1)])  # noqa: DTZ001
    assert "observed_at must be a time in ISO 8601 with its zone" in refusal(path, store)


def test_cells_of_csv_may_have_spaces_around_them(tmp_path, store):
    (tmp_path / "t.csv").write_text(f"request_id, label\n{text_of(1)}, 1\n".replace(", label", ",label"))
    assert brought(tmp_path / "t.csv", store).counts.accepted == 1


@pytest.mark.parametrize(
    ("classes", "cell", "label"),
    [
        ((0, 1), "1", 1),
        (("0", "1"), "1", "1"),
        (None, "1", 1),
        (None, "-3", -3),
        (None, "01", "01"),
        (None, "yes", "yes"),
    ],
)
def test_texts_of_csv_become_labels_of_the_models_kind(tmp_path, store, classes, cell, label):
    brought(table(tmp_path, request_id=[text_of(1)], label=[cell]), store, classes=classes)
    found = store.current([rid(1)])[rid(1)].label
    assert (found, type(found)) == (label, type(label))


@pytest.mark.parametrize("cell", ["1.0", "true", "01", "1e0", "٣", "2", "", "9" * 5_000])
def test_texts_of_csv_that_only_resemble_a_label_are_refused(tmp_path, store, cell):
    told = refusal(table(tmp_path, request_id=[text_of(1)], label=[cell]), store)
    assert told.startswith("1 of 1 rows cannot be taken, so none was: label ")


@pytest.mark.parametrize("column", [[1.0], [True], ["1"], [None], pd.array([None], dtype="Int64"), [[1]]])
def test_parquet_keeps_its_types_and_they_are_judged_strictly(tmp_path, store, column):
    assert "label" in refusal(table(tmp_path, ".parquet", request_id=[text_of(1)], label=column), store)


def test_labels_of_parquet_may_be_categories_or_nullable_numbers(tmp_path, store):
    for n, column in enumerate((pd.Categorical(["yes"]), pd.array([1], dtype="Int64"), pd.array([1], dtype="int8"))):
        path = table(tmp_path, ".parquet", request_id=[text_of(n)], label=column)
        assert brought(path, store, classes=None).counts.accepted == 1
    assert [store.current([rid(n)])[rid(n)].label for n in range(3)] == ["yes", 1, 1]


def test_bad_rows_are_told_by_number_and_field_and_never_by_value(tmp_path, store):
    n = 30
    ids = [text_of(i) for i in range(n)]
    ids[4] = "s3cret"
    labels = ["1"] * n
    for i in (4, *range(10, 25)):
        labels[i] = "s3cret"
    times = ["2026-11-01T00:00:00Z"] * n
    times[29] = "2027-01-01T00:00:00Z"
    told = refusal(table(tmp_path, request_id=ids, label=labels, observed_at=times), store)
    assert told == (
        "17 of 30 rows cannot be taken, so none was: "
        "request_id must be the request_id of an answer, a UUID of 36 characters (row 6); "
        "label must be one of the model's labels: 0, 1 (rows 6, 12, 13, 14, 15, 16, 17, 18, 19, 20 and 6 more); "
        "observed_at lies in the future (row 31)"
    )


def test_rows_of_parquet_are_counted_from_one(tmp_path, store):
    path = table(tmp_path, ".parquet", request_id=[text_of(1), text_of(2)], label=[1, 7])
    assert refusal(path, store).endswith("(row 2)")


@pytest.mark.parametrize(
    ("columns", "missing"),
    [(["label"], "request_id"), (["request_id"], "label"), (["client_request_id", "label"], "request_id")],
)
def test_a_missing_column_is_named(tmp_path, store, columns, missing):
    assert refusal(table(tmp_path, **{name: ["1"] for name in columns}), store) == f"has no column {missing}"


def test_labels_are_counted_over_all_batches(tmp_path, store):
    n = 35
    path = table(tmp_path, request_id=[text_of(90 + i % 25) for i in range(n)], label=[i // 25 for i in range(n)])
    shares: list[float] = []
    done = brought(path, store, step=shares.append)
    assert done == ImportedLabels(n, 0, LabelCounts(accepted=10, conflict=10, unknown=15))
    assert len(shares) == 4
    assert sum(shares) == pytest.approx(1)


def test_a_second_import_of_the_same_table_stores_nothing(tmp_path, store):
    path = table(tmp_path, request_id=[text_of(i) for i in range(25)], label=[i % 2 for i in range(25)])
    brought(path, store)
    before = store.since(0, 100)
    assert brought(path, store).counts == LabelCounts(duplicate=25)
    assert store.since(0, 100) == before


def test_an_import_that_broke_off_is_finished_by_running_it_again(tmp_path, store):
    path = table(tmp_path, request_id=[text_of(i) for i in range(25)], label=[0] * 25)

    class BreaksOff:
        calls = 0

        def add(self, labels, source):
            self.calls += 1
            if self.calls == 2:
                raise LabelsNotStored("toy.db", "database or disk is full")
            return store.add(labels, source)

    with pytest.raises(LabelsNotStored):
        brought(path, BreaksOff())
    assert len(store.since(0, 100)) == 10
    assert brought(path, store).counts == LabelCounts(accepted=15, duplicate=10)
    assert len(store.since(0, 100)) == 25


def test_a_dry_run_counts_over_the_whole_table_and_stores_nothing(tmp_path, store):
    n = 35
    path = table(tmp_path, request_id=[text_of(90 + i % 25) for i in range(n)], label=[i // 25 for i in range(n)])
    assert brought(path, store, dry_run=True).counts == LabelCounts(accepted=10, conflict=10, unknown=15)
    assert not store.path.exists()
    assert brought(path, store).counts == LabelCounts(accepted=10, conflict=10, unknown=15)
    assert brought(path, store, dry_run=True).counts == brought(path, store).counts


# --- by the callers' own names ------------------------------------------------------------------------------------

NAMED = {"visit-1": [rid(1)], "visit-2": [rid(2), rid(3)], " visit 4": [rid(4)]}


def resolve(names):
    return {name: NAMED[name] for name in names if name in NAMED}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_label_goes_to_every_prediction_that_bears_the_callers_name(tmp_path, store, suffix):
    path = table(tmp_path, suffix, client_request_id=["visit-1", "visit-2", "visit-9"], label=[1, 0, 1])
    done = brought(path, store, resolve=resolve)
    assert done == ImportedLabels(rows=3, unresolved=1, counts=LabelCounts(accepted=3))
    assert {i: label.label for i, label in store.current([rid(n) for n in range(9)]).items()} == {
        rid(1): 1,
        rid(2): 0,
        rid(3): 0,
    }


def test_a_callers_name_is_taken_with_its_spaces(tmp_path, store):
    done = brought(table(tmp_path, client_request_id=[" visit 4", "visit 4"], label=["1", "1"]), store, resolve=resolve)
    assert (done.counts.accepted, done.unresolved) == (1, 1)


def test_the_request_id_comes_before_the_callers_name(tmp_path, store):
    path = table(tmp_path, request_id=[text_of(7)], client_request_id=["visit-1"], label=[1])
    brought(path, store, resolve=resolve)
    assert list(store.current([rid(1), rid(7)])) == [rid(7)]


@pytest.mark.parametrize("name", ["", "x" * 201, "a\tb"])
def test_a_callers_name_that_can_be_none_is_refused(tmp_path, store, name):
    path = table(tmp_path, client_request_id=[name], label=[1])
    assert "client_request_id" in refusal(path, store, resolve=resolve)


def test_a_table_about_nobody_stores_nothing(tmp_path, store):
    path = table(tmp_path, client_request_id=["visit-9"], label=[1])
    assert brought(path, store, resolve=resolve) == ImportedLabels(1, 1, LabelCounts())
    assert not store.path.exists()


def test_a_time_ahead_of_our_clock_by_minutes_is_taken(tmp_path, store):
    path = table(tmp_path, request_id=[text_of(1)], label=[1], observed_at=[(NOW + timedelta(minutes=4)).isoformat()])
    assert brought(path, store).counts.accepted == 1
