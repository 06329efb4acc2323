"""Rows that break a model stand alone, whatever they do to it, and nothing but probabilities comes out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import BadModelOutput, CircuitOpen, ModelUnavailable, NotLoaded
from ml_core.serve.running.runner import ConformalRunner, checked, score_rows
from tests.serve.answering.builders import BROKEN, CountingRunner, EchoRunner, OutputRunner, PoisonRunner, RaisesRunner
from tests.toy_models import loaded_toy, toy_model

MOST_ROWS = 60
FEW = 12  # so few poisoned rows cannot make 32 calls fail before one of up to 60 rows has been scored
MODEL = ConformalRunner(loaded_toy())


def distinct_rows(n: int) -> np.ndarray:
    """n feature rows of the toy model, all different."""
    version = toy_model().bundle.features
    return np.random.default_rng(n).uniform(0.0, 200.0, (n, len(version.feature_names))).astype(np.float32)


def echo_rows(n: int) -> np.ndarray:
    """n rows for an EchoRunner, all different."""
    return ((np.arange(n) + 1.0) / (n + 2.0)).astype(np.float32)[:, None]


def poison_at(features: np.ndarray, positions: set[int]):
    marks = {features[i].tobytes() for i in positions}
    return lambda rows: np.array([row.tobytes() in marks for row in rows])


def positions(n: int) -> st.SearchStrategy[tuple[int, set[int]]]:
    """A few rows, or any number of them as long as the first one is healthy."""
    few, others = st.sets(st.integers(0, n - 1), max_size=FEW), st.integers(1, max(1, n - 1))
    return st.tuples(st.just(n), few if n == 1 else few | st.sets(others))


poisoned_batches = st.integers(1, MOST_ROWS).flatmap(positions)
any_batches = st.integers(1, MOST_ROWS).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1))))


@pytest.mark.parametrize(("how", "fault"), [("raise", "model_error"), ("nan", "bad_output")])
@given(case=poisoned_batches)
@settings(deadline=None, max_examples=200)
def test_poisoned_rows_are_nan_and_the_others_keep_their_bits(case, how, fault):
    n, poisoned = case
    features = distinct_rows(n)
    alone = np.concatenate([MODEL.proba(features[i : i + 1]) for i in range(n)])
    scored = score_rows(PoisonRunner(poison_at(features, poisoned), how, MODEL), features, 2)
    assert np.flatnonzero(np.isnan(scored.proba).all(axis=1)).tolist() == sorted(poisoned)
    healthy = [i for i in range(n) if i not in poisoned]
    assert scored.proba[healthy].tobytes() == alone[healthy].tobytes()
    assert scored.fault == (fault if poisoned else None)


@pytest.mark.parametrize("how", ["raise", "nan"])
@given(case=any_batches)
@settings(deadline=None, max_examples=200)
def test_whatever_is_poisoned_an_answered_row_is_its_own_and_no_poisoned_row_is_answered(case, how):
    n, poisoned = case
    features = echo_rows(n)
    runner = CountingRunner(PoisonRunner(poison_at(features, poisoned), how))
    scored = score_rows(runner, features, 2)
    answered = ~np.isnan(scored.proba).any(axis=1)
    assert not answered[sorted(poisoned)].any()
    assert scored.proba[answered].tobytes() == EchoRunner().proba(features)[answered].tobytes()
    assert len(runner.calls) < 2 * n


@pytest.mark.parametrize("rows", [60, 1_000, 8_192])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_model_that_breaks_on_every_row_is_given_up_after_a_bound_of_calls(broken, rows):
    runner = CountingRunner(BROKEN[broken]())
    scored = score_rows(runner, echo_rows(rows), 2)
    assert np.isnan(scored.proba).all()
    assert len(runner.calls) == 32


def test_a_model_that_breaks_on_nearly_every_row_ends_after_a_bound_of_calls():
    features = echo_rows(8_192)
    runner = CountingRunner(PoisonRunner(poison_at(features, set(range(1, 8_192)))))
    scored = score_rows(runner, features, 2)
    assert not np.isnan(scored.proba[0]).any()
    assert np.isnan(scored.proba[1:]).all()
    assert len(runner.calls) <= 2 * 4_096


@pytest.mark.parametrize("rows", [2, 59, 8_192])
def test_one_poisoned_row_costs_two_calls_a_halving(rows):
    features = echo_rows(rows)
    runner = CountingRunner(PoisonRunner(poison_at(features, {rows - 1})))
    scored = score_rows(runner, features, 2)
    assert np.isnan(scored.proba[:, 0]).sum() == 1
    assert len(runner.calls) <= 1 + 2 * math.ceil(math.log2(rows))


def test_a_healthy_batch_is_one_call():
    runner = CountingRunner()
    assert score_rows(runner, echo_rows(500), 2).fault is None
    assert runner.calls == [500]


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize(
    "row",
    [
        [math.nan, math.nan], [math.nan, 1.0], [1.0, math.nan], [math.inf, 0.0], [math.inf, -math.inf], [-0.1, 1.1],
        [0.5, 0.51], [0.0, 0.0], [1e308, 1e308], [0.0, -math.inf], [-1e-12, 1.0],
    ],
)  # fmt: skip
def test_no_row_that_is_no_probabilities_comes_out(row, rows):
    scored = score_rows(OutputRunner(lambda n: np.tile(row, (n, 1))), echo_rows(rows), 2)
    assert np.isnan(scored.proba).all()
    assert scored.proba.shape == (rows, 2)
    assert scored.fault == "bad_output"


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_no_probability_above_one_comes_out(rows):
    proba = np.tile([0.0, 1.0 + 5e-6], (rows, 1))
    found = checked(proba, rows, 2).proba
    assert (np.isnan(found) | (found <= 1.0)).all()


@pytest.mark.parametrize(
    "output",
    [
        lambda n: np.full((n, 3), 1 / 3),
        lambda n: np.full((n, 1), 1.0),
        lambda n: np.full(n, 0.5),
        lambda n: np.full((n + 1, 2), 0.5),
        lambda n: np.full((n, 2, 1), 0.5),
        lambda n: np.full((0, 2), 0.5),
    ],
)
@pytest.mark.parametrize("rows", [1, 7])
def test_another_shape_is_no_answer_for_any_row(output, rows):
    scored = score_rows(OutputRunner(output), echo_rows(rows), 2)
    assert scored.proba.shape == (rows, 2)
    assert np.isnan(scored.proba).all()
    assert scored.fault == "bad_output"


@pytest.mark.parametrize("output", [None, "0.5", [0.5, 0.5], {"proba": 1}, object()])
@pytest.mark.parametrize("rows", [1, 7])
def test_what_is_no_array_is_a_model_error(output, rows):
    scored = score_rows(OutputRunner(lambda _: output), echo_rows(rows), 2)
    assert np.isnan(scored.proba).all()
    assert scored.fault == "model_error"


def test_a_row_within_the_tolerance_of_float32_is_an_answer():
    proba = np.array([[0.3, 0.7 + 5e-6]])
    assert checked(proba, 1, 2).fault is None
    assert checked(np.tile(proba, (9, 1)), 9, 2).fault is None


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("error", [ModelUnavailable("gone"), NotLoaded("gone"), CircuitOpen("c", "open", "x", 1.0)])
def test_a_runner_out_of_reach_blames_no_row(error, rows):
    with pytest.raises(ModelUnavailable) as caught:
        score_rows(RaisesRunner(error), echo_rows(rows), 2)
    assert caught.value is error


@pytest.mark.parametrize("rows", [1, 8])
def test_a_runner_that_refuses_its_own_output_blames_the_rows(rows):
    scored = score_rows(RaisesRunner(BadModelOutput("no probabilities")), echo_rows(rows), 2)
    assert (scored.fault, scored.proba.shape) == ("bad_output", (rows, 2))
    assert np.isnan(scored.proba).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_an_order_to_stop_is_no_fault_of_the_model(error):
    with pytest.raises(type(error)):
        score_rows(RaisesRunner(error), echo_rows(3), 2)


def test_the_log_says_once_how_many_rows_failed(caplog):
    score_rows(RaisesRunner(), echo_rows(30), 2)
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert (record.message, record.rows) == ("model.failed", 30)
