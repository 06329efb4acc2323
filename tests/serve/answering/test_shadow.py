"""Shadow scoring: what it counts, what it writes, and that no caller ever feels it."""

from __future__ import annotations

import asyncio
import json
import os
import random
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from scipy.stats import binom

from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live
from ml_core.serve.answering.requests import BatchRequest, PredictRequest
from ml_core.serve.answering.shadow import MOST_SHADOW_ROWS, Shadow
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.rollout.worker_reports import ShadowReport
from tests.serve.answering.builders import (
    WAIT_S,
    OutputRunner,
    PoisonRunner,
    RaisesRunner,
    SlowRunner,
    as_version,
    live_model,
    live_of,
    numbers,
    opened,
    other_toy,
    toy_records,
    until,
)
from tests.toy_models import loaded_toy, toy_record

RECORDS = toy_records(60)
ROADS = ("one by one", "in a batch", "in a table")


class Shadowed:
    """A service with a challenger in its shadow."""

    def __init__(self, challenger=None, *, folder=None, champion=None, **facts) -> None:
        self.shadow = Shadow(folder, "w")
        self.live = live_of(champion, mode="shadow", challenger=challenger or live_model(model=other_toy()), **facts)
        self.service = InferenceService(self.live, shadow=self.shadow)

    def take(self, records=RECORDS, road="one by one", level=None, live: Live | None = None) -> list:
        """Answer the records on one of the three roads; the envelopes, where there are some."""
        self.service.live = live or self.live
        if road == "one by one":
            return [asyncio.run(self.service.predict(PredictRequest(r, level))) for r in records]
        if road == "in a batch":
            return asyncio.run(self.service.predict_batch(BatchRequest(list(records), level=level))).predictions
        model = self.live.champion
        columns = model.reader.arrays([model.reader.read(r) for r in records])
        asyncio.run(self._table(columns, level))
        return []

    async def _table(self, columns, level) -> None:
        """As a bulk call does it."""
        live = self.service.live
        answers = await self.service.ask_table(live, "champion", columns, level)
        await self.service.record_bulk([answers], None)

    def counted(self, stage: int = 1) -> ShadowReport:
        self.shadow.drain(WAIT_S)
        return self.shadow.report(stage)


def scoring_with(runner, model=None):
    """A challenger whose scorer is that runner."""
    model = model or other_toy()
    predictor = Predictor(model.predictor.bundle, runner)
    return live_model(model=replace(model, predictor=predictor))


def compared(records, level=Decimal("0.9")):
    """What toy model and other toy model say of the records, computed offline."""
    ours, theirs = loaded_toy().predictor, other_toy().predictor
    columns = ours.reader.arrays([ours.reader.read(r) for r in records])
    a, b = ours.predict(columns, level), theirs.predict(columns, level)
    rows = np.arange(len(records))
    return a, b, np.abs(a.proba - b.proba)[rows, a.predictions]


@pytest.mark.parametrize("road", ROADS)
def test_a_challenger_with_the_same_artefact_agrees_in_everything(road):
    shadowed = Shadowed(live_model(model=as_version("9")))
    shadowed.take(road=road)
    n = len(RECORDS)
    assert shadowed.counted() == ShadowReport(scored=n, agreed=n, same_set=n, mean_difference=0.0, max_difference=0.0)


@pytest.mark.parametrize("level", ["0.9", "0.7", "0.99"])
@pytest.mark.parametrize("road", ROADS)
def test_agreement_and_differences_are_those_of_the_models(road, level):
    shadowed = Shadowed()
    shadowed.take(road=road, level=Decimal(level))
    found = shadowed.counted()
    a, b, difference = compared(RECORDS, Decimal(level))
    assert (found.scored, found.dropped, found.failed) == (len(RECORDS), 0, 0)
    assert found.agreed == (a.predictions == b.predictions).sum()
    assert found.same_set == (a.sets == b.sets).all(axis=1).sum() < len(RECORDS)
    assert found.mean_difference == pytest.approx(difference.mean(), rel=1e-12)
    assert found.max_difference == pytest.approx(difference.max(), rel=1e-12)


