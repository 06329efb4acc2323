"""Who answers when the model does not, step by step, and that nobody is told less than the truth about it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ml_core.base.errors import (
    BadModelOutput,
    CircuitOpen,
    DeadlineExceeded,
    ModelUnavailable,
    NotLoaded,
    Overloaded,
)
from ml_core.base.settings import Settings
from ml_core.serve.rollout.rollout_state import FALLBACK_STEPS
from ml_core.serve.running.runner import ConformalRunner
from tests.serve.answering.builders import (
    BROKEN,
    REASON,
    ROW_CAUSED,
    CountingRunner,
    LateRunner,
    RaisesRunner,
    SlowRunner,
    ask,
    ask_all,
    live_model,
    live_of,
    numbers,
    opened,
    other_toy,
    toy_records,
)
from tests.toy_models import loaded_toy, toy_model, toy_record

RECORDS = toy_records(40)
SCORECARD_ID = toy_model().bundle.scorecard_calibration.calibration_id


def away(reason):
    model = live_model()
    model.guard.unavailable = reason
    return model


def stuck_model():
    """A model whose only thread is held by a call that its caller gave up."""
    slow = SlowRunner()
    model = live_model(slow, settings=Settings(deadline_ms=10, pool_threads=1, pool_queue=0))
    assert ask(live_of(model)).fallback_reason == "deadline"
    return model, slow.go


def overloaded_model():
    class Busy:
        async def ascore(self, features):
            raise Overloaded(256, 256)

    return live_model(Busy(), model=other_toy())


def previous_model(runner=None):
    return live_model(runner, model=other_toy())


# --- decided before the row -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [p for n in (1, 2, 3) for p in permutations(FALLBACK_STEPS, n)])
def test_the_first_step_of_the_flags_that_can_answer_does(steps):
    with_previous = ask(live_of(opened(live_model()), previous=previous_model(), flags={"fallback": steps}))
    assert (with_previous.lineage.slot, with_previous.fallback_reason) == (steps[0], "circuit_open")
    rest = [step for step in steps if step != "previous"]
    without = live_of(opened(live_model()), flags={"fallback": steps})
    if rest:
        assert ask(without).lineage.slot == rest[0]
    else:
        with pytest.raises(CircuitOpen):
            ask(without)


def test_the_previous_champion_gives_its_own_answers_under_its_own_name():
    previous = previous_model()
    theirs = ask(live_of(previous))
    found = ask(live_of(opened(live_model()), previous=previous))
    assert numbers(found) == numbers(theirs)
    assert (found.fallback_used, found.fallback_reason, found.lineage.slot) == (True, "circuit_open", "previous")
    lineage = replace(found.lineage, slot="champion", timestamp=theirs.lineage.timestamp)
    assert lineage == theirs.lineage


@pytest.mark.parametrize(
    "previous",
    [lambda: opened(previous_model()), lambda: overloaded_model(), lambda: None],
    ids=["open", "busy", "none"],
)
def test_a_previous_champion_that_cannot_answer_is_passed_over(previous):
    found = ask(live_of(opened(live_model()), previous=previous()))
    assert (found.lineage.slot, found.fallback_reason) == ("scorecard", "circuit_open")


@pytest.mark.parametrize("fault", ROW_CAUSED)
def test_a_row_that_breaks_the_previous_champion_gets_every_label(fault):
    found = ask(live_of(opened(live_model()), previous=previous_model(ROW_CAUSED[fault]())))
    assert (found.lineage.slot, found.fallback_reason, found.prediction_set) == ("prior", REASON[fault], [0, 1])


@pytest.mark.parametrize("reason", ["circuit_open", "model_not_loaded", "runner_lost"])
def test_the_scorecard_answers_with_its_own_calibration(reason):
    model = opened(live_model()) if reason == "circuit_open" else away(reason)
    bundle, columns = toy_model().bundle, model.reader.arrays([model.reader.read(r) for r in RECORDS])
    features = model.transform(columns)
    proba = model.baseline._scorecard.proba(features)
    expected = bundle.scorecard_calibration.rows(proba, Decimal("0.9"))
    for i, found in enumerate(ask_all(live_of(model), RECORDS).predictions):
        assert (found.lineage.slot, found.fallback_reason, found.fallback_used) == ("scorecard", reason, True)
        assert found.lineage.calibration_id == SCORECARD_ID != bundle.manifest.calibration_id
        assert list(found.p_values.values()) == expected.p_values[i].tolist()
        assert found.prediction_set == np.flatnonzero(expected.sets[i]).tolist()
        assert found.probability == proba[i, 1]


def test_a_stuck_model_is_answered_for_by_the_scorecard():
    model, go = stuck_model()
    try:
        found = ask(live_of(model))
        assert (found.lineage.slot, found.fallback_reason) == ("scorecard", "stuck")
    finally:
        go.set()


@pytest.mark.parametrize("broken", [RaisesRunner, BROKEN["nan"], BROKEN["shape"]])
def test_a_scorecard_that_fails_leaves_the_answer_to_the_next_step(broken):
    model = opened(live_model())
    model.baseline._scorecard = broken()
    found = ask(live_of(model))
    assert (found.lineage.slot, found.fallback_reason, found.prediction_set) == ("prior", "circuit_open", [0, 1])
    with pytest.raises(CircuitOpen):
        ask(live_of(model, flags={"fallback": ("scorecard",)}))


# --- caused by the row ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [FALLBACK_STEPS, ("scorecard",), ("previous",), ("prior",)])
@pytest.mark.parametrize("fault", ROW_CAUSED)
def test_a_row_that_breaks_the_model_gets_every_label_whatever_the_flags(fault, steps):
    live = live_of(live_model(ROW_CAUSED[fault]()), previous=previous_model(), flags={"fallback": steps})
    one, (of_batch,) = ask(live), ask_all(live, [toy_record()]).predictions
    for found in (one, of_batch):
        assert (found.lineage.slot, found.fallback_used, found.fallback_reason) == ("prior", True, REASON[fault])
        assert found.prediction_set == [0, 1]
        assert found.p_values == {"0": 1.0, "1": 1.0}
        assert found.prediction == 0  # the more frequent class
        prior = toy_model().bundle.fallback["prior"]
        assert (found.probability, found.confidence) == (prior["1"], prior["0"])


# --- a canary ---------------------------------------------------------------------------------------------------------


def canary(challenger, champion=None, **facts):
    return live_of(champion, challenger=challenger, mode="canary", weight=1.0, **facts)


def test_a_canary_with_an_open_circuit_is_answered_by_the_champion_and_flagged():
    champion = live_model()
    healthy = [ask(live_of(champion), record) for record in RECORDS]
    live = canary(opened(previous_model()), champion, previous=live_model(model=other_toy()))
    for before, found in zip(healthy, (ask(live, record) for record in RECORDS), strict=True):
        assert numbers(found) == numbers(before)
        assert (found.fallback_used, found.fallback_reason, found.lineage.slot) == (True, "circuit_open", "champion")
    assert live.counts["challenger"].fallbacks == {"circuit_open": len(RECORDS)}
    assert (live.counts["challenger"].answers, live.counts["challenger"].calls) == (len(RECORDS), 0)


def test_a_canary_and_a_champion_with_open_circuits_leave_it_to_the_chain():
    live = canary(opened(previous_model()), opened(live_model()))
    found = ask(live)
    assert (found.lineage.slot, found.fallback_reason) == ("scorecard", "circuit_open")
    assert found.lineage.calibration_id == other_toy().predictor.bundle.scorecard_calibration.calibration_id


@pytest.mark.parametrize("fault", ROW_CAUSED)
def test_a_row_that_breaks_the_canary_is_not_shown_to_the_champion(fault):
    champion = CountingRunner(ConformalRunner(loaded_toy()))
    found = ask(canary(previous_model(ROW_CAUSED[fault]()), live_model(champion)))
    assert (found.lineage.slot, found.fallback_reason, found.prediction_set) == ("prior", REASON[fault], [0, 1])
    assert champion.calls == []


@pytest.mark.parametrize("fault", ROW_CAUSED)
@pytest.mark.parametrize("steps", [FALLBACK_STEPS, ()])
def test_every_failure_of_a_canary_is_counted_for_its_guards(fault, steps):
    live = canary(previous_model(ROW_CAUSED[fault]()), flags={"fallback": steps})
    for record in RECORDS[:3]:
        try:
            ask(live, record)
        except ModelUnavailable:
            assert steps == ()
    counts = live.counts["challenger"]
    assert (counts.answers, counts.calls, counts.failures) == (3, 3, 3)
    assert counts.fallbacks == {REASON[fault]: 3}
    assert live.counts["champion"].answers == 0


# --- no fallback ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (lambda: opened(live_model()), CircuitOpen),
        (lambda: live_model(LateRunner()), DeadlineExceeded),
        (lambda: live_model(BROKEN["nan"]()), BadModelOutput),
        (lambda: live_model(BROKEN["shape"]()), BadModelOutput),
        (lambda: live_model(RaisesRunner()), ModelUnavailable),
        (lambda: away("model_not_loaded"), NotLoaded),
        (lambda: away("runner_lost"), ModelUnavailable),
    ],
)
def test_without_a_fallback_the_caller_is_told_why(model, error):
    live = live_of(model(), previous=previous_model(), flags={"fallback": ()})
    for asking in (lambda: ask(live), lambda: ask_all(live, [toy_record()] * 2)):
        with pytest.raises(error) as caught:
            asking()
        assert type(caught.value) is error


def test_without_a_fallback_an_open_circuit_says_when_to_ask_again():
    with pytest.raises(CircuitOpen) as caught:
        ask(live_of(opened(live_model()), flags={"fallback": ()}))
    assert caught.value.retry_after_s == 60.0


# --- flagged, always --------------------------------------------------------------------------------------------------

MODELS = {
    "healthy": lambda: live_model(),
    "open": lambda: opened(live_model()),
    "not loaded": lambda: away("model_not_loaded"),
    "lost": lambda: away("runner_lost"),
    **{fault: lambda fault=fault: live_model(ROW_CAUSED[fault]()) for fault in ROW_CAUSED},
}
OTHERS = {
    "none": lambda: None,
    "healthy": lambda: previous_model(),
    "open": lambda: opened(previous_model()),
    "busy": lambda: overloaded_model(),
    **{fault: lambda fault=fault: previous_model(ROW_CAUSED[fault]()) for fault in ROW_CAUSED},
}


@given(
    champion=st.sampled_from(sorted(MODELS)),
    previous=st.sampled_from(sorted(OTHERS)),
    challenger=st.sampled_from(sorted(OTHERS.keys() - {"busy"})),
    steps=st.sampled_from([p for n in range(4) for p in permutations(FALLBACK_STEPS, n)]),
    n=st.integers(1, 3),
)
@examples(deadline=None, max_examples=300)
def test_an_answer_is_the_asked_models_own_or_it_is_flagged(champion, previous, challenger, steps, n):
    others = {"previous": OTHERS[previous](), "challenger": OTHERS[challenger]()}
    mode = {"mode": "canary", "weight": 1.0} if others["challenger"] else {}
    live = live_of(MODELS[champion](), flags={"fallback": steps}, **others, **mode)
    asked = "challenger" if others["challenger"] else "champion"
    healthy = (challenger if others["challenger"] else champion) == "healthy"
    try:
        answers = [ask(live, RECORDS[0]), *ask_all(live, RECORDS[:n]).predictions]
    except ModelUnavailable:
        assert not healthy
        return
    for found in answers:
        assert (
            found.fallback_used == (found.fallback_reason is not None) == (found.lineage.slot != asked) == (not healthy)
        )
        assert found.lineage.slot in {asked, "champion", *steps, "prior"}
        if found.lineage.slot == "prior":
            assert (found.prediction_set, set(found.p_values.values())) == ([0, 1], {1.0})


@pytest.mark.parametrize("champion", ["healthy", "open", "nan"])
def test_the_level_is_the_requests_else_the_flags_else_the_models(champion):
    def level(flags, request):
        live = live_of(MODELS[champion](), flags=flags)
        one = ask(live, level=request)
        (of_batch,) = ask_all(live, [toy_record()], level=request).predictions
        assert one.confidence_level == of_batch.confidence_level
        return one.confidence_level

    assert level({}, None) == 0.9
    assert level({"confidence_level": "0.8"}, None) == 0.8
    assert level({"confidence_level": "0.8"}, Decimal("0.95")) == 0.95


def test_a_service_with_nothing_loaded_says_why():
    from ml_core.serve.answering.inference import InferenceService
    from ml_core.serve.answering.requests import PredictRequest

    service = InferenceService(None)
    service.problem = "toy:v1 is not in the Bento store"
    with pytest.raises(NotLoaded, match="Bento store"):
        asyncio.run(service.predict(PredictRequest(toy_record())))


def test_where_a_canary_has_no_room_the_champion_answers_and_its_guards_hear_of_it():
    live = live_of(challenger=overloaded_model(), mode="canary", weight=1.0)
    answer = ask(live)
    assert (answer.lineage.slot, answer.fallback_reason) == ("champion", "stuck")
    assert live.counts["challenger"].fallbacks == {"stuck": 1}
    assert ask_all(live, RECORDS[:3]).predictions[0].lineage.slot == "champion"


def test_where_the_champion_has_no_room_the_caller_is_asked_to_come_again():
    with pytest.raises(Overloaded):
        ask(live_of(overloaded_model()))
