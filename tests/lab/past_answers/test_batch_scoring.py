"""A scored table says of every row what the service says, in the same bits, however it was cut up and interrupted."""

from __future__ import annotations

import io
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_core.base.errors import BadModelOutput, DataError, InvalidRequest
from ml_core.lab.past_answers.batch_scoring import PART_ROWS, score_table
from ml_core.serve.model.prediction_sets import HIGHEST_LEVEL, LOWEST_LEVEL
from tests.lab.past_answers.scoring import (
    FOLDERS,
    answers_of_service,
    cohort_records,
    drawn_records,
    loaded,
    scored_rows,
    written,
)
from tests.serve.answering.builders import CountingRunner, EchoRunner

BAD = [
    {"age": 130, "glucose": 100.0, "bmi": 20.0, "bp_systolic": 120.0},
    {"age": 45.5, "glucose": None, "bmi": 200.0, "bp_systolic": 120.0},
    {"age": None, "glucose": "x", "bmi": 20.0, "bp_systolic": "NaN"},
]


class Interrupted(BaseException):
    """What a test raises in the middle of a run."""


def stop_after(parts: int):
    """Tells of progress until that many parts are finished, then interrupts."""
    told = iter(range(parts + 1))

    def advance(_: float) -> None:
        if next(told, None) == parts:
            raise Interrupted

    return advance


@pytest.fixture(scope="module")
def model():
    return loaded()


@pytest.fixture
def table(tmp_path):
    return written(tmp_path / "in.parquet", cohort_records(400))


def refusal(*arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        score_table(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- the same answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_every_field_of_every_row_is_the_services(tmp_path, kind, suffix):
    model = loaded(kind)
    records = drawn_records(model, 120) if kind == "version 2" else cohort_records(300) + drawn_records(model, 20)
    source = written(tmp_path / f"in.{suffix}", records)
    result = score_table(source, tmp_path / "out.parquet", model, block_rows=64)
    expected = [{"row": i, **answer} for i, answer in enumerate(answers_of_service(model, records))]
    assert scored_rows(tmp_path / "out.parquet") == expected
    assert (result.rows, result.refused) == (len(records), 0)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_a_level_asked_for_is_the_services_level(tmp_path, model, level):
    records = cohort_records(200)
    score_table(written(tmp_path / "in.csv", records), tmp_path / "out.csv", model, level=level)
    expected = answers_of_service(model, records, Decimal(repr(level)))
    assert scored_rows(tmp_path / "out.csv") == [{"row": i, **answer} for i, answer in enumerate(expected)]


def test_levels_end_where_requests_end(tmp_path, model, table):
    for level in (float(LOWEST_LEVEL) - 1e-9, float(HIGHEST_LEVEL) + 1e-9):
        with pytest.raises(InvalidRequest):
            score_table(table, tmp_path / "out.csv", model, level=level)
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]


def test_csv_and_parquet_hold_the_same(tmp_path, model, table):
    for name in ("out.csv", "out.parquet"):
        score_table(table, tmp_path / name, model)
    assert scored_rows(tmp_path / "out.csv") == scored_rows(tmp_path / "out.parquet")


def test_bad_rows_get_the_services_words_and_no_answer(tmp_path, model):
    good = cohort_records(40)
    records = [*good[:5], *BAD, *good[5:], *drawn_records(model, 3)]
    score_table(written(tmp_path / "in.csv", records), tmp_path / "out.parquet", model, block_rows=7)
    rows = scored_rows(tmp_path / "out.parquet")
    expected = answers_of_service(model, records)
    assert [row["error"] for row in rows] == [answer["error"] for answer in expected]
    for row, answer in zip(rows, expected, strict=True):
        if answer["error"] is None:
            assert answer.items() <= row.items()
        else:
            given = {name for name, value in row.items() if value is not None}
            assert given == {"row", "error", "confidence_level", "model_version", "model_hash"}


def test_a_table_of_bad_rows_alone_is_told_row_by_row(tmp_path, model):
    result = score_table(written(tmp_path / "in.csv", BAD), tmp_path / "out.csv", model)
    assert (result.rows, result.refused) == (3, 3)
    assert [row["prediction"] for row in scored_rows(tmp_path / "out.csv")] == [None] * 3


def test_the_size_of_blocks_changes_no_answer(tmp_path, model, table):
    for rows in (1, 7, 400, PART_ROWS):
        score_table(table, tmp_path / f"{rows}.csv", model, block_rows=rows)
    assert len({(tmp_path / f"{rows}.csv").read_bytes() for rows in (1, 7, 400, PART_ROWS)}) == 1


def test_metadata_and_result_name_the_services_lineage(tmp_path, model, table):
    result = score_table(table, tmp_path / "out.parquet", model)
    stored = {k.decode(): v.decode() for k, v in pq.read_schema(tmp_path / "out.parquet").metadata.items()}
    assert result.facts.items() <= stored.items()
    bundle = model.predictor.bundle
    assert result.facts["lineage.model_hash"] == bundle.model_hash
    assert result.facts["lineage.calibration_id"] == bundle.calibration.calibration_id
    assert (result.facts["lineage.feature_version"], result.facts["guarantee"]) == ("v1", "class_conditional")


def test_a_model_that_gives_no_probabilities_is_not_covered_up(tmp_path, table):
    broken = loaded(scorer=EchoRunner())  # it takes the age for a probability
    with pytest.raises(BadModelOutput):
        score_table(table, tmp_path / "out.csv", broken)
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]


