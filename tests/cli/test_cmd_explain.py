"""`surety explain` as a person types it: told by the model that gave the answer, or refused with the reason."""

from __future__ import annotations

import sqlite3

import orjson
import pytest

from ml_core.serve.log.entries import id_bytes
from tests.lab.past_answers.logged import answers_in, erase, logging_to, nobodys_id
from tests.serve.answering.builders import RaisesRunner, live_model, live_of
from tests.serve.answering.stored import Home
from tests.toy_models import toy_model, toy_record


@pytest.fixture
def home(tmp_path, run) -> Home:
    """Two answers of v1, the second of which was explained when it was given, and one that no model gave."""
    made = Home(tmp_path / "home")
    with logging_to(made.settings, live_of()) as asked:
        asked.ask(toy_record(), client_request_id="plain")
        asked.ask(toy_record(bmi=None), client_request_id="explained", explain=True)
    with logging_to(made.settings, live_of(live_model(RaisesRunner()))) as asked:
        asked.ask(toy_record(), client_request_id="prior")
    return made


def test_an_old_answer_is_explained_by_the_model_that_gave_it(run, home):
    told = run("explain", "--client-request-id", "plain")
    assert (told.code, told.err) == (0, "")
    said = told.result
    assert (said["state"], said["stored"], said["model_hash"]) == ("equal", "none", toy_model().model_hash)
    why = said["explanation"]
    assert why["base_value"] + sum(each["contribution"] for each in why["contributions"]) == pytest.approx(
        why["margin"]
    )
    assert {each["columns"][0] for each in why["contributions"]} == {row["column"] for row in said["input"]}
    for each in why["contributions"]:
        assert each["in_words"].startswith(f"{each['columns'][0]} {each['effect']} the log-odds of 1 by ")
    assert "cause" not in told.out


def test_what_was_given_with_the_answer_is_the_same_to_the_bit(run, home):
    told = run("explain", "--client-request-id", "explained")
    assert (told.code, told.result["stored"]) == (0, "same")
    shown = run("audit", "--client-request-id", "explained").result["explanation"]
    assert shown == told.result["explanation"]
    assert run("audit", "--client-request-id", "plain").result["explanation"] is None


def test_people_read_the_value_beside_what_it_added(run, home):
    for verb in ("explain", "audit"):
        told = run(verb, "--client-request-id", "explained", "--output", "table")
        assert told.code == 0
        row = next(line for line in told.out.splitlines() if "182.5 mg/dL" in line and "raises" in line)
        assert "glucose" in row
        assert any("missing" in line and "bmi" in line for line in told.out.splitlines())


def test_another_explanation_than_the_one_that_was_given_is_a_no(run, home):
    answer = next(each for each in answers_in(home.settings) if each.explanation)
    with sqlite3.connect(home.settings.log / answer.file) as connection:
        other = orjson.dumps({**answer.explanation, "base_value": 0.5})
        connection.execute(
            "UPDATE entry SET explanation = ? WHERE request_id = ?", (other, id_bytes(answer.request_id))
        )
    told = run("explain", answer.request_id)
    assert (told.code, told.result["stored"], told.result["state"]) == (3, "different", "different")
    assert "the explanation that was given with it is another one" in told.err


def test_an_answer_that_no_model_gave_has_no_explanation(run, home):
    told = run("explain", "--client-request-id", "prior")
    assert (told.code, told.result["slot"]) == (3, "prior")
    assert "there is no explanation: no model gave this answer" in told.err


def test_of_an_erased_answer_nothing_is_explained(run, home):
    answer = answers_in(home.settings)[0]
    erase(home.settings, answer)
    told = run("explain", answer.request_id)
    assert (told.code, told.result["state"], told.result["explanation"]) == (1, "erased", None)


def test_an_answer_without_its_input_cannot_be_explained(run, tmp_path):
    home = Home(tmp_path / "home", log_inputs=False)
    with logging_to(home.settings, live_of()) as asked:
        given = asked.ask(toy_record(), explain=True)
    told = run("explain", given.request_id)
    assert (told.code, told.result["state"]) == (2, "input_not_kept")
    assert "SURETY_LOG_INPUTS=false" in told.err
    assert given.explanation.contributions
    assert run("audit", given.request_id).result["explanation"] is None  # it would tell of the input


def test_an_unknown_id_exits_with_one(run, home):
    told = run("explain", nobodys_id())
    assert (told.code, told.out, told.err) == (1, "", f"surety: no answer has the id {nobodys_id()}\n")


@pytest.mark.parametrize("arguments", [[], ["visit-7"], [nobodys_id(), "--client-request-id", "x"]], ids=" ".join)
def test_wrong_usage_exits_with_two(run, home, arguments):
    told = run("explain", *arguments)
    assert (told.code, told.out) == (2, "")
