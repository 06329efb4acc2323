"""Many tables get the answers that the service gives, in parts, whoever scores them and however often it is stopped."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_core.base.errors import DataError
from ml_core.lab.batch.process_pool import ProcessPool
from ml_core.lab.batch.table_places import find_tables
from ml_core.lab.config import CsvConfig, DataConfig
from ml_core.lab.past_answers.batch_scoring import Workers, score_table
from ml_core.lab.past_answers.folder_scoring import score_folder, wants_folder
from tests.lab.past_answers.scoring import (
    FOLDERS,
    answers_of_service,
    cohort_records,
    drawn_records,
    loaded,
    scored_rows,
    written,
)
from tests.serve.answering.builders import CountingRunner

SMALL = Workers(piece_rows=70)
POOLED = ("two labels", "version 2")
BAD = {"age": 130, "glucose": 100.0, "bmi": 20.0, "bp_systolic": 120.0}
RECORDS = [*cohort_records(330), BAD, *cohort_records(20)]
FILES = {"2025/a.parquet": slice(0, 150), "2025/b.csv": slice(150, 170), "z.parquet": slice(170, 351)}


class Interrupted(BaseException):
    """What a test raises in the middle of a run."""


@pytest.fixture(scope="module")
def model():
    return loaded()


def tables_in(folder: Path, records=RECORDS, files=FILES):
    for name, rows in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        written(folder / name, records[rows])
    return find_tables(folder)


@pytest.fixture
def source(tmp_path):
    return tables_in(tmp_path / "in")


def pool(kind="two labels", piece_rows=70):
    return Workers(ProcessPool(2), FOLDERS[kind](), piece_rows)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows_in(folder: Path) -> list[dict]:
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in scored_rows(part)]


def expected_rows(model, records=RECORDS, files=FILES):
    answers = answers_of_service(model, records)
    return [
        {"file": name, "row": row, **answer}
        for name, rows in sorted(files.items())
        for row, answer in enumerate(answers[rows])
    ]


def refusal(*arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        score_folder(*arguments, **options)
    return str(caught.value)


def stop_after(parts: int):
    """Interrupts when that many parts have been begun to be scored and one block of the next is done."""
    told = Counter()

    def advance(_: float) -> None:
        told["blocks"] += 1
        if told["blocks"] == parts + 2:  # the first call tells what was finished before
            raise Interrupted

    return advance


# --- the same answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_field_of_every_row_is_the_services_on_every_engine(tmp_path, kind):
    model = loaded(kind)
    records = drawn_records(model, 120) if kind == "version 2" else RECORDS
    files = {"a.parquet": slice(0, 75), "b.parquet": slice(75, 80), "c.csv": slice(80, len(records))}
    source = tables_in(tmp_path / "in", records, files)
    here = score_folder(source, tmp_path / "here", model, workers=SMALL)
    there = score_folder(source, tmp_path / "there", model, workers=pool(kind) if kind in POOLED else SMALL)
    assert content(tmp_path / "here") == content(tmp_path / "there")
    assert replace(here, out="") == replace(there, out="")
    found = rows_in(tmp_path / "here")
    for row, answer in zip(found, expected_rows(model, records, files), strict=True):
        assert answer.items() <= row.items()
    assert (here.rows, here.refused) == (len(records), sum(row["error"] is not None for row in found))


def test_the_parts_of_one_file_are_the_answers_to_it_as_one_file(tmp_path, model):
    source = written(tmp_path / "in.parquet", RECORDS)
    score_table(source, tmp_path / "one.parquet", model)
    score_folder(find_tables(source), tmp_path / "parts", model, workers=SMALL)
    parts = rows_in(tmp_path / "parts")
    assert {row.pop("file") for row in parts} == {"in.parquet"}
    assert parts == scored_rows(tmp_path / "one.parquet")
    assert len(list((tmp_path / "parts").glob("part-*"))) == 6


def test_one_file_is_the_same_to_the_byte_from_a_pool(tmp_path, model):
    source = written(tmp_path / "in.parquet", RECORDS)
    score_table(source, tmp_path / "here.parquet", model, workers=SMALL, block_rows=30)
    score_table(source, tmp_path / "there.parquet", model, workers=pool(), block_rows=30)
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.parquet", "in.parquet", "there.parquet"]


def test_a_reader_of_the_folder_gets_all_rows_in_order_and_the_summary_says_what_is_there(tmp_path, model, source):
    result = score_folder(source, tmp_path / "out", model, workers=SMALL)
    table = pq.read_table(tmp_path / "out")
    names = [name for name, rows in sorted(FILES.items()) for _ in RECORDS[rows]]
    assert table.column("file").to_pylist() == names
    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert (summary["rows"], summary["refused"], summary["facts"]) == (351, 1, result.facts)
    assert [each["name"] for each in summary["inputs"]] == sorted(FILES)
    for part in summary["parts"]:
        rows = scored_rows(tmp_path / "out" / part["name"])
        assert ({row["file"] for row in rows}, rows[0]["row"], len(rows)) == (
            {part["input"]}, part["first_row"], part["rows"],
        )  # fmt: skip
        assert sum(row["error"] is not None for row in rows) == part["refused"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out"]


def test_tables_without_rows_are_passed_over(tmp_path, model):
    source = tables_in(tmp_path / "in", files={"b.parquet": slice(0, 5)})
    pq.write_table(pq.read_table(tmp_path / "in" / "b.parquet").slice(0, 0), tmp_path / "in" / "a.parquet")
    (tmp_path / "in" / "c.csv").write_text("age,glucose,bmi,bp_systolic\n")
    assert score_folder(find_tables(tmp_path / "in"), tmp_path / "out", model).rows == 5
    (tmp_path / "in" / "b.parquet").unlink()
    assert "has no rows" in refusal(find_tables(tmp_path / "in"), tmp_path / "none", model)
    assert not (tmp_path / "none").exists()
    assert source.is_folder


def test_a_folder_is_read_as_the_configuration_says_that_it_is_written(tmp_path, model):
    (tmp_path / "in").mkdir()
    for number, rows in enumerate((slice(0, 30), slice(30, 50))):
        lines = (";".join("k.A." if v is None else str(v).replace(".", ",") for v in r.values()) for r in RECORDS[rows])
        (tmp_path / "in" / f"{number}.csv").write_text("\n".join([";".join(RECORDS[0]), *lines]) + "\n")
    form = CsvConfig(separator=";", decimal=",", null_words=("k.A.",))
    data = DataConfig(source=tmp_path, csv=form)
    source = find_tables(tmp_path / "in")
    score_folder(source, tmp_path / "out", model, data=data)
    assert [row["probability"] for row in rows_in(tmp_path / "out")] == [
        answer["probability"] for answer in answers_of_service(model, RECORDS[:50])
    ]
    with pytest.raises(Interrupted):
        score_folder(source, tmp_path / "again", model, data=data, advance=stop_after(1))
    assert "another --config" in refusal(
        source,
        tmp_path / "again",
        model,
        data=DataConfig(source=tmp_path, csv=form.model_copy(update={"thousands": "."})),
    )


# --- going on -----------------------------------------------------------------------------------------------------


def test_interrupted_in_any_part_it_goes_on_to_the_same_bytes(tmp_path, model, source):
    score_folder(source, tmp_path / "whole", model, workers=SMALL)
    whole = content(tmp_path / "whole")
    rows = [70, 70, 10, 20, 70, 70, 41]
    assert len(whole) == len(rows) + 1
    for parts in range(len(rows)):
        with pytest.raises(Interrupted):
            score_folder(source, tmp_path / "out", model, workers=SMALL, advance=stop_after(parts))
        assert not (tmp_path / "out").exists()
        counting = CountingRunner(model.predictor.scorer)
        result = score_folder(source, tmp_path / "out", loaded(scorer=counting), workers=SMALL)
        assert content(tmp_path / "out") == whole
        assert result.resumed_rows == sum(rows[:parts])
        assert sum(counting.calls) == 350 - result.resumed_rows  # the bad row is in the last part
        assert not (tmp_path / "out.parts").exists()
        for path in (tmp_path / "out").iterdir():
            path.unlink()
        (tmp_path / "out").rmdir()


def test_what_one_process_began_a_pool_ends(tmp_path, model, source):
    score_folder(source, tmp_path / "whole", model, workers=SMALL)
    with pytest.raises(Interrupted):
        score_folder(source, tmp_path / "out", model, workers=SMALL, advance=stop_after(3))
    assert score_folder(source, tmp_path / "out", model, workers=pool()).resumed_rows == 150
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["summary is written", "folder is in its place"])
def test_interrupted_at_the_end_it_ends_the_run(tmp_path, monkeypatch, model, source, moment):
    score_folder(source, tmp_path / "whole", model, workers=SMALL)
    real = Path.replace

    def replace_and_stop(path, target):
        if Path(target).name == ("outcome.json" if moment == "summary is written" else "out"):
            if moment == "folder is in its place":
                real(path, target)
            raise Interrupted
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace_and_stop)
    with pytest.raises(Interrupted):
        score_folder(source, tmp_path / "out", model, workers=SMALL)
    monkeypatch.undo()
    assert score_folder(source, tmp_path / "out", model, workers=SMALL).resumed_rows == 351
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not (tmp_path / "out.parts").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file": "z.parquet"}, "another input"),
        ({"new": "zz.parquet"}, "another input"),
        ({"kind": "labels in words"}, "another model"),
        ({"level": 0.95}, "another confidence level"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_run_is_not_mixed_in(tmp_path, model, source, change, words):
    with pytest.raises(Interrupted):
        score_folder(source, tmp_path / "out", model, workers=SMALL, advance=stop_after(2))
    changed = change.get("file", change.get("new"))
    if changed:
        written(tmp_path / "in" / changed, cohort_records(181))
        source = find_tables(tmp_path / "in")
    other = loaded(change["kind"]) if "kind" in change else model
    options = {"workers": SMALL, **({"level": change["level"]} if "level" in change else {})}
    told = refusal(source, tmp_path / "out", other, **options)
    assert words in told
    assert "--restart" in told
    assert score_folder(source, tmp_path / "out", other, restart=True, **options).resumed_rows == 0
    score_folder(source, tmp_path / "fresh", other, **options)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_part_that_is_left_by_a_run_of_another_plan_is_no_part(tmp_path, model, source):
    with pytest.raises(Interrupted):
        score_folder(source, tmp_path / "out", model, workers=SMALL, advance=stop_after(2))
    whole = tmp_path / "out.parts" / "whole"
    (stray,) = [p for p in whole.iterdir() if p.name.startswith("part-000001")]
    stray.rename(whole / "part-000001-0123456789abcdef.parquet")
    assert score_folder(source, tmp_path / "out", model, workers=SMALL).resumed_rows == 70
    assert not list((tmp_path / "out").glob("*0123456789abcdef*"))


def test_a_damaged_part_is_said(tmp_path, model, source):
    with pytest.raises(Interrupted):
        score_folder(source, tmp_path / "out", model, workers=SMALL, advance=stop_after(2))
    (part,) = (tmp_path / "out.parts" / "whole").glob("part-000001-*")
    part.write_bytes(part.read_bytes()[:100])
    assert "is damaged: begin anew with --restart" in refusal(source, tmp_path / "out", model, workers=SMALL)
    assert score_folder(source, tmp_path / "out", model, workers=SMALL, restart=True).rows == 351


def test_a_table_that_changes_meanwhile_is_refused_and_nothing_is_left(tmp_path, model, source):
    def change(_: float) -> None:
        written(tmp_path / "in" / "z.parquet", cohort_records(181))

    told = refusal(source, tmp_path / "out", model, workers=SMALL, advance=change)
    assert "z.parquet: was changed while it was read" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


# --- places -------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_there_is_kept_unless_forced(tmp_path, model, source):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("precious")
    assert "--force" in refusal(source, tmp_path / "out", model)
    assert content(tmp_path / "out") == {"precious.txt": b"precious"}
    assert score_folder(source, tmp_path / "out", model, force=True).rows == 351
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
    assert not (tmp_path / "out" / "precious.txt").exists()


def test_an_empty_folder_may_be_filled(tmp_path, model, source):
    (tmp_path / "out").mkdir()
    assert score_folder(source, tmp_path / "out", model).rows == 351


@pytest.mark.parametrize("out", ["in", "in/answers", "in/2025", "."])
def test_answers_never_lie_among_the_rows_or_around_them(tmp_path, monkeypatch, model, source, out):
    monkeypatch.chdir(tmp_path)
    assert "is the input as well, or lies in it" in refusal(source, tmp_path / out, model, force=True)
    assert sorted(p.relative_to(tmp_path / "in").as_posix() for p in (tmp_path / "in").rglob("*.*")) == sorted(FILES)


def test_tables_of_different_ids_are_not_scored_together(tmp_path, model):
    tables = tables_in(tmp_path / "in", files={"a.parquet": slice(0, 5), "b.parquet": slice(5, 9)})
    whole = pq.read_table(tables.places[1])
    pq.write_table(whole.append_column("patient_id", pa.array(["P0000001"] * 4)), tables.places[1])
    told = refusal(find_tables(tmp_path / "in"), tmp_path / "out", model)
    assert "b.parquet: has the id columns patient_id (string), and" in told
    assert "a.parquet has none" in told


def test_which_answers_are_a_folder():
    one, many = find_tables("in.parquet"), replace(find_tables("in.parquet"), is_folder=True)
    assert not wants_folder(one, Path("out.parquet"))
    assert not wants_folder(one, Path("out.xlsx"))  # which is refused as a format
    assert wants_folder(one, Path("out"))
    assert wants_folder(one, Path("s3://bucket/out"))
    assert wants_folder(many, Path("answers.2026"))
    for source, out in ((many, "out.csv"), (one, "s3://bucket/out.parquet")):
        with pytest.raises(DataError, match="name a folder"):
            wants_folder(source, Path(out))
