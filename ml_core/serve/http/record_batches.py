"""Batches of records, however they came: answered on the event loop while they are small, else in the pool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ml_core.base.settings import Settings
from ml_core.serve.answering.envelope import BatchResponse
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.requests import BatchRequest
from ml_core.serve.http.access import Admission
from ml_core.serve.http.replies import Reply

__all__ = ["RECORD_BYTES", "PackReply", "RecordBatches"]

RECORD_BYTES = 65_536
"""Largest body of ``/predict`` unless the model has so many columns that a record needs more, and largest batch that is
parsed on the event loop: what takes a few milliseconds."""

PackReply = Callable[[BatchResponse], Reply]


class RecordBatches:
    """Answers batches of records within a worker's limits.

    Parameters
    ----------
    settings : up to how many rows are answered on the event loop
    inference : what answers
    admission : what the worker takes on
    """

    def __init__(self, settings: Settings, inference: InferenceService, admission: Admission) -> None:
        self._inline_rows = settings.inline_rows
        self._inline_bytes = min(RECORD_BYTES, settings.max_body_bytes)
        self._inference = inference
        self._admission = admission

    async def answer(self, body: bytes, parse: Callable[[], tuple[BatchRequest, PackReply]]) -> Reply:
        """The reply to a batch.

        Parameters
        ----------
        parse : reads the body: the batch, and what packs its answers
        """
        if len(body) <= self._inline_bytes:
            with self._admission.request():
                batch, pack = parse()
                if len(batch.records) <= self._inline_rows:
                    return pack(await self._inference.predict_batch(batch))
            async with self._admission.batch() as elsewhere:
                return await self._large(batch, pack, elsewhere)
        async with self._admission.batch() as elsewhere:
            batch, pack = await elsewhere(parse)
            return await self._large(batch, pack, elsewhere)

    async def _large(
        self, batch: BatchRequest, pack: PackReply, elsewhere: Callable[[Callable[[], Any]], Awaitable[Any]]
    ) -> Reply:
        answer = await self._inference.predict_batch(batch, elsewhere)
        reply: Reply = await elsewhere(lambda: pack(answer))
        return reply
