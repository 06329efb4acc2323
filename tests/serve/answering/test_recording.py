"""What the log holds of an answer is what its caller got, and how long the model took."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ml_core.base.clock import utc_now
from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.answering.recording import BulkCall, Recorder
from ml_core.serve.answering.requests import BatchRequest, PredictRequest, new_id, new_ids
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.log.writer import LogWriter
from ml_core.serve.running.runner import ConformalRunner, GuardedRunner
from tests.serve.answering.builders import breaker_of, live_of, toy_records
from tests.serve.running.fake_clock import FakeClock
from tests.toy_models import loaded_toy

TOOK_MS = 12.5
RECORDS = toy_records(3)


def slow_live() -> Live:
    """The toy model, each of whose calls takes 12.5 ms of a fake clock."""
    clock, inner, settings = FakeClock(0.0), ConformalRunner(loaded_toy()), Settings()

    class Timed:
        is_quick = True

        def proba(self, features):
            clock.advance(TOOK_MS / 1000)
            return inner.proba(features)

    return live_of(LiveModel(loaded_toy(), GuardedRunner(Timed(), breaker_of(settings, clock), 2, settings, clock)))


async def ask(service: InferenceService, road: str) -> None:
    if road == "one":
        await service.predict(PredictRequest(RECORDS[0]))
    elif road == "batch":
        await service.predict_batch(BatchRequest(list(RECORDS)))
    else:
        live = service.ready()
        reader = live.champion.reader
        answers = await service.ask_table(live, "champion", reader.arrays([reader.read(r) for r in RECORDS]))
        call = BulkCall(new_id(), utc_now(), new_ids(len(RECORDS)), ("valid", ()), "0" * 64)
        await service.record_bulk([answers], call)


@pytest.mark.parametrize(("road", "rows"), [("one", 1), ("batch", 3), ("bulk", 3)])
def test_the_log_says_how_long_the_model_took(tmp_path: Path, road: str, rows: int) -> None:
    settings = Settings(home=tmp_path)
    writer = LogWriter(settings.log, records=LogRecords(settings))
    recorder = Recorder(writer, settings.log, Pseudonyms(settings.subject_key))
    writer.start()
    asyncio.run(ask(InferenceService(slow_live(), recorder=recorder), road))
    writer.close(30.0)
    logged: list[LoggedAnswer] = list(PredictionLog(settings.log).rows())
    assert [answer.elapsed_us for answer in logged] == [round(1000 * TOOK_MS)] * rows