# --- whose row it is ----------------------------------------------------------------------------------------------


def test_ids_are_carried_as_they_are_and_the_outcome_is_not_looked_at(tmp_path, model):
    moments = pa.array([datetime(2026, 1, 31, 10, tzinfo=UTC)] * 2 + [None], pa.timestamp("s", "UTC"))
    patients = pa.array(["P1", "not a patient id!", None]).dictionary_encode()
    columns = {"readmission_30d": [1, 0, 7], "patient_id": patients, "encounter_date": moments, "ward": ["a", "b", "c"]}
    records = pa.Table.from_pylist(cohort_records(3))
    for name, values in columns.items():
        records = records.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
    pq.write_table(records, tmp_path / "in.parquet")
    result = score_table(tmp_path / "in.parquet", tmp_path / "out.parquet", model)
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column_names[:4] == ["row", "patient_id", "encounter_date", "prediction"]
    assert out.column("patient_id").to_pylist() == patients.to_pylist()
    assert out.column("encounter_date").to_pylist() == moments.to_pylist()
    assert set(result.ignored) == {"readmission_30d", "ward"}
    (refused,) = [row for row in out.to_pylist() if row["error"]]
    assert refused["error"].startswith("patient_id: ")


def test_ids_of_csv_are_texts_and_keep_their_zeros(tmp_path):
    model = loaded("version 2")
    records = [{"encounter_id": text, **r} for text, r in zip(["007", "8", ""], drawn_records(model, 3), strict=True)]
    score_table(written(tmp_path / "in.csv", records), tmp_path / "out.parquet", model)
    assert pq.read_table(tmp_path / "out.parquet").column("encounter_id").to_pylist() == ["007", "8", None]


# --- going on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("source_suffix", ["csv", "parquet"])
def test_interrupted_after_any_part_it_goes_on_to_the_same_bytes(tmp_path, model, source_suffix, suffix):
    source = written(tmp_path / f"in.{source_suffix}", [*cohort_records(90), BAD[0]])
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    score_table(source, whole, model, block_rows=20)
    for parts in range(6):
        with pytest.raises(Interrupted):
            score_table(source, out, model, block_rows=20, advance=stop_after(parts))
        assert not out.exists()
        result = score_table(source, out, model, block_rows=20)
        assert out.read_bytes() == whole.read_bytes()
        assert (result.rows, result.refused, result.resumed_rows) == (91, 1, min(20 * parts, 91))
        assert not (tmp_path / f"out.{suffix}.parts").exists()
        out.unlink()


@pytest.mark.parametrize("is_moved_away", [False, True])
def test_interrupted_when_the_output_is_in_its_place_it_ends_the_run(
    tmp_path, monkeypatch, model, table, is_moved_away
):
    out, real = tmp_path / "out.csv", Path.replace

    def replace(path, target):
        real(path, target)
        if target == out:
            raise Interrupted

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Interrupted):
        score_table(table, out, model, block_rows=30)
    monkeypatch.undo()
    whole = out.read_bytes()
    if is_moved_away:
        out.unlink()
    assert score_table(table, out, model, block_rows=30).resumed_rows == 400
    assert out.read_bytes() == whole
    assert not (tmp_path / "out.csv.parts").exists()


