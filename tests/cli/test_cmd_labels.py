"""labels as a person types it: a table in, counts out; one answer's labels shown."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest

from ml_core.base.settings import Settings
from ml_core.lab.data.table_frames import write_table
from ml_core.serve.log.database import OpenLog
from ml_core.serve.log.entries import Lineage, Row
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import MOST_OF_ONE, AnswerLabel, LabelStore, read_imported
from tests.serve.answering.stored import Home, Worker
from tests.serve.log.labelled import rid, text_of
from tests.toy_models import NAME

ANSWERED = range(5)


@pytest.fixture
def settings(tmp_path, run) -> Settings:
    """A home without a model, whose log knows five answers."""
    found = Settings(home=tmp_path / "home", model_name=NAME)
    log = OpenLog.of_day(found.log, "2026-11-23")
    lineage = Lineage.of({"model_name": NAME})
    at_us = int(datetime(2026, 11, 23, tzinfo=UTC).timestamp() * 1e6)
    log.commit(
        [
            Row(
                request_id=rid(n), at_us=at_us, client_request_id=f"visit-{n // 2}", subject=None, batch_id=None, batch_index=None,
                lineage=lineage, answer=b"{}", input=None, groups=None, group_values=None, explanation=None,
            )
            for n in ANSWERED
        ],
        durable=False,
    )  # fmt: skip
    log.close()
    return found


@pytest.fixture
def home(tmp_path, settings) -> Home:
    """The same, with a model of the labels 0 and 1 that is live."""
    found = Home(tmp_path / "home")
    found.promote(found.v1)
    Worker(found)
    return found


def table(tmp_path, name="outcomes.csv", **columns) -> str:
    write_table(pd.DataFrame(columns), tmp_path / name)
    return name


def stored(settings) -> list[tuple[bytes, int | str, str, str]]:
    store = LabelStore(open_label_tables(settings, settings.model_name), lambda _: set())
    return [(s.request_id, s.label, s.source, s.outcome) for s in store.since(0, 1_000)]


def test_a_table_is_imported_and_counted(run, home, settings, tmp_path):
    file = table(tmp_path, request_id=[text_of(n) for n in (0, 1, 9, 1, 0)], label=[0, 1, 1, 0, 0])
    told = run("labels", "import", file)
    assert (told.code, told.err) == (0, "")
    assert told.result == {
        "model": NAME, "rows": 5, "accepted": 2, "duplicate": 1, "conflict": 1, "unknown": 1, "unresolved": 0,
    }  # fmt: skip
    counted = read_imported(settings).model_dump()
    assert counted == {"accepted": 2, "duplicate": 1, "conflict": 1, "unknown": 1, "refused": 0, "over_limit": 0}
    assert stored(settings) == [
        (rid(0), 0, "outcomes.csv", "accepted"),
        (rid(1), 1, "outcomes.csv", "accepted"),
        (rid(9), 1, "outcomes.csv", "unknown"),
        (rid(1), 0, "outcomes.csv", "conflict"),
    ]


def test_labels_of_one_answer_that_change_too_often_are_told_and_not_stored(run, home, settings, tmp_path):
    told = run("labels", "import", table(tmp_path, request_id=[text_of(0)] * 50, label=[0, 1] * 25))
    assert (told.code, told.result["accepted"], told.result["conflict"]) == (0, 1, MOST_OF_ONE - 1)
    assert told.result["over_limit"] + told.result["duplicate"] == 50 - MOST_OF_ONE
    assert f"{told.result['over_limit']} labels were not stored" in told.err
    assert read_imported(settings).over_limit == told.result["over_limit"]
    assert len(stored(settings)) == MOST_OF_ONE


def test_a_second_import_changes_nothing(run, home, settings, tmp_path):
    file = table(tmp_path, "outcomes.parquet", request_id=[text_of(n) for n in range(9)], label=[0] * 9)
    run("labels", "import", file, "--source", "office")
    before = stored(settings)
    told = run("labels", "import", file, "--source", "other")
    assert (told.code, told.result["duplicate"], stored(settings) == before) == (0, 9, True)
    assert {source for _, _, source, _ in before} == {"office"}


def test_a_dry_run_counts_and_stores_nothing(run, home, settings, tmp_path):
    told = run("labels", "import", table(tmp_path, request_id=[text_of(0), text_of(9)], label=[1, 1]), "--dry-run")
    assert (told.code, told.result["accepted"], told.result["unknown"]) == (0, 1, 1)
    assert "nothing was stored" in told.err
    assert not settings.labels.exists()


def test_labels_that_are_not_the_models_are_refused_in_one_line_without_values(run, home, settings, tmp_path):
    told = run("labels", "import", table(tmp_path, request_id=[text_of(0), "s3cret"], label=["1", "s3cret"]))
    assert (told.code, told.out, told.err.count("\n")) == (1, "", 1)
    assert "1 of 2 rows" in told.err
    assert "must be one of the model's labels: 0, 1 (row 3)" in told.err
    assert "s3cret" not in told.err
    assert not settings.labels.exists()


def test_without_a_model_labels_are_taken_and_that_is_said(run, settings, tmp_path):
    told = run("labels", "import", table(tmp_path, request_id=[text_of(0)], label=["maybe"]))
    assert (told.code, told.result["accepted"]) == (0, 1)
    assert "not held against" in told.err


@pytest.mark.parametrize("file", ["missing.csv", "labels.txt", "."])
def test_a_file_that_cannot_be_read_is_broken(run, home, tmp_path, file):
    (tmp_path / "labels.txt").write_text("request_id,label\n")
    told = run("labels", "import", file)
    assert (told.code, told.out, told.err.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("import",), ("show",), ("show", "7"), ("import", "outcomes.csv", "--source", ""),
        ("import", "outcomes.csv", "--source", "x" * 201), ("import", "outcomes.csv", "--source", "a\nb"),
        ("forget", "7"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_two_and_stores_nothing(run, home, settings, tmp_path, arguments):
    table(tmp_path, request_id=[text_of(0)], label=[1])
    assert run("labels", *arguments).code == 2
    assert not settings.labels.exists()


def test_labels_go_to_the_model_that_is_named(run, home, settings, tmp_path):
    file = table(tmp_path, request_id=[text_of(0)], label=[1])
    told = run("labels", "import", file, "--model", "other")
    assert (told.code, told.result["model"], told.result["unknown"]) == (0, "other", 1)
    assert not settings.labels.exists()
    assert run("labels", "import", file, "--model", "../other").code == 1


def test_show_tells_the_label_that_holds_and_all_before_it(run, home, settings):
    store = LabelStore(
        open_label_tables(settings, settings.model_name),
        lambda _: set(),
        clock=lambda: datetime(2026, 11, 24, 9, tzinfo=UTC),
    )
    store.add([AnswerLabel(rid(0), 1, datetime(2026, 11, 1, tzinfo=UTC))], "http")
    store.add([AnswerLabel(rid(0), 0)], "office")
    told = run("labels", "show", text_of(0).upper())
    assert told.code == 0
    assert told.result == {
        "request_id": text_of(0),
        "label": 0,
        "answer_known": True,
        "history": [
            {
                "label": 1, "observed_at": "2026-11-01T00:00:00.000000Z", "received_at": "2026-11-24T09:00:00.000000Z",
                "source": "http", "outcome": "unknown",
            },
            {
                "label": 0, "observed_at": "2026-11-24T09:00:00.000000Z", "received_at": "2026-11-24T09:00:00.000000Z",
                "source": "office", "outcome": "conflict",
            },
        ],
    }  # fmt: skip


def test_show_of_an_answer_without_a_label_says_so(run, settings):
    told = run("labels", "show", text_of(9))
    assert (told.code, told.result["label"], told.result["answer_known"], told.result["history"]) == (
        0,
        None,
        False,
        [],
    )
    assert "no label" in told.err
    assert not settings.labels.exists()


def test_a_table_on_a_terminal_is_readable(run, home, settings):
    LabelStore(open_label_tables(settings, settings.model_name), lambda _: set()).add([AnswerLabel(rid(0), 1)], "http")
    told = run("labels", "show", text_of(0), "--output", "table")
    assert told.code == 0
    assert "http" in told.out


def test_a_damaged_file_is_one_line_and_left(run, home, settings, tmp_path):
    settings.labels.parent.mkdir(parents=True)
    settings.labels.write_text("no database " * 100)
    file = table(tmp_path, request_id=[text_of(0)], label=[1])
    for arguments in (("import", file), ("show", text_of(0))):
        told = run("labels", *arguments)
        assert (told.code, told.out, told.err.count("\n")) == (1, "", 1)
        assert f"{NAME}.db" in told.err
    assert settings.labels.read_text().startswith("no database")


def test_a_label_by_the_callers_own_name_is_that_of_every_answer_that_bears_it(tmp_path, run, settings):
    told = run("labels", "import", table(tmp_path, client_request_id=["visit-0", "visit-9"], label=[1, 0]))
    assert (told.code, told.result["accepted"], told.result["unresolved"]) == (0, 2, 1)
    current = LabelStore(open_label_tables(settings, settings.model_name), lambda _: set()).current(
        [rid(0), rid(1), rid(2)]
    )
    assert {raw: label.label for raw, label in current.items()} == {rid(0): 1, rid(1): 1}
