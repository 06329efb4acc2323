"""Answers in a real prediction log, given by the inference core without a server around it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from ml_core.base.settings import Settings
from ml_core.serve.answering.envelope import InferenceResponse
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live
from ml_core.serve.answering.recording import Recorder
from ml_core.serve.answering.requests import BatchRequest, PredictRequest
from ml_core.serve.http.arrow_batches import answer_stream
from ml_core.serve.http.arrow_messages import StreamLimits
from ml_core.serve.log.entries import ERASED, id_bytes, id_text
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.log.writer import LogWriter


class Logging:
    """Asks whatever is live; every answer is in the log when it comes back."""

    def __init__(self, settings: Settings, live: Live) -> None:
        self.writer = LogWriter(settings.log, records=LogRecords(settings))
        recorder = Recorder(
            self.writer, settings.log, Pseudonyms(settings.subject_key), keep_inputs=settings.log_inputs
        )
        self.service = InferenceService(live, recorder=recorder)
        self.writer.start()

    def ask(self, record: Mapping[str, Any], **request: Any) -> InferenceResponse:
        return asyncio.run(self.service.predict(PredictRequest(dict(record), **request)))

    def ask_all(self, records: Sequence[Mapping[str, Any]], **request: Any) -> list[Any]:
        return asyncio.run(self.service.predict_batch(BatchRequest(list(records), **request))).predictions

    def ask_in_bulk(self, records: Sequence[Mapping[str, Any]], level: Any = None) -> str:
        """One Arrow stream; its batch id."""
        table = pa.Table.from_pylist(list(records))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)

        async def here(work: Callable[[], Any]) -> Any:
            return work()

        body = sink.getvalue().to_pybytes()
        batch_id, _, _ = asyncio.run(
            answer_stream(self.service, body, StreamLimits(len(records), 1 << 30), here, on_error="row", level=level)
        )
        return batch_id


@contextmanager
def logging_to(settings: Settings, live: Live) -> Iterator[Logging]:
    """A worker's inference core with its log, closed afterwards."""
    asked = Logging(settings, live)
    try:
        yield asked
    finally:
        asked.writer.close(5.0)
    assert asked.writer.counts.lost == 0


def answers_in(settings: Settings) -> list[LoggedAnswer]:
    """Everything in the log."""
    return list(PredictionLog(settings.log).rows())


def nobodys_id() -> str:
    """An id that no answer has."""
    return id_text(bytes.fromhex("0193000000007000800000000000abcd"))


def erase(settings: Settings, answer: LoggedAnswer) -> None:
    """Take out what an answer says, as erasing its subject does: digest, id and time stay."""
    with sqlite3.connect(settings.log / answer.file) as connection:
        connection.execute(
            "UPDATE entry SET answer = ?, input = NULL, salt = x'', client_request_id = NULL, subject = NULL, "
            "batch_id = NULL, batch_index = NULL WHERE request_id = ?",
            (ERASED, id_bytes(answer.request_id)),
        )
