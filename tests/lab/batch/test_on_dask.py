"""What a Dask cluster of two processes does is what one process does; and a worker that is lost costs no row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_core.lab.batch.table_places import find_tables
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.past_answers.folder_scoring import score_folder
from tests.lab.past_answers.scoring import loaded
from tests.lab.past_answers.test_folder_scoring import SMALL, content, expected_rows, rows_in, tables_in
from tests.oracles import ROOT, oracle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A folder in which every command has run on Dask, and what was seen."""
    folder = tmp_path_factory.mktemp("dask")
    tables_in(folder / "in")
    make_cohort(400, 1)[0].to_parquet(folder / "then.parquet", index=False)
    (folder / "rows").mkdir()
    now = make_cohort(500, 2)[0]
    for name, rows in {"a": slice(0, 320), "b": slice(320, 500)}.items():
        now[rows].to_parquet(folder / "rows" / f"{name}.parquet", index=False, row_group_size=60)
    told = oracle("python", "-m", "tests.lab.batch.dask_run", folder, name="dask", settings={"PYTHONPATH": str(ROOT)})
    assert told.returncode == 0, told.stderr
    return folder, json.loads(told.stdout)


def test_the_answers_are_those_of_one_process_and_of_the_service(seen):
    folder, told = seen
    model = loaded()
    score_folder(find_tables(folder / "in"), folder / "here", model, workers=SMALL)
    assert content(folder / "out") == content(folder / "here")
    assert told["scored"] == [351, 1]
    for row, answer in zip(rows_in(folder / "out"), expected_rows(model), strict=True):
        assert answer.items() <= row.items()


def test_drift_and_features_are_those_of_one_process(seen):
    _, told = seen
    on_dask, here = told["drift"]
    assert on_dask == here
    assert on_dask["rows_current"] == 500
    on_dask, here = told["features"]
    assert on_dask == here  # the second run has made no new version
    assert (on_dask["version"], on_dask["rows_kept"]) == (0, 500)


def test_no_piece_gets_the_result_of_another(seen):
    assert seen[1]["in order"] == list(range(100, 108))


def test_a_worker_that_is_lost_costs_nothing(seen):
    folder, told = seen
    assert Path(folder, "died").exists()
    assert told["lost"] == list(range(8))


def test_what_cannot_be_done_is_told(seen):
    _, told = seen
    assert "a cluster writes a folder of parts: name a folder for OUT" in told["one file"]
    assert told["rejected"].startswith("DataError: ")
    assert "refused for row" in told["rejected"]
    assert told["nobody"].endswith("tcp://127.0.0.1:1: no Dask scheduler answers there: is the address right?")
