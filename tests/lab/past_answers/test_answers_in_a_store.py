"""Rows in an object store, and answers there: read by ranges, written whole, never mixed; with a store in memory."""

from __future__ import annotations

import builtins
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import DataError
from ml_core.lab.batch import object_files
from ml_core.lab.batch.object_files import ObjectFile, ObjectFolder
from ml_core.lab.batch.table_places import find_tables
from ml_core.lab.drift.drift_table import DriftTable
from ml_core.lab.past_answers.batch_scoring import score_table
from ml_core.lab.past_answers.folder_scoring import score_folder
from tests.lab.past_answers.scoring import cohort_records, loaded, written
from tests.lab.past_answers.test_folder_scoring import SMALL, Interrupted, content, rows_in, stop_after, tables_in
from tests.oracles import cluster_packages


@pytest.fixture(scope="module")
def model():
    return loaded()


@pytest.fixture
def bucket(monkeypatch):
    """The folder s3://bucket of a store in memory."""
    cluster_packages()
    from obstore.store import MemoryStore

    stores = {}
    monkeypatch.setattr(object_files, "_bucket", lambda root: stores.setdefault(root, MemoryStore()))
    return ObjectFolder("s3://bucket")


@pytest.fixture
def stored(tmp_path, bucket):
    """The same tables in a folder and in the bucket."""
    local = tables_in(tmp_path / "in")
    for name, place in zip(local.names, local.places, strict=True):
        bucket.put(f"in/{name}", place)
    bucket.put("in/_SUCCESS", b"")
    return local, find_tables("s3://bucket/in")


def refusal(*arguments, **options):
    with pytest.raises(DataError) as caught:
        score_folder(*arguments, **options)
    return str(caught.value)


def fetched(bucket, folder):
    """The objects below a name, by what follows it."""
    return {name.removeprefix(f"{folder}/"): bucket.read(name) for name, _ in bucket.files() if name.startswith(folder)}


# --- objects ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(content=st.binary(max_size=200), steps=st.lists(st.tuples(st.integers(0, 220), st.integers(-1, 90)), max_size=8))
def test_an_object_is_read_as_a_file_is(content, steps):
    cluster_packages()
    from obstore.store import MemoryStore

    store = MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_files, "_bucket", lambda root: store)
        folder = ObjectFolder("s3://bucket/a")
        folder.put("x.csv", content)
        ((name, found),) = folder.files()
        assert (name, found.address, found.size) == ("x.csv", "s3://bucket/a/x.csv", len(content))
        ours, theirs = found.open(), io.BytesIO(content)
        for place, size in steps:
            assert ours.seek(place) == theirs.seek(place)
            assert ours.read(size) == theirs.read(size)
        assert (ours.seek(0, io.SEEK_END), ours.seek(0), ours.read()) == (len(content), 0, content)


def test_an_object_that_was_replaced_is_not_read_in_place_of_the_one_that_was_found(bucket):
    bucket.put("x.csv", b"old" * 10)
    found = ObjectFolder("s3://bucket/x.csv").itself()
    bucket.put("x.csv", b"new" * 10)
    with pytest.raises(DataError, match=r"s3://bucket/x\.csv: was changed while it was read"):
        found.open().read()


def test_an_address_is_an_object_or_what_lies_below_it(bucket):
    for name in ("visits.parquet", "all.parquet/part-1.parquet", "all.parquet/part-0.parquet", "all.parquet2/x.csv"):
        bucket.put(name, b"x")
    assert not find_tables("s3://bucket/visits.parquet").is_folder
    assert find_tables("s3://bucket/all.parquet").names == ("part-0.parquet", "part-1.parquet")
    assert find_tables("s3://bucket/all.parquet/").names == ("part-0.parquet", "part-1.parquet")
    assert len(find_tables("s3://bucket").names) == 4
    with pytest.raises(DataError, match=r"s3://bucket/none: there is no such object, and none below that name"):
        find_tables("s3://bucket/none")


def test_a_store_that_fails_is_told_in_one_line(bucket, monkeypatch):
    monkeypatch.setattr(object_files, "_obstore", _failing)
    with pytest.raises(DataError, match=r"^s3://bucket/in: cannot be read: Generic S3 error: no route$"):
        find_tables("s3://bucket/in")


def _failing():
    from obstore.exceptions import GenericError

    class Fails:
        def __getattr__(self, name):
            def call(*_arguments, **_options):
                raise GenericError("Generic S3 error: no route\n\nDebug source:\nsecret")

            return call

    return Fails()


def test_without_the_extra_it_is_said_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *more, **named):
        if name.partition(".")[0] == "obstore":
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    object_files._bucket.cache_clear()
    with pytest.raises(DataError, match=r"install surety-bundle\[cluster\]"):
        find_tables("s3://bucket/in")


# --- scoring ------------------------------------------------------------------------------------------------------


def test_rows_of_a_store_get_the_answers_of_local_rows(tmp_path, model, stored):
    local, far = stored
    assert far.names == local.names
    score_folder(local, tmp_path / "near", model, workers=SMALL)
    score_folder(far, tmp_path / "far", model, workers=SMALL)
    assert rows_in(tmp_path / "far") == rows_in(tmp_path / "near")
    score_table(local.places[2], tmp_path / "near.csv", model)
    score_table(far.places[2], tmp_path / "far.csv", model)
    assert (tmp_path / "far.csv").read_bytes() == (tmp_path / "near.csv").read_bytes()