def test_finished_rows_are_not_scored_again(tmp_path, model, table):
    with pytest.raises(Interrupted):
        score_table(table, tmp_path / "out.csv", model, block_rows=30, advance=stop_after(4))
    counting = CountingRunner(model.predictor.scorer)
    score_table(table, tmp_path / "out.csv", loaded(scorer=counting), block_rows=30)
    assert sum(counting.calls) == 400 - 4 * 30
    assert len(scored_rows(tmp_path / "out.csv")) == 400


def test_progress_adds_up_to_the_whole(tmp_path, model, table):
    with pytest.raises(Interrupted):
        score_table(table, tmp_path / "out.csv", model, block_rows=30, advance=stop_after(4))
    shares: list[float] = []
    score_table(table, tmp_path / "out.csv", model, block_rows=30, advance=shares.append)
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] == pytest.approx(120 / 400)


def test_a_stream_is_known_again(tmp_path, model):
    content = written(tmp_path / "in.csv", cohort_records(90)).read_bytes()
    with pytest.raises(Interrupted):
        score_table(io.BytesIO(content), tmp_path / "out.csv", model, block_rows=20, advance=stop_after(2))
    assert "another input" in refusal(io.BytesIO(content[:-20]), tmp_path / "out.csv", model, block_rows=20)
    assert score_table(io.BytesIO(content), tmp_path / "out.csv", model, block_rows=20).resumed_rows == 40
    score_table(tmp_path / "in.csv", tmp_path / "whole.csv", model)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": 399}, "another input"),
        ({"kind": "labels in words"}, "another model"),
        ({"level": 0.95}, "another confidence level"),
        ({"on_error": "reject"}, "another --on-error"),
        ({"block_rows": 31}, "another --block-rows"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_run_is_not_mixed_in(tmp_path, model, table, change, words):
    with pytest.raises(Interrupted):
        score_table(table, tmp_path / "out.csv", model, block_rows=30, advance=stop_after(2))
    if "source" in change:
        written(table, cohort_records(change["source"]))
    other = loaded(change["kind"]) if "kind" in change else model
    options = {"block_rows": 30, **{k: v for k, v in change.items() if k not in ("source", "kind")}}
    told = refusal(table, tmp_path / "out.csv", other, **options)
    assert words in told
    assert "--restart" in told
    result = score_table(table, tmp_path / "out.csv", other, restart=True, **options)
    assert result.resumed_rows == 0
    score_table(table, tmp_path / "fresh.csv", other, **options)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_a_damaged_part_is_said_and_restart_helps(tmp_path, model, table):
    with pytest.raises(Interrupted):
        score_table(table, tmp_path / "out.csv", model, block_rows=30, advance=stop_after(2))
    part = tmp_path / "out.csv.parts" / "part-000001.arrow"
    part.write_bytes(part.read_bytes()[:100])
    told = refusal(table, tmp_path / "out.csv", model, block_rows=30)
    assert "part-000001.arrow: is damaged" in told
    assert score_table(table, tmp_path / "out.csv", model, block_rows=30, restart=True).rows == 400


def test_an_input_that_changes_meanwhile_is_refused(tmp_path, model, table):
    def change(share: float) -> None:
        if share:
            written(table, cohort_records(350))

    assert "was changed while it was read" in refusal(table, tmp_path / "out.csv", model, block_rows=30, advance=change)
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]


def test_two_runs_on_one_output_do_not_meet(tmp_path, model, table):
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: float) -> None:
        begun.set()
        assert go_on.wait(30)

    first = threading.Thread(
        target=score_table, args=(table, tmp_path / "out.csv", model), kwargs={"advance": wait}, daemon=True
    )
    first.start()
    try:
        assert begun.wait(30)
        for restart in (False, True):
            told = refusal(table, tmp_path / "out.csv", model, restart=restart)
            assert "another run is writing it" in told
    finally:
        go_on.set()
        first.join(30)
    assert len(scored_rows(tmp_path / "out.csv")) == 400


# --- places -------------------------------------------------------------------------------------------------------


def test_an_output_that_is_there_is_kept_unless_forced(tmp_path, model, table):
    out = tmp_path / "out.csv"
    out.write_text("precious")
    assert "--force" in refusal(table, out, model)
    assert out.read_text() == "precious"
    assert score_table(table, out, model, force=True).rows == 400
    assert len(scored_rows(out)) == 400
    assert not (tmp_path / "out.csv.parts").exists()


