"""The hop to a runner in another process: calls cross together, get their own rows back, and are lost together alone."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ml_core.base.errors import ModelUnavailable, NotLoaded, Overloaded
from ml_core.base.settings import Settings
from ml_core.serve.running.isolated_runner import MOST_WAITING, IsolatedRunner, RemoteScorer
from ml_core.serve.running.runner import score_rows
from tests.serve.answering.builders import WAIT_S, EchoRunner, PoisonRunner, ask, live_model, live_of

HASH = "a" * 64


class Hop:
    """The other side: a model, and a gate that holds hops back while it is shut."""

    def __init__(self, model=None, *, shut: bool = False) -> None:
        self.model = model or EchoRunner()
        self.rows: list[int] = []
        self.hashes: set[str] = set()
        self.gate = asyncio.Event()
        if not shut:
            self.gate.set()

    async def __call__(self, model_hash, features):
        self.rows.append(len(features))
        self.hashes.add(model_hash)
        await self.gate.wait()
        found = score_rows(self.model, features, 2)
        return found.proba, found.fault


def features(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


def runner(hop, deadline_s: float = WAIT_S) -> IsolatedRunner:
    return IsolatedRunner(hop, HASH, deadline_s)


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_hundred_calls_at_once_cross_in_one_or_two_hops():
    async def go():
        hop = Hop()
        mine = runner(hop)
        found = await asyncio.gather(*(mine.ascore(features(i / 100)) for i in range(100)))
        return hop, found

    hop, found = asyncio.run(go())
    assert len(hop.rows) <= 2
    assert (sum(hop.rows), hop.hashes) == (100, {HASH})
    assert [scored.proba[0, 1] for scored in found] == [float(np.float32(i / 100)) for i in range(100)]


def test_calls_that_come_while_two_hops_are_under_way_wait_and_cross_together():
    async def go():
        hop = Hop(shut=True)
        mine = runner(hop)
        calls = []
        for n in (1, 1, 98):
            calls += [asyncio.create_task(mine.ascore(features(0.5))) for _ in range(n)]
            await settle()
        hop.gate.set()
        await asyncio.gather(*calls)
        return hop.rows

    assert asyncio.run(go()) == [1, 1, 98]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=30), st.sets(st.integers(0, 200), max_size=5))
@examples(deadline=None, max_examples=100)
def test_every_call_gets_its_own_rows_and_its_own_faults(sizes, poisoned):
    starts = np.cumsum([0, *sizes])
    values = (np.arange(starts[-1]) + 1) / 1_000
    broken = {float(np.float32(values[i])) for i in poisoned if i < len(values)}
    model = PoisonRunner(lambda x: np.array([float(v) in broken for v in x[:, 0]]))

    async def go():
        mine = runner(Hop(model))
        parts = [features(*values[a:b]) for a, b in pairwise(starts)]
        return parts, await asyncio.gather(*(mine.ascore(part) for part in parts))

    for part, scored in zip(*asyncio.run(go()), strict=True):
        bad = np.array([float(v) in broken for v in part[:, 0]])
        assert np.isnan(scored.proba).all(axis=1).tolist() == bad.tolist()
        assert scored.proba[~bad].tobytes() == EchoRunner().proba(part)[~bad].tobytes()
        assert scored.fault == ("model_error" if bad.any() else None)


def test_many_rows_cross_in_bites_and_a_large_call_whole():
    async def go():
        hop = Hop(shut=True)
        mine = runner(hop)
        first = [asyncio.create_task(mine.ascore(features(0.1))) for _ in range(2)]
        await settle()
        rest = [asyncio.create_task(mine.ascore(features(*[0.2] * 3_000))) for _ in range(4)]
        rest.append(asyncio.create_task(mine.ascore(features(*[0.3] * 9_000))))
        await settle()
        hop.gate.set()
        found = await asyncio.gather(*first, *rest)
        return hop.rows, [len(scored.proba) for scored in found]

    rows, lengths = asyncio.run(go())
    assert lengths == [1, 1, 3_000, 3_000, 3_000, 3_000, 9_000]
    assert sorted(rows[2:] if rows[:2] == [1, 1] else rows[1:]) == [6_000, 6_000, 9_000]


# --- lost on the way --------------------------------------------------------------------------------------------------


def raising(error):
    async def cross(model_hash, rows):
        raise error

    return cross


def giving(answer):
    async def cross(model_hash, rows):
        return answer(rows)

    return cross


@pytest.mark.parametrize(
    "cross",
    [
        raising(ConnectionResetError()),
        raising(RuntimeError("x")),
        raising(TimeoutError()),
        giving(lambda rows: None),
        giving(lambda rows: "nonsense"),
        giving(lambda rows: (None, None)),
        giving(lambda rows: (np.full((len(rows) - 1, 2), 0.5), None)),
        giving(lambda rows: (np.full((len(rows) + 1, 2), 0.5), None)),
        giving(lambda rows: (0.5, None)),
    ],
    ids=["reset", "raises", "timeout", "no model", "text", "nothing", "a row too few", "a row too many", "a number"],
)
def test_whatever_becomes_of_a_hop_all_in_it_are_told_that_no_model_answered(cross):
    async def go():
        mine = runner(cross)
        asked = asyncio.gather(*(mine.ascore(features(0.5)) for _ in range(5)), return_exceptions=True)
        return await asyncio.wait_for(asked, WAIT_S)

    assert [type(error) for error in asyncio.run(go())] == [ModelUnavailable] * 5


def test_only_those_in_the_lost_hop_are_lost():
    async def go():
        hop, lost = Hop(shut=True), []

        async def cross(model_hash, rows):
            if not lost:
                lost.append(1)
                await hop.gate.wait()
                raise ConnectionResetError
            return await hop(model_hash, rows)

        mine = runner(cross)
        first = asyncio.create_task(mine.ascore(features(0.1)))
        await settle()
        others = [asyncio.create_task(mine.ascore(features(0.2))) for _ in range(3)]
        await settle()
        hop.gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    first, *others = asyncio.run(go())
    assert isinstance(first, ModelUnavailable)
    assert [scored.fault for scored in others] == [None] * 3


def test_a_hop_that_never_comes_back_is_given_up_and_the_next_one_goes():
    async def go():
        hop = Hop(shut=True)
        mine = runner(hop, deadline_s=0.01)
        with pytest.raises(ModelUnavailable):
            await mine.ascore(features(0.5))
        hop.gate.set()
        mine._deadline_s = WAIT_S
        return await mine.ascore(features(0.25))

    assert asyncio.run(go()).proba.tolist() == [[0.75, 0.25]]


def test_a_lost_runner_is_a_model_error_for_callers_of_the_service():
    model = live_model(IsolatedRunner(raising(ConnectionResetError()), HASH, 1.0))
    answer = ask(live_of(model))
    assert (answer.fallback_reason, answer.prediction_set) == ("model_error", [0, 1])
    assert model.guard.breaker.snapshot().failures == 1
    assert model.guard.where == "runner"


def test_a_runner_that_lacks_the_model_is_a_failure_and_opens_the_circuit():
    model = live_model(IsolatedRunner(giving(lambda rows: None), HASH, 1.0), settings=Settings(circuit_failures=3))
    assert [ask(live_of(model)).fallback_reason for _ in range(4)] == ["model_error"] * 3 + ["circuit_open"]


# --- who gives up -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before its hop", "during its hop"])
def test_a_caller_who_gives_up_harms_nobody(when):
    async def go():
        hop = Hop(shut=True)
        mine = runner(hop)
        if when == "before its hop":  # two hops are under way already
            for _ in range(2):
                asyncio.create_task(mine.ascore(features(0.9)))  # noqa: RUF006 - the runner holds them
                await settle()
        calls = [asyncio.create_task(mine.ascore(features(i / 10))) for i in range(4)]
        await settle()
        calls[1].cancel()
        await settle()
        hop.gate.set()
        return hop.rows, await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), WAIT_S)

    rows, found = asyncio.run(go())
    assert isinstance(found.pop(1), asyncio.CancelledError)
    assert [scored.proba[0, 1] for scored in found] == [float(np.float32(i / 10)) for i in (0, 2, 3)]
    assert rows == ([1, 1, 3] if when == "before its hop" else [4])


def test_callers_beyond_the_bound_are_refused_at_once_and_the_others_answered():
    async def go():
        hop = Hop(shut=True)
        mine = runner(hop)
        calls = []
        for _ in range(2):
            calls.append(asyncio.create_task(mine.ascore(features(0.5))))
            await settle()
        calls += [asyncio.create_task(mine.ascore(features(0.5))) for _ in range(MOST_WAITING)]
        await settle()
        for _ in range(3):
            with pytest.raises(Overloaded):
                await mine.ascore(features(0.5))
        hop.gate.set()
        return await asyncio.gather(*calls)

    assert len(asyncio.run(go())) == MOST_WAITING + 2


def test_a_runner_is_free_again_after_it_was_full():
    async def go():
        hop = Hop()
        mine = runner(hop)
        for _ in range(3):
            await asyncio.gather(*(mine.ascore(features(0.5)) for _ in range(MOST_WAITING)))
        return hop.rows

    assert sum(asyncio.run(go())) == 3 * MOST_WAITING


# --- the golden check's way -------------------------------------------------------------------------------------------


def test_a_remote_scorer_gives_what_the_hop_gives():
    found = RemoteScorer(lambda model_hash, rows: (EchoRunner().proba(rows), None), HASH).proba(features(0.25, 0.5))
    assert found.tolist() == [[0.75, 0.25], [0.5, 0.5]]


def test_a_remote_scorer_that_cannot_cross_is_unavailable_and_one_without_a_model_not_loaded():
    def lost(model_hash, rows):
        raise ConnectionResetError

    with pytest.raises(ModelUnavailable, match="ConnectionResetError"):
        RemoteScorer(lost, HASH).proba(features(0.5))
    with pytest.raises(NotLoaded):
        RemoteScorer(lambda model_hash, rows: None, HASH).proba(features(0.5))
