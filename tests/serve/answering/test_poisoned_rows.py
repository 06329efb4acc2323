"""A row that breaks the model hurts no other row, and a record that cannot be read is nobody's failure."""

from __future__ import annotations

import numpy as np
import pytest

from ml_core.base.errors import InvalidRecord
from ml_core.serve.running.runner import ConformalRunner
from tests.serve.answering.builders import (
    CountingRunner,
    OutputRunner,
    ask,
    ask_all,
    live_model,
    live_of,
    numbers,
    toy_records,
)
from tests.toy_models import loaded_toy, toy_record

RECORDS = toy_records(40)


class PoisonRecord:
    """The toy model, which breaks on the rows of one record."""

    is_quick = True

    def __init__(self, record, break_row):
        self._inner, self._break = ConformalRunner(loaded_toy()), break_row
        model = live_model()
        self._bytes = model.transform(model.reader.arrays([model.reader.read(record)])).tobytes()

    def proba(self, features):
        found = self._inner.proba(features)
        for i, row in enumerate(features):
            if row.tobytes() == self._bytes:
                found = self._break(found, i)
        return found


def _raise(found, i):
    raise MemoryError


def _set(value):
    def change(found, i):
        found = found.copy()
        found[i] = value
        return found

    return change


@pytest.mark.parametrize(
    "break_row",
    [_raise, _set(np.nan), _set([-0.5, 1.5]), _set([0.0, 1.0 + 5e-6]), _set([np.inf, 0.0]), lambda f, i: f[:-1]],
    ids=["raises", "nan", "negative", "above one", "infinite", "shape"],
)
@pytest.mark.parametrize("position", [0, 17, 39])
def test_one_poisoned_row_is_flagged_and_its_neighbours_keep_their_bits(break_row, position):
    healthy = ask_all(live_of(), RECORDS).predictions
    live = live_of(live_model(PoisonRecord(RECORDS[position], break_row)))
    found = ask_all(live, RECORDS).predictions
    assert [f.fallback_used for f in found] == [i == position for i in range(len(RECORDS))]
    assert found[position].prediction_set == [0, 1]
    for i, (before, after) in enumerate(zip(healthy, found, strict=True)):
        if i != position:
            assert (numbers(after), after.lineage.slot) == (numbers(before), "champion")
    assert sum(live.counts["champion"].fallbacks.values()) == 1


def test_a_thousand_bad_records_move_no_circuit_and_call_nothing():
    runner = CountingRunner(ConformalRunner(loaded_toy()))
    live = live_of(live_model(runner))
    before = live.champion.guard.breaker.snapshot()
    for i in range(500):
        with pytest.raises(InvalidRecord):
            ask(live, toy_record(age=130 + i))
    found = ask_all(live, [toy_record(age=-1)] * 500)
    assert {row.error["code"] for row in found.predictions} == {"invalid_record"}
    assert live.champion.guard.breaker.snapshot() == before
    assert (runner.calls, live.counts["champion"].answers) == ([], 0)


def test_bad_records_beside_good_ones_are_neither_called_nor_counted():
    runner = CountingRunner(OutputRunner(lambda n: np.tile([0.5, 0.5], (n, 1))))
    live = live_of(live_model(runner))
    found = ask_all(live, [toy_record(), {"age": "old"}, toy_record()]).predictions
    assert [hasattr(row, "prediction") for row in found] == [True, False, True]
    assert (runner.calls, live.counts["champion"].answers) == ([2], 2)