def test_an_output_that_appears_meanwhile_is_kept_too(tmp_path, model, table):
    out = tmp_path / "out.csv"
    assert "--force" in refusal(table, out, model, advance=lambda _: out.write_text("precious"))
    assert out.read_text() == "precious"
    assert score_table(table, out, model, force=True).resumed_rows == 400


def test_bad_rows_refuse_the_table_when_asked_to(tmp_path, model):
    source = written(tmp_path / "in.csv", [*cohort_records(40), *BAD])
    told = refusal(source, tmp_path / "out.csv", model, on_error="reject", block_rows=10)
    assert "row 40 (age), row 41 (age, bmi), row 42 (age, glucose, bp_systolic)" in told
    assert "age: too high (1)" in told
    assert not any(value in told for value in ("130", "45.5", "200", "'x'"))
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]
    good = written(tmp_path / "in.csv", cohort_records(40))
    assert score_table(good, tmp_path / "out.csv", model, on_error="reject", block_rows=10).rows == 40


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("in.csv", None, "there is no such file"),
        ("in.csv", b"", "is empty"),
        ("in.csv", b"age,glucose,bmi,bp_systolic\n", "has no rows"),
        ("in.csv", b"age,glucose,bmi,bp_systolic", "has no rows"),
        ("in.csv", b"age,glucose,bmi\n1,2,3\n", "has no column bp_systolic"),
        ("in.csv", b"age,age,glucose,bmi,bp_systolic\n", "names a column twice: age"),
        ("in.csv", b"age,glucose,bmi,bp_systolic\n1,2,3,4\n1,2\n", "cannot be read beyond row 0"),
        ("in.csv", b'age,glucose,bmi,bp_systolic\n1,2,3,"4\n', "a quote stays open"),
        ("in.parquet", b"age\n1\n", "is not a readable Parquet file"),
        ("in.xlsx", b"PK", "is of the format .xlsx"),
    ],
)
def test_an_input_that_cannot_be_used_is_one_line_and_leaves_nothing(tmp_path, model, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert words in refusal(tmp_path / name, tmp_path / "out.csv", model)
    assert not (tmp_path / "out.csv.parts").exists()
    assert not (tmp_path / "out.csv").exists()


def test_an_empty_parquet_table_has_no_rows(tmp_path, model, table):
    pq.write_table(pq.read_table(table).slice(0, 0), table)
    assert "has no rows" in refusal(table, tmp_path / "out.csv", model)


def test_outputs_that_cannot_be_are_said_before_anything_is_made(tmp_path, model, table):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    for out, words in (
        (tmp_path / "out.xlsx", "is of the format .xlsx"),
        (tmp_path / "out", "is of the format (none)"),
        (tmp_path / "folder.csv", "is a folder"),
        (table, "is the input as well"),
        (tmp_path / "file" / "out.csv", "Not a directory"),
    ):
        assert words in refusal(table, out, model, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.csv", "in.parquet"]


def test_a_folder_of_something_else_is_not_touched(tmp_path, model, table):
    folder = tmp_path / "out.csv.parts"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert "is in the way" in refusal(table, tmp_path / "out.csv", model, restart=True)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_a_table_of_nothing_but_missing_values_is_scored(tmp_path, model):
    records = [{"age": 50, "glucose": None, "bmi": None, "bp_systolic": None}] * 3
    source = written(tmp_path / "in.parquet", records)  # its columns are of type null
    score_table(source, tmp_path / "out.parquet", model)
    (answer,) = answers_of_service(model, records[:1])
    assert all(answer.items() <= row.items() for row in scored_rows(tmp_path / "out.parquet"))


def test_nan_in_parquet_is_a_wrong_value_and_no_missing_one(tmp_path, model):
    glucose = pa.array([np.nan, None, 100.0])
    columns = {"age": [50] * 3, "glucose": glucose, "bmi": [20.0] * 3, "bp_systolic": [120.0] * 3}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    score_table(tmp_path / "in.parquet", tmp_path / "out.parquet", model)
    errors = [row["error"] for row in scored_rows(tmp_path / "out.parquet")]
    assert errors == ["glucose: nan is not a finite number", None, None]