def test_requests_of_several_levels_are_compared_each_at_its_own():
    shadowed, levels = Shadowed(), [Decimal("0.6"), Decimal("0.9"), Decimal("0.99")]
    same = 0
    for i, record in enumerate(RECORDS):
        shadowed.take([record], level=levels[i % 3])
        a, b, _ = compared([record], levels[i % 3])
        same += bool((a.sets == b.sets).all())
    assert shadowed.counted().same_set == same


def test_one_line_for_every_answer_says_what_both_models_found(tmp_path):
    shadowed = Shadowed(folder=tmp_path / "shadow")
    answers = [*shadowed.take(RECORDS[:20]), *shadowed.take(RECORDS[20:40], "in a batch")]
    shadowed.take(RECORDS[40:], "in a table")  # rows without ids
    assert shadowed.counted().scored == 60
    lines = [json.loads(line) for line in (tmp_path / "shadow" / "w.jsonl").read_text().splitlines()]
    assert [line["request_id"] for line in lines] == [answer.request_id for answer in answers]
    a, b, difference = compared(RECORDS[:40])
    hashes = {loaded_toy().model_hash}, {other_toy().model_hash}
    assert ({line["champion"] for line in lines}, {line["challenger"] for line in lines}) == hashes
    for i, line in enumerate(lines):
        assert line["prediction"] == [a.predictions[i], b.predictions[i]]
        assert line["set"] == [np.flatnonzero(a.sets[i]).tolist(), np.flatnonzero(b.sets[i]).tolist()]
        assert line["probability"][1] == b.proba[i].tolist()
        assert line["probability"][0] == pytest.approx(a.proba[i].tolist(), abs=1e-15)
        assert line["difference"] == pytest.approx(difference[i], abs=1e-15)


def test_lines_tell_nothing_of_the_record(tmp_path):
    shadowed = Shadowed(folder=tmp_path)
    shadowed.take([toy_record(glucose=123.456)])
    shadowed.counted()
    (line,) = (tmp_path / "w.jsonl").read_text().splitlines()
    known = {"request_id", "champion", "challenger", "prediction", "set", "probability", "difference"}
    assert json.loads(line).keys() == known
    assert "123.456" not in line


# --- the caller does not feel it --------------------------------------------------------------------------------------


def test_a_full_queue_lets_rows_go_and_counts_them():
    slow = SlowRunner(inner=OutputRunner(lambda n: np.tile([0.5, 0.5], (n, 1))))
    shadowed = Shadowed(scoring_with(slow))
    sizes = {"taken": 5_000, "waiting": 6_000, "dropped": 5_000, "fits": MOST_SHADOW_ROWS - 6_000, "one too many": 1}
    shadowed.take(RECORDS[:1] * sizes["taken"], "in a table")
    assert slow.entered.acquire(timeout=WAIT_S)
    for name in ("waiting", "dropped", "fits", "one too many"):
        shadowed.take(RECORDS[:1] * sizes[name], "in a table")
    assert shadowed.shadow.report(1) == ShadowReport(dropped=5_001)
    slow.go.set()
    found = shadowed.counted()
    assert (found.scored, found.dropped) == (sizes["taken"] + MOST_SHADOW_ROWS, 5_001)


def test_a_stuck_challenger_keeps_no_answer_waiting():
    slow = SlowRunner()
    shadowed = Shadowed(scoring_with(slow))
    expected = [numbers(answer) for answer in Shadowed().take()]
    assert [numbers(answer) for answer in shadowed.take()] == expected
    assert shadowed.shadow.report(1).scored == 0
    slow.go.set()


@pytest.mark.parametrize("road", ROADS)
def test_a_challenger_that_always_fails_is_counted_and_changes_no_answer(road):
    shadowed = Shadowed(scoring_with(RaisesRunner()))
    expected = [numbers(answer) for answer in Shadowed().take(road=road)]
    assert [numbers(answer) for answer in shadowed.take(road=road)] == expected
    assert shadowed.counted() == ShadowReport(failed=len(RECORDS))


