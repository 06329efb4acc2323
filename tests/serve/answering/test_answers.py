"""What is counted of answers: for the guards of a canary, for the metrics, and in one line for people."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import numpy as np
import pytest
from prometheus_client import REGISTRY

from ml_core.base.errors import ModelUnavailable
from ml_core.base.settings import Settings
from ml_core.serve.answering.live import LiveModel
from ml_core.serve.rollout.rollout_state import GuardLimits
from ml_core.serve.running.runner import ConformalRunner, GuardedRunner
from tests.serve.answering.builders import (
    BROKEN,
    PoisonRunner,
    as_version,
    ask,
    ask_all,
    breaker_of,
    live_model,
    live_of,
    opened,
    toy_records,
)
from tests.serve.running.fake_clock import FakeClock
from tests.toy_models import NAME, loaded_toy, toy_record

RECORDS = toy_records(50)


def timed(ms: float) -> LiveModel:
    """The toy model, which takes so many milliseconds of a fake clock a call."""
    clock, inner, settings = FakeClock(0.0), ConformalRunner(loaded_toy()), Settings()

    class Timed:
        is_quick = True

        def proba(self, features):
            clock.advance(ms / 1000)
            return inner.proba(features)

    return LiveModel(loaded_toy(), GuardedRunner(Timed(), breaker_of(settings, clock), 2, settings, clock))


@pytest.mark.parametrize(("road", "calls"), [("one by one", 50), ("in a batch", 1)])
def test_answers_calls_and_set_sizes_are_counted(road, calls):
    live = live_of()
    answers = [ask(live, r) for r in RECORDS] if road == "one by one" else ask_all(live, RECORDS).predictions
    counts = live.counts["champion"]
    assert (counts.answers, counts.calls, counts.failures, counts.fallbacks) == (50, calls, 0, Counter())
    assert +counts.set_sizes == Counter(len(answer.prediction_set) for answer in answers)


@pytest.mark.parametrize(
    ("ms", "rows", "slow"), [(100.0, 1, 0), (100.1, 1, 1), (148.9, 50, 0), (149.1, 50, 1), (5_000.0, 50, 1)]
)
def test_a_call_is_slow_for_the_guards_beyond_their_limit_and_a_millisecond_a_further_row(ms, rows, slow):
    live = live_of(timed(ms), guards=GuardLimits(set_size=1.9, slow_ms=100.0))
    ask(live) if rows == 1 else ask_all(live, RECORDS[:rows])
    assert (live.counts["champion"].slow, live.counts["champion"].calls) == (slow, 1)


def test_without_guards_nothing_is_slow():
    live = live_of(timed(5_000.0))
    ask(live)
    assert live.counts["champion"].slow == 0


@pytest.mark.parametrize("road", ["one by one", "in a batch"])
def test_rows_that_nothing_may_answer_are_counted_as_badly_as_fallbacks(road):
    live = live_of(live_model(BROKEN["raises"]()), flags={"fallback": ()})
    for records in [[r] for r in RECORDS[:4]] if road == "one by one" else [RECORDS[:4]]:
        with pytest.raises(ModelUnavailable):
            ask(live, records[0]) if road == "one by one" else ask_all(live, records)
    counts = live.counts["champion"]
    assert (counts.answers, counts.fallbacks) == (4, {"model_error": 4})
    assert counts.failures == counts.calls == (4 if road == "one by one" else 1)


def test_of_a_batch_only_the_rows_that_broke_it_are_fallbacks():
    model = live_model()
    poison = model.transform(model.reader.arrays([model.reader.read(RECORDS[3])])).tobytes()
    runner = PoisonRunner(lambda x: np.array([r.tobytes() == poison for r in x]), "nan", ConformalRunner(loaded_toy()))
    live = live_of(live_model(runner))
    ask_all(live, RECORDS)
    counts = live.counts["champion"]
    assert (counts.answers, counts.calls, counts.failures, counts.fallbacks) == (50, 1, 1, {"bad_output": 1})


# --- in the log and in the metrics ------------------------------------------------------------------------------------


def degraded(caplog) -> list:
    return [record for record in caplog.records if record.message == "answer.degraded"]


def test_a_degraded_answer_is_one_line_that_says_who_gave_it_and_why(caplog):
    caplog.set_level("INFO")
    answer = ask(live_of(opened(live_model())), toy_record(glucose=123.456))
    (line,) = degraded(caplog)
    assert (line.request_id, line.asked, line.model_hash) == (answer.request_id, "champion", loaded_toy().model_hash)
    assert (line.reasons, line.answered_by) == ({"circuit_open": 1}, {"scorecard": 1})
    assert "123.456" not in str(line.__dict__)


def test_a_degraded_batch_is_one_line_and_a_healthy_one_none(caplog):
    caplog.set_level("INFO")
    ask_all(live_of(), RECORDS)
    assert degraded(caplog) == []
    ask_all(live_of(live_model(BROKEN["nan"]())), RECORDS)
    (line,) = degraded(caplog)
    assert (line.reasons, line.answered_by) == ({"bad_output": 50}, {"prior": 50})


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_metrics_count_answers_by_who_gave_them_and_why():
    labels = {"model_name": NAME, "model_version": "71", "slot": "champion", "fallback_reason": ""}
    model = live_model(model=as_version("71"))
    ask(live_of(model))
    ask_all(live_of(model), RECORDS)
    assert sample("surety_answers_total", **labels) == 51
    ask(live_of(opened(model)), level=Decimal("0.8"))
    assert sample("surety_answers_total", **labels) == 51
    assert sample("surety_answers_total", **{**labels, "slot": "scorecard", "fallback_reason": "circuit_open"}) == 1
