"""An audit says everything that is known about one answer, and of an erased one what is left."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from ml_core.lab.past_answers.audit import audit, set_in_words
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.reader import PredictionLog
from tests.homes import bento_store
from tests.lab.past_answers.logged import answers_in, erase, logging_to, nobodys_id
from tests.serve.answering.builders import RaisesRunner, as_version, live_model, live_of, opened, toy_records
from tests.serve.answering.stored import Home
from tests.toy_models import toy_model, toy_record


@pytest.fixture
def home(tmp_path):
    with bento_store(tmp_path / "bento"):
        yield Home(tmp_path / "home")


def asked(home: Home, record=None, live=None, **request):
    """The envelope of one request, logged."""
    with logging_to(home.settings, live or live_of()) as logging:
        return logging.ask(record or toy_record(), **request)


def found(home: Home, request_id: str):
    result = audit(home.settings, request_id)
    assert result is not None
    json.dumps(asdict(result), allow_nan=False)
    return result


def label(home: Home, request_id: str, *labels, source="ward") -> None:
    store = LabelStore(
        open_label_tables(home.settings, home.settings.model_name), PredictionLog(home.settings.log).known
    )
    for value in labels:
        store.add([AnswerLabel(id_bytes(request_id), value, datetime(2026, 11, 20, tzinfo=UTC))], source)


def test_the_answer_is_the_one_that_was_given(home):
    given = asked(home, client_request_id="visit-7", subject="somebody", level=Decimal("0.8"))
    answer = found(home, given.request_id).answer
    assert answer["prediction"] == given.prediction
    assert answer["probabilities"]["1"] == given.probability
    assert answer["p_values"] == given.p_values
    assert answer["prediction_set"] == given.prediction_set
    assert (answer["confidence_level"], answer["guarantee"]) == ("0.8", given.guarantee)
    assert (answer["validity"], answer["validity_reasons"]) == ("unmonitored", [])
    assert (answer["client_request_id"], answer["input_hash"]) == ("visit-7", given.lineage.input_hash)
    assert len(answer["subject_pseudonym"]) == 64
    assert answer["answered_by"] == "the model as champion"
    assert answer["elapsed_ms"] >= 0


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ((1,), "act on 1"),
        ((0, 1), "refer to a person: it may be 0 or 1"),
        (("home", "nurse", "ward"), "refer to a person: it may be home, nurse or ward"),
        ((), "it never means that there is no risk"),
    ],
)
def test_a_set_in_words(members, words):
    assert words in set_in_words(members)


def test_the_challengers_answer_says_that_it_is_the_challengers(home):
    canary = live_of(challenger=live_model(model=as_version("9")), mode="canary", weight=1.0)
    answer = found(home, asked(home, live=canary).request_id).answer
    assert answer["answered_by"] == "the model as challenger"


@pytest.mark.parametrize(
    ("live", "who", "why"),
    [
        (lambda: live_of(opened(live_model())), "the scorecard", "the model's circuit was open"),
        (lambda: live_of(live_model(RaisesRunner())), "nobody: every label", "the model raised an error"),
    ],
)
def test_an_answer_that_is_not_the_models_own_says_whose_it_is_and_why(home, live, who, why):
    answer = found(home, asked(home, live=live()).request_id).answer
    assert answer["answered_by"].startswith(who)
    assert answer["answered_by"].endswith(f"because {why}")
    assert answer["fallback_reason"] in ("circuit_open", "model_error")


def test_the_input_stands_by_column_with_its_unit(home):
    rows = found(home, asked(home, toy_record(bmi=None)).request_id).input
    assert [(row["column"], row["value"], row["unit"]) for row in rows] == [
        ("age", 71, "years"),
        ("glucose", 182.5, "mg/dL"),
        ("bmi", None, "kg/m2"),
        ("bp_systolic", 148.0, "mmHg"),
    ]
    assert rows[0]["meaning"] == "Age in completed years."


def test_an_input_that_was_not_kept_is_missing_and_the_rest_is_there(tmp_path):
    with bento_store(tmp_path / "bento"):
        home = Home(tmp_path / "home", log_inputs=False)
        result = found(home, asked(home).request_id)
    assert (result.input, result.is_erased) == (None, False)
    assert result.answer["prediction"] in (0, 1)


def test_the_lineage_has_every_fact(home):
    given = asked(home)
    lineage = found(home, given.request_id).lineage
    assert (lineage["model_hash"], lineage["model_version"]) == (toy_model().model_hash, "1")
    assert lineage == answers_in(home.settings)[0].lineage
    assert {"calibration_id", "feature_module_sha256", "software", "trained_on", "slot"} <= lineage.keys()


def test_the_model_of_now_is_asked(home):
    given = asked(home)
    home.promote(home.v2)
    now = found(home, given.request_id).model_now
    assert (now["stored"]["is_there"], now["gate"]["verdict"], now["promotion"]["is_promoted"]) == (
        True,
        "passed",
        False,
    )


def test_a_label_with_its_history_and_whether_the_set_held_it(home):
    given = asked(home)
    (inside,) = given.prediction_set
    nothing = found(home, given.request_id).labels
    assert (nothing["label"], nothing["is_in_prediction_set"], nothing["history"]) == (None, None, [])
    label(home, given.request_id, inside, 1 - inside)
    labels = found(home, given.request_id).labels
    assert (labels["label"], labels["is_in_prediction_set"]) == (1 - inside, False)
    assert [(one["label"], one["outcome"], one["source"]) for one in labels["history"]] == [
        (inside, "accepted", "ward"),
        (1 - inside, "conflict", "ward"),
    ]
    assert labels["history"][0]["observed_at"] == "2026-11-20T00:00:00.000000Z"
    at = datetime.fromisoformat(found(home, given.request_id).at)
    assert (datetime.fromisoformat(labels["counts_from"]) - at).days == 30


def test_a_damaged_label_store_hides_nothing_else(home):
    given = asked(home)
    home.settings.labels.parent.mkdir()
    home.settings.labels.write_bytes(b"no database" * 1_000)
    result = found(home, given.request_id)
    assert "problem" in result.labels
    assert result.answer["prediction"] == given.prediction


def test_the_entry_of_a_single_answer(home):
    given = asked(home)
    result = found(home, given.request_id)
    entry = result.log_entry
    assert (entry["position"], entry["digest_holds"], entry["chain_holds"]) == (1, True, True)
    assert entry["file"].startswith("predictions-")
    assert (entry["segment"], result.batch) == (None, None)


def test_a_changed_entry_is_told(home):
    given = asked(home)
    (file,) = PredictionLog(home.settings.log).files()
    with sqlite3.connect(file.path) as connection:
        connection.execute("UPDATE entry SET client_request_id = 'another'")
    result = found(home, given.request_id)
    assert (result.log_entry["digest_holds"], result.log_entry["chain_holds"]) == (False, True)


def test_a_row_of_a_batch(home):
    with logging_to(home.settings, live_of()) as logging:
        given = logging.ask_all([*toy_records(2), {"age": 130}, *toy_records(2)])
    result = found(home, given[3].request_id)
    assert (result.batch["sent_as"], result.batch["row"], result.batch["answers"]) == ("JSON", 3, 4)
    assert result.log_entry["commit"] == [1, 4]


def test_a_row_of_a_bulk_call(home):
    with logging_to(home.settings, live_of()) as logging:
        batch_id = logging.ask_in_bulk(toy_records(30))
    answer = answers_in(home.settings)[17]
    result = found(home, answer.request_id)
    assert result.batch == {"batch_id": batch_id, "sent_as": "Arrow stream", "row": 17, "answers": 30}
    assert (result.log_entry["segment_row"], result.log_entry["digest_holds"]) == (17, True)
    assert batch_id in result.log_entry["segment"]
    assert [row["value"] for row in result.input] == list(answer.input.values())


def test_of_an_erased_answer_what_is_left(home):
    given = asked(home, subject="somebody")
    erase(home.settings, answers_in(home.settings)[0])
    label(home, given.request_id, 1)
    result = found(home, given.request_id)
    assert (result.is_erased, result.answer, result.input, result.batch) == (True, None, None, None)
    assert (result.log_entry["digest_holds"], result.log_entry["chain_holds"]) == (None, True)
    assert result.lineage["model_hash"] == toy_model().model_hash
    assert result.model_now["gate"]["verdict"] == "passed"
    assert (result.labels["label"], result.labels["is_in_prediction_set"]) == (1, None)


def test_a_feature_version_that_this_code_does_not_have_leaves_the_values(home, monkeypatch):
    from ml_core.base.errors import UnknownFeatureVersion

    def unknown(_, name):
        raise UnknownFeatureVersion(name, ("v9",))

    given = asked(home)
    monkeypatch.setattr("ml_core.lab.past_answers.explained.kept_version", unknown)
    rows = found(home, given.request_id).input
    assert (rows[0]["value"], rows[0]["unit"]) == (71, "")


def test_an_unknown_id_and_no_id(home):
    assert audit(home.settings, nobodys_id()) is None
    with pytest.raises(ValueError):
        audit(home.settings, "visit-7")