def test_a_row_that_breaks_the_challenger_fails_alone():
    scorer = other_toy().predictor.scorer
    model = live_model()
    poison = model.transform(model.reader.arrays([model.reader.read(RECORDS[7])])).tobytes()
    runner = PoisonRunner(lambda x: np.array([row.tobytes() == poison for row in x]), inner=scorer)
    shadowed = Shadowed(scoring_with(runner))
    shadowed.take(road="in a batch")
    found = shadowed.counted()
    assert (found.scored, found.failed) == (len(RECORDS) - 1, 1)


def test_shadowing_goes_on_after_something_went_wrong_in_it():
    shadowed = Shadowed()
    healthy = shadowed.live.challenger
    broken = replace(shadowed.live, challenger=live_model(model=other_toy()))
    broken.challenger.calibration = None
    shadowed.take(RECORDS[:5], "in a batch", live=broken)
    shadowed.take(RECORDS[:5], "in a batch")
    assert shadowed.live.challenger is healthy
    found = shadowed.counted()
    assert (found.failed, found.scored) == (5, 5)


def test_a_folder_that_cannot_be_written_loses_lines_and_no_counts(tmp_path):
    (tmp_path / "file").write_text("")
    shadowed = Shadowed(folder=tmp_path / "file" / "shadow")
    shadowed.take(RECORDS[:5])
    found = shadowed.counted()
    assert (found.scored, found.failed) == (5, 0)


def test_answers_of_a_fallback_are_compared_as_what_the_caller_got():
    shadowed = Shadowed(live_model(model=as_version("9")), champion=opened(live_model()))
    shadowed.take()
    found = shadowed.counted()
    assert found.scored == len(RECORDS)
    assert found.max_difference > 0.0


# --- flags and stages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [{"shadow": False}, {"shadow_share": 0.0}])
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("n", [1, 5])
def test_nothing_is_scored_while_the_flags_say_so(flags, road, n):
    shadowed = Shadowed(flags=flags)
    shadowed.take(RECORDS[:n], road)
    assert shadowed.counted() == ShadowReport()


@pytest.mark.parametrize("facts", [{"mode": "off"}, {"mode": "canary", "weight": 0.0}, {"challenger": None}])
def test_nothing_is_scored_outside_shadow_mode(facts):
    shadowed = Shadowed()
    live = replace(shadowed.live, **facts)
    for road in ROADS:
        shadowed.take(RECORDS[:5], road, live=live)
    assert shadowed.counted() == ShadowReport()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_share_of_the_requests_is_scored(share):
    random.seed(3)
    shadowed, n = Shadowed(flags={"shadow_share": share}), 2_000
    shadowed.take(RECORDS[:1] * n)
    assert binom.ppf(1e-6, n, share) <= shadowed.counted().scored <= binom.isf(1e-6, n, share)


def test_a_new_stage_begins_at_zero():
    shadowed = Shadowed()
    shadowed.take(RECORDS[:9])
    shadowed.take(RECORDS[:4], live=replace(shadowed.live, stage=2))
    assert shadowed.counted(stage=2).scored == 4
    assert shadowed.shadow.report(1) == ShadowReport()
    assert shadowed.shadow.report(3) == ShadowReport()


def test_a_straggler_of_the_stage_before_leaves_the_new_counts_alone():
    shadowed = Shadowed()
    newer = replace(shadowed.live, stage=2)
    shadowed.take(RECORDS[:4], live=newer)
    until(lambda: shadowed.shadow.report(2).scored == 4)
    shadowed.take(RECORDS[:1])
    shadowed.take(RECORDS[:3], live=newer)
    assert shadowed.counted(stage=2).scored == 7


def test_lines_of_workers_that_are_long_gone_are_removed(tmp_path):
    old, fresh = tmp_path / "gone-1.jsonl.1", tmp_path / "other-2.jsonl"
    for path in (old, fresh):
        path.write_text("{}\n")
    os.utime(old, (0, 0))
    shadowed = Shadowed(folder=tmp_path)
    shadowed.take(RECORDS[:1])
    shadowed.counted()
    assert not old.exists()
    assert fresh.exists()