def test_answers_in_a_store_are_those_in_a_folder(tmp_path, model, bucket, stored):
    local, _ = stored
    score_folder(local, tmp_path / "out", model, workers=SMALL)
    result = score_folder(local, "s3://bucket/out", model, workers=SMALL)
    assert fetched(bucket, "out") == content(tmp_path / "out")
    assert result.out == "s3://bucket/out"


@pytest.mark.parametrize("parts", range(7))
def test_interrupted_in_any_part_it_goes_on_to_the_same_objects(tmp_path, model, bucket, stored, parts):
    _, far = stored
    score_folder(far, "s3://bucket/whole", model, workers=SMALL)
    with pytest.raises(Interrupted):
        score_folder(far, "s3://bucket/out", model, workers=SMALL, advance=stop_after(parts))
    assert "_summary.json" not in fetched(bucket, "out")
    result = score_folder(far, "s3://bucket/out", model, workers=SMALL)
    assert result.resumed_rows == sum([70, 70, 10, 20, 70, 70, 41][:parts])
    assert fetched(bucket, "out") == fetched(bucket, "whole")


def test_another_run_is_not_mixed_in(model, bucket, stored):
    _, far = stored
    with pytest.raises(Interrupted):
        score_folder(far, "s3://bucket/out", model, workers=SMALL, advance=stop_after(2))
    bucket.put("in/zz.parquet", bucket.read("in/z.parquet"))
    told = refusal(find_tables("s3://bucket/in"), "s3://bucket/out", model, workers=SMALL)
    assert "was begun with another input" in told
    result = score_folder(find_tables("s3://bucket/in"), "s3://bucket/out", model, workers=SMALL, restart=True)
    assert (result.resumed_rows, result.rows) == (0, 351 + 181)
    parts = [each["name"] for each in json.loads(bucket.read("out/_summary.json"))["parts"]]
    assert sorted(fetched(bucket, "out")) == ["_summary.json", *parts]


def test_a_run_that_was_taken_over_writes_no_more(model, bucket, stored):
    _, far = stored

    def restarted(_: float) -> None:
        if bucket.read("out/_plan.json") and not taken:
            taken.append(True)
            score_folder(far, "s3://bucket/out", model, level=0.8, workers=SMALL, restart=True)
            taken.append(fetched(bucket, "out"))

    taken = []
    assert "was taken over by another run" in refusal(far, "s3://bucket/out", model, workers=SMALL, advance=restarted)
    assert fetched(bucket, "out") == taken[1]


def test_answers_that_are_there_are_kept_unless_forced_and_other_objects_always(model, bucket, stored):
    _, far = stored
    score_folder(far, "s3://bucket/out", model, workers=SMALL)
    before = fetched(bucket, "out")
    assert "--force" in refusal(far, "s3://bucket/out", model, level=0.8, workers=SMALL)
    assert fetched(bucket, "out") == before
    score_folder(far, "s3://bucket/out", model, level=0.8, workers=SMALL, force=True)
    assert json.loads(bucket.read("out/_summary.json"))["facts"]["confidence_level"] == "0.8"
    assert len(fetched(bucket, "out")) == len(before)
    bucket.put("out/precious.txt", b"precious")
    assert "holds something else than answers (precious.txt)" in refusal(far, "s3://bucket/out", model, force=True)


@pytest.mark.parametrize("out", ["s3://bucket/in", "s3://bucket/in/answers", "s3://bucket"])
def test_answers_never_lie_among_the_rows_or_around_them(model, stored, out):
    assert "is the input as well, or lies in it" in refusal(stored[1], out, model)


def test_an_object_that_changes_meanwhile_is_refused(model, bucket, stored):
    def change(_: float) -> None:
        bucket.put("in/z.parquet", bucket.read("in/2025/a.parquet"))

    told = refusal(stored[1], "s3://bucket/out", model, workers=SMALL, advance=change)
    assert "s3://bucket/in/z.parquet: was changed while it was read" in told
    assert fetched(bucket, "out") == {}


# --- other commands -----------------------------------------------------------------------------------------------


def test_a_drift_check_reads_a_store(tmp_path, bucket):
    records = cohort_records(100)
    path = written(tmp_path / "now.parquet", records)
    bucket.put("now/1.parquet", path)
    bucket.put("now/2.csv", written(tmp_path / "now.csv", records))
    table = DriftTable("s3://bucket/now")
    assert table.rows == 200
    frame = table.frame(["age", "bmi"])
    near = pq.read_table(path).to_pandas()
    for half in (frame[:100], frame[100:]):
        np.testing.assert_array_equal(half["bmi"], near["bmi"])


def test_an_object_travels_to_other_processes(bucket):
    import pickle

    bucket.put("x.csv", b"abc")
    found = ObjectFolder("s3://bucket/x.csv").itself()
    assert pickle.loads(pickle.dumps(found)) == found
    assert isinstance(found, ObjectFile)
