"""Answers that are asked to explain themselves: alone, in a batch, of a fallback; stored, and never at the answer's cost."""

from __future__ import annotations

import logging
import math

import orjson
import pytest

from ml_core.base.errors import InvalidRequest
from ml_core.serve.answering.requests import BatchRequest, parse_batch, parse_predict
from ml_core.serve.model.explanations import Explainer
from tests.homes import bento_store
from tests.lab.past_answers.logged import answers_in, logging_to
from tests.serve.answering.builders import RaisesRunner, live_model, live_of, opened, other_toy, toy_records
from tests.serve.answering.stored import Home
from tests.toy_models import loaded_toy, toy_record


@pytest.fixture
def home(tmp_path):
    with bento_store(tmp_path / "bento"):
        yield Home(tmp_path / "home")


def test_an_answer_explains_itself_only_where_it_is_asked(home):
    with logging_to(home.settings, live_of()) as asked:
        plain, told = asked.ask(toy_record()), asked.ask(toy_record(), explain=True)
    assert plain.explanation is None
    assert told.explanation.margin == pytest.approx(logit(told.probability), abs=1e-9)
    assert [each.explanation for each in answers_in(home.settings)] == [None, as_stored(told.explanation)]


def logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def as_stored(explanation):
    return orjson.loads(orjson.dumps(explanation))


def test_every_answer_of_a_batch_explains_itself_as_it_would_alone(home):
    records = toy_records(40)
    with logging_to(home.settings, live_of()) as asked:
        together = asked.ask_all([*records, {"age": -1}], explain=True)
        alone = [asked.ask(record, explain=True).explanation for record in records]
    assert [each.explanation for each in together[:-1]] == alone
    stored = [each.explanation for each in answers_in(home.settings)]
    assert stored == [as_stored(one) for one in alone] * 2


def test_a_bulk_call_explains_nothing(home):
    with logging_to(home.settings, live_of()) as asked:
        asked.ask_in_bulk(toy_records(3))
    assert [each.explanation for each in answers_in(home.settings)] == [None] * 3


def second():
    return live_model(model=other_toy())


FALLBACKS = {
    "scorecard": (lambda: live_of(opened(live_model())), "linear"),
    "previous": (lambda: live_of(opened(live_model()), previous=second()), "tree_shap"),
    "prior": (lambda: live_of(live_model(RaisesRunner())), None),
}


@pytest.mark.parametrize("kind", FALLBACKS)
def test_a_fallback_is_explained_by_what_gave_it(home, kind):
    live, method = FALLBACKS[kind]
    with logging_to(home.settings, live()) as asked:
        alone, (one, *_) = asked.ask(toy_record(), explain=True), asked.ask_all([toy_record()] * 3, explain=True)
    assert alone.lineage.slot == kind
    assert alone.explanation == one.explanation
    assert alone.explanation.method == method
    if kind == "prior":
        assert "no model gave this answer" in alone.explanation.reason
    else:
        assert alone.explanation.margin == pytest.approx(logit(alone.probability), abs=1e-9)


def test_an_explanation_that_fails_does_not_cost_the_answer(home, monkeypatch, caplog):
    monkeypatch.setattr(Explainer, "explain", lambda *_: 1 / 0)
    with logging_to(home.settings, live_of()) as asked, caplog.at_level(logging.ERROR):
        told, (one,) = asked.ask(toy_record(), explain=True), asked.ask_all([toy_record()], explain=True)
    assert told.prediction_set == one.prediction_set
    assert {told.explanation.reason, one.explanation.reason} == {"it could not be worked out here"}
    assert [record.msg for record in caplog.records] == ["explanation.failed"] * 2


def test_a_worker_that_never_explains_makes_nothing(home):
    model = live_model(model=loaded_toy())
    with logging_to(home.settings, live_of(model)) as asked:
        asked.ask(toy_record())
        asked.ask_all(toy_records(5))
    assert "explainer" not in vars(model.model.predictor)


@pytest.mark.parametrize("value", [1, 0, "true", [], {}])
def test_explain_is_true_or_false(value):
    with pytest.raises(InvalidRequest, match="explain: must be true or false"):
        parse_predict({"features": {}, "explain": value})
    with pytest.raises(InvalidRequest, match="explain: must be true or false"):
        parse_batch({"records": [{}], "explain": value}, 10)


def test_a_batch_is_not_explained_unless_it_is_asked_for():
    assert parse_batch({"records": [{}]}, 10) == BatchRequest([{}], explain=False)
    assert parse_batch({"records": [{}], "explain": None}, 10).explain is False
    assert parse_batch({"records": [{}], "explain": True}, 10).explain is True
