"""Every kind of answer that the service logs is given again bit for bit, and one changed bit is noticed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ml_core.lab.past_answers.past_models import PastModels
from ml_core.lab.past_answers.replayer import Replayed, Replayer
from ml_core.serve.log.log_places import place_of
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.running.runner import ConformalRunner
from tests.homes import bento_store
from tests.lab.past_answers.logged import answers_in, logging_to
from tests.lab.past_answers.scoring import FOLDERS, drawn_records
from tests.serve.answering.builders import (
    PoisonRunner,
    RaisesRunner,
    live_model,
    live_of,
    opened,
    other_toy,
    toy_records,
)
from tests.serve.answering.stored import Home
from tests.toy_models import loaded_toy

RECORDS = toy_records(40)


def second(runner=None):
    return live_model(runner, model=other_toy())


def canary(challenger, champion=None):
    return live_of(champion or live_model(), challenger=challenger, mode="canary", weight=1.0)


def breaks_on_the_old(model=None):
    """A model that gives nothing for anybody above sixty."""
    return PoisonRunner(lambda features: features[:, 0] > 60, "nan", ConformalRunner(model or loaded_toy()))


KINDS = {
    "own": (lambda: live_of(), {"champion"}),
    "own, level by flag": (lambda: live_of(flags={"confidence_level": "0.95"}), {"champion"}),
    "canary": (lambda: canary(second()), {"challenger"}),
    "champion for a canary": (lambda: canary(opened(second())), {"champion"}),
    "previous": (lambda: live_of(opened(live_model()), previous=second()), {"previous"}),
    "scorecard": (lambda: live_of(opened(live_model())), {"scorecard"}),
    "scorecard of a canary": (lambda: canary(opened(second()), opened(live_model())), {"scorecard"}),
    "prior by order": (lambda: live_of(opened(live_model()), flags={"fallback": ["prior"]}), {"prior"}),
    "prior by the row": (lambda: live_of(live_model(RaisesRunner())), {"prior"}),
    "some rows break it": (lambda: live_of(live_model(breaks_on_the_old())), {"champion", "prior"}),
}


@pytest.fixture
def home(tmp_path):
    with bento_store(tmp_path / "bento"):
        yield Home(tmp_path / "home")


def replayed(home: Home, answers=None, **options) -> list[Replayed]:
    replayer = Replayer(PastModels(home.settings), place_of(home.settings), **options)
    return list(replayer.run(answers_in(home.settings) if answers is None else answers))


def states(found: list[Replayed]) -> Counter[str]:
    return Counter(one.state for one in found)


def log_everything(home: Home, live, records=RECORDS) -> int:
    """Single requests, a batch and a bulk call, at the usual level and at another; how many answers."""
    with logging_to(home.settings, live) as asked:
        for record in records[:5]:
            asked.ask(record)
        asked.ask(records[5], level=Decimal("0.8"), client_request_id="visit-7", subject="somebody")
        asked.ask_all(records)
        asked.ask_all(records[:7], level=Decimal("0.999"))
        asked.ask_in_bulk(records)
        asked.ask_in_bulk(records[:9], level=Decimal("0.55"))
    return 6 + 2 * len(records) + 16


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_answer_is_given_again(home, kind):
    live, slots = KINDS[kind]
    n = log_everything(home, live())
    assert {answer.lineage["slot"] for answer in answers_in(home.settings)} >= slots
    found = replayed(home)
    assert states(found) == {"equal": n}
    assert {(one.differs, one.max_difference) for one in found} == {((), 0.0)}


def test_rows_that_break_the_previous_champion_are_given_again(home):
    log_everything(home, live_of(opened(live_model()), previous=second(breaks_on_the_old(other_toy()))))
    assert set(states(replayed(home))) == {"equal"}


@pytest.mark.parametrize("is_open", [False, True], ids=["model", "scorecard"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_kind_of_model_gives_its_answers_again(home, folder, is_open):
    model = ModelLoader(home.settings).load(home.add("7", FOLDERS[folder]()))
    live = live_model(model=model)
    n = log_everything(home, live_of(opened(live) if is_open else live), drawn_records(model, 60))
    assert states(replayed(home)) == {"equal": n}


@pytest.fixture
def logged(home):
    log_everything(home, live_of())
    return answers_in(home.settings)


@pytest.mark.parametrize("block_rows", [1, 7, 64])
def test_bits_do_not_depend_on_the_block(home, logged, block_rows):
    with logging_to(home.settings, live_of(opened(live_model()))) as asked:
        asked.ask_all(RECORDS)
    with logging_to(home.settings, canary(second())) as asked:
        asked.ask_all(RECORDS)
    mixed = [x for pair in zip(*[iter(answers_in(home.settings))] * 2, strict=False) for x in reversed(pair)]
    found = replayed(home, mixed, block_rows=block_rows)
    assert [one.request_id for one in found] == [answer.request_id for answer in mixed]
    assert states(found) == {"equal": len(mixed)}


def test_no_more_than_a_block_is_read_ahead(home, logged):
    read = []
    found = Replayer(PastModels(home.settings), place_of(home.settings), block_rows=8).run(
        read.append(a) or a for a in logged
    )
    next(found)
    assert len(read) == 8


@examples(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_the_smallest_change_of_a_number_is_noticed(home, logged, data):
    answer = data.draw(st.sampled_from(logged))
    part = data.draw(st.sampled_from(["probabilities", "p_values"]))
    k = data.draw(st.integers(0, 1))
    numbers = list(getattr(answer, part))
    numbers[k] = math.nextafter(numbers[k], data.draw(st.sampled_from([-1.0, 2.0])))
    (found,) = replayed(home, [replace(answer, **{part: tuple(numbers)})])
    assert (found.state, found.differs) == ("different", (part,))
    assert 0 < found.max_difference < 1e-15


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"prediction": 7}, "prediction"),
        ({"prediction_set": ()}, "prediction_set"),
        ({"prediction_set": (1, 0)}, "prediction_set"),
        ({"input_hash": "0" * 64}, "input_hash"),
        ({"probabilities": (0.2, 0.3, 0.5)}, "probabilities"),
    ],
)
def test_a_change_of_any_other_part_is_noticed(home, logged, change, differs):
    (found,) = replayed(home, [replace(logged[0], **change)])
    assert (found.state, found.differs) == ("different", (differs,))


def test_another_calibration_than_the_lineage_names_is_noticed(home, logged):
    (found,) = replayed(home, [replace(logged[0], lineage={**logged[0].lineage, "calibration_id": "0" * 64})])
    assert (found.state, found.differs) == ("different", ("calibration_id",))


def test_an_input_that_was_changed_behind_the_answers_back_is_noticed_by_its_hash(home, logged):
    """Too small a change to reach the model: float32 features are the same."""
    in_batch = next(answer for answer in logged if answer.batch_id and answer.input["glucose"] is not None)
    changed = {**in_batch.input, "glucose": math.nextafter(in_batch.input["glucose"], 600)}
    (found,) = replayed(home, [replace(in_batch, input=changed)])
    assert (found.state, found.differs) == ("different", ("input_hash",))


def test_an_input_that_is_no_record_any_more_is_a_difference_and_is_not_quoted(home, logged):
    (found,) = replayed(home, [replace(logged[0], input={**logged[0].input, "age": 987})])
    assert (found.state, found.differs) == ("different", ("input",))
    assert "age" in found.note
    assert "987" not in found.note


def test_a_row_that_breaks_the_model_now_costs_the_others_nothing(home, logged):
    models = PastModels(home.settings)
    model = models.find(logged[0].lineage)
    model.predictor.scorer = breaks_on_the_old()
    found = list(Replayer(models, place_of(home.settings)).run(logged))
    for answer, one in zip(logged, found, strict=True):
        is_old = answer.input["age"] > 60
        assert one.state == ("different" if is_old else "equal")
        assert ("gives no probabilities" in one.note) == is_old


def test_software_that_has_changed_since_is_named_beside_a_difference(home, logged):
    software = {**logged[0].lineage["software"], "onnxruntime": "1.0.0", "gone": "3"}
    changed = replace(logged[0], prediction=7, lineage={**logged[0].lineage, "software": software})
    (found,) = replayed(home, [changed])
    assert "onnxruntime 1.0.0 then" in found.note
    assert "gone 3 then, not installed now" in found.note
    assert "numpy" not in found.note


def test_answers_without_their_input_say_so(tmp_path):
    with bento_store(tmp_path / "bento"):
        home = Home(tmp_path / "home", log_inputs=False)
        n = log_everything(home, live_of())
        assert states(replayed(home)) == {"input_not_kept": n}


def test_what_is_settled_already_is_passed_on_in_its_place(home, logged):
    settled = Replayed("x", "unknown_id")
    assert [one.state for one in replayed(home, [logged[0], settled, logged[1]])] == ["equal", "unknown_id", "equal"]


def test_each_model_of_a_mixed_log_answers_for_itself(home, logged):
    with logging_to(home.settings, canary(second())) as asked:
        asked.ask_all(RECORDS)
    found = replayed(home)
    assert {one.place for one in found} == {home.v1, home.v2}
    assert set(states(found)) == {"equal"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "some rows break it"])
def test_an_explanation_that_was_given_with_an_answer_is_given_again_to_the_bit(home, kind):
    with logging_to(home.settings, KINDS[kind][0]()) as asked:
        for record in RECORDS[:5]:
            asked.ask(record, explain=True)
        asked.ask_all(RECORDS, explain=True)
    logged = answers_in(home.settings)
    assert {answer.explanation is None for answer in logged} == {False}
    assert states(replayed(home)) == {"equal": 5 + len(RECORDS)}


def test_the_smallest_change_of_an_explanation_is_noticed(home):
    with logging_to(home.settings, live_of()) as asked:
        asked.ask(RECORDS[0], explain=True)
    (answer,) = answers_in(home.settings)
    parts = answer.explanation["contributions"]
    moved = {**parts[-1], "contribution": math.nextafter(parts[-1]["contribution"], 9.0)}
    for changed in ({"contributions": [*parts[:-1], moved]}, {"reason": "none"}):
        (found,) = replayed(home, [replace(answer, explanation={**answer.explanation, **changed})])
        assert (found.state, found.differs) == ("different", ("explanation",))
