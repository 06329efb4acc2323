"""`surety audit` as a person types it."""

from __future__ import annotations

import sqlite3

import pytest

from ml_core.serve.log.reader import PredictionLog
from tests.lab.past_answers.logged import answers_in, erase, logging_to, nobodys_id
from tests.serve.answering.builders import live_of, toy_records
from tests.serve.answering.stored import Home, Worker
from tests.toy_models import toy_model, toy_record

MARK_UP = "[/red] [bold]visit"


def change(home: Home, statement: str) -> None:
    (file,) = PredictionLog(home.settings.log).files()
    with sqlite3.connect(file.path) as connection:
        connection.execute(statement)


@pytest.fixture
def home(tmp_path, run) -> Home:
    """Answers of v1, which is live: one by itself, two under one name, three of a bulk call."""
    made = Home(tmp_path / "home")
    made.promote(made.v1)
    Worker(made)
    with logging_to(made.settings, live_of()) as asked:
        asked.ask(toy_record(), client_request_id=MARK_UP)
        asked.ask(toy_record(), client_request_id="twice")
        asked.ask(toy_record(), client_request_id="twice")
        asked.ask_in_bulk(toy_records(3))
    return made


@pytest.fixture
def ids(home) -> list[str]:
    return [answer.request_id for answer in answers_in(home.settings)]


def test_everything_about_one_answer(run, home, ids):
    told = run("audit", ids[0])
    assert (told.code, told.err) == (0, "")
    assert told.result["request_id"] == ids[0]
    assert told.result["answer"]["client_request_id"] == MARK_UP
    assert told.result["lineage"]["model_hash"] == toy_model().model_hash
    assert told.result["model_now"]["rollout"]["slot"] == "champion"
    assert told.result["model_now"]["promotion"]["bento_tag"] == home.v1
    assert told.result["model_now"]["journal"][0]["event"] == "rollout.changed"
    assert (told.result["log_entry"]["digest_holds"], told.result["log_entry"]["chain_holds"]) == (True, True)


def test_by_the_callers_own_name(run, home, ids):
    assert run("audit", "--client-request-id", MARK_UP).result["request_id"] == ids[0]
    told = run("audit", "--client-request-id", "nobody")
    assert (told.code, told.out, told.err.count("\n")) == (1, "", 1)


def test_a_name_of_several_answers_lists_them(run, home, ids):
    told = run("audit", "--client-request-id", "twice")
    assert (told.code, told.out) == (2, "")
    assert ids[1] in told.err
    assert ids[2] in told.err


def test_a_table_has_sections_for_people(run, home, ids):
    told = run("audit", ids[0], "--output", "table")
    assert told.code == 0
    titles = (
        "Answer",
        "Answer by label",
        "Input",
        "Lineage",
        "The model now: gate",
        "The model now: journal",
        "Label",
        "Log entry",
    )
    assert [title for title in titles if f"\n{title}\n" not in told.out] == []
    assert told.out.index("\nAnswer\n") < told.out.index("\nInput\n") < told.out.index("\nLog entry\n")
    assert "mg/dL" in told.out
    assert MARK_UP in told.out
    assert "Plasma glucose" not in told.out
    assert "Batch" not in told.out
    assert "Plasma glucose" in run("audit", ids[0], "--output", "table", "--docs").out


def test_a_row_of_a_bulk_call_in_a_table(run, home, ids):
    told = run("audit", ids[4], "--output", "table")
    assert told.code == 0
    assert "\nBatch\n" in told.out
    assert "Arrow stream" in told.out


def test_of_an_erased_answer_what_is_left(run, home, ids):
    erase(home.settings, answers_in(home.settings)[0])
    told = run("audit", ids[0], "--output", "table")
    assert told.code == 0
    assert "erased" in told.err
    assert "\nInput\n" not in told.out
    assert "\nLog entry\n" in told.out
    assert run("audit", ids[0]).result["is_erased"] is True


def test_an_answer_without_its_input_says_so(run, tmp_path):
    home = Home(tmp_path / "home", log_inputs=False)
    with logging_to(home.settings, live_of()) as asked:
        given = asked.ask(toy_record())
    told = run("audit", given.request_id, "--output", "table")
    assert told.code == 0
    assert "SURETY_LOG_INPUTS=false" in told.err
    assert "\nInput\n" not in told.out


def test_an_unknown_id_exits_with_one(run, home):
    told = run("audit", nobodys_id())
    assert (told.code, told.out, told.err) == (1, "", f"surety: no answer has the id {nobodys_id()}\n")


@pytest.mark.parametrize("arguments", [[], ["visit-7"], [nobodys_id(), "--client-request-id", "x"]], ids=" ".join)
def test_wrong_usage_exits_with_two(run, home, arguments):
    told = run("audit", *arguments)
    assert (told.code, told.out) == (2, "")


def test_a_changed_entry_is_noted(run, home, ids):
    change(home, "UPDATE entry SET client_request_id = 'another' WHERE seq = 1")
    told = run("audit", ids[0])
    assert (told.code, told.result["log_entry"]["digest_holds"]) == (0, False)
    assert "does not hold what was written" in told.err
    change(home, "UPDATE entry SET digest = zeroblob(32) WHERE seq = 1")
    assert "surety log verify" in run("audit", ids[0]).err
