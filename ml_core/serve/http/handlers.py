"""The handlers: one per route, each reading a request, calling the inference core once and packing the reply."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qs

from ml_core.base.errors import FieldProblem, InvalidRequest
from ml_core.base.settings import Settings
from ml_core.serve import metrics
from ml_core.serve.answering.envelope import BatchResponse, RowError
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live
from ml_core.serve.answering.requests import (
    BatchOptions,
    BatchRequest,
    level_of_text,
    parse_batch,
    parse_json,
    parse_on_error,
    parse_predict,
)
from ml_core.serve.features.column_rules import shown_name
from ml_core.serve.http import arrow_batches as bulk
from ml_core.serve.http import openapi
from ml_core.serve.http.access import PROBES, Access, Admission
from ml_core.serve.http.arrow_reader import StreamLimits
from ml_core.serve.http.landing_page import page_reply
from ml_core.serve.http.middleware import BENTOML_PATHS, HttpRequest, Routes
from ml_core.serve.http.oip_routes import OpenInference
from ml_core.serve.http.record_batches import RECORD_BYTES, PackReply, RecordBatches
from ml_core.serve.http.replies import ARROW, JSON, Header, Refused, Reply, json_reply, model_headers
from ml_core.serve.http.traffic import Traffic, exposition
from ml_core.serve.log.label_requests import parse_labels
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import LabelCounts, LabelStore
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.reader import PredictionLog

__all__ = ["API_VERSION", "HttpApi", "WorkerStatus"]

API_VERSION = "1"
_MORE_THAN_RECORD = 4_096
"""Ids, level and subject beside the record, bytes."""


class WorkerStatus(Protocol):
    """What the health routes ask of the worker."""

    def is_alive(self) -> bool:
        """Whether no process of the service has been missing for too long."""

    def health(self) -> str:
        """``ok``, ``degraded`` or ``unavailable``."""

    def report(self) -> dict[str, Any]:
        """The object of ``/status``. Reads files."""


class HttpApi:
    """Routes of one worker.

    Parameters
    ----------
    settings : limits
    inference : what answers, once something is live
    status : what the worker and its siblings are doing
    """

    def __init__(self, settings: Settings, inference: InferenceService, status: WorkerStatus) -> None:
        self._settings = settings
        self._inference = inference
        self._status = status
        tables = open_label_tables(settings, settings.model_name)
        self._labels = LabelStore(tables, PredictionLog.of(settings).known, key=LogRecords(settings).key)
        self._stream_limits = StreamLimits(settings.max_bulk_rows, settings.max_bulk_unpacked_bytes)
        self._record_bytes = min(RECORD_BYTES, settings.max_body_bytes)
        self._documents: dict[str, dict[str, Any]] = {}
        self.admission = Admission(settings)
        self._batches = RecordBatches(settings, inference, self.admission)
        self._open_inference = OpenInference(settings, inference, self._batches, status.is_alive, API_VERSION)
        self.access = Access(settings)
        self._page = page_reply(settings.root_path)
        self.routes: Routes = {
            "/": {"GET": self.page},
            "/predict": {"POST": self.predict},
            "/predict_batch": {"POST": self.predict_batch},
            "/labels": {"POST": self.labels},
            "/health": {"GET": self.health},
            "/livez": {"GET": self.livez},
            "/healthz": {"GET": self.livez},
            "/readyz": {"GET": self.readyz},
            "/status": {"GET": self.status},
            "/docs.json": {"GET": self.docs},
            "/metrics": {"GET": self.exposition},
            **self._open_inference.routes,
        }
        self.traffic = Traffic({*self.routes, *BENTOML_PATHS}, quiet={*PROBES, "/metrics"})

    def close(self, timeout_s: float) -> None:
        """Let running batches finish, and take no more."""
        self.admission.close(timeout_s)

    async def predict(self, request: HttpRequest) -> Reply:
        """``POST /predict``: one record, answered on the event loop while the model is quick."""
        _require(request, JSON)
        body = await request.body(self._largest_record())
        with self.admission.request():
            answer = await self._inference.predict(parse_predict(parse_json(body)))
        lineage = answer.lineage
        named = model_headers(lineage.model_version, lineage.model_hash)
        headers: tuple[Header, ...] = ((b"x-request-id", answer.request_id.encode()), *named)
        if answer.fallback_reason is not None:
            headers = (*headers, (b"x-fallback-reason", answer.fallback_reason.encode()))
        return json_reply(answer, headers)

    async def predict_batch(self, request: HttpRequest) -> Reply:
        """``POST /predict_batch``: many records, as JSON or as an Arrow IPC stream."""
        if request.content_type == ARROW:
            return await self._predict_arrow(request)
        _require(request, JSON, ARROW)
        options = _query(request.query)
        body = await request.body(self._settings.max_body_bytes)
        parse = partial(_parsed_batch, body, self._settings.max_batch_rows, options)
        if len(body) > self._record_bytes:
            _refuse_nesting(body, self._settings.max_batch_rows)
        return await self._batches.answer(body, parse)

    async def labels(self, request: HttpRequest) -> Reply:
        """``POST /labels``: what turned out to be true of earlier answers."""
        _require(request, JSON)
        body = await request.body(self._settings.max_body_bytes)
        _refuse_nesting(body, self._settings.max_batch_rows)
        async with self.admission.batch() as elsewhere:
            source = "http" if request.caller is None else f"http:{request.caller}"
            counts = await elsewhere(lambda: self.take_labels(parse_json(body), source))
        return json_reply(counts.told())

    def take_labels(self, body: object, source: str) -> LabelCounts:
        """Store the labels in a parsed body, and count them. Reads and writes files: not for the event loop.

        Raises
        ------
        InvalidRequest
            The body is not what it should be; every wrong field is named.
        LabelsNotStored
            Nothing of it was stored.
        """
        live = self._inference.live
        classes = None if live is None else live.champion.classes  # while nothing is live no label is kept out
        counts = self._labels.add(parse_labels(body, self._settings.max_batch_rows, classes), source)
        for outcome, n in asdict(counts).items():
            if n:
                metrics.LABELS.labels(outcome).inc(n)
        return counts

    async def page(self, _: HttpRequest) -> Reply:
        """``GET /``: where to look, for people."""
        return self._page

    async def health(self, _: HttpRequest) -> Reply:
        """``GET /health``: 200 while anything can answer, else 503; ``degraded`` while fallbacks do."""
        word = self._status.health()
        return json_reply({"status": word}, status=503 if word == "unavailable" else 200)

    async def livez(self, _: HttpRequest) -> Reply:
        """``GET /livez``: 503 once a process of the service has been missing for too long to come back."""
        return _plain(ok=self._status.is_alive())

    async def readyz(self, _: HttpRequest) -> Reply:
        """``GET /readyz``: 200 while any step of the chain can answer."""
        return _plain(ok=self._inference.live is not None)

    async def status(self, _: HttpRequest) -> Reply:
        """``GET /status``: what is live, how it is doing, and why something is not."""
        report = await asyncio.to_thread(self._status.report)
        return json_reply({**report, "access": self.access.report()})

    async def docs(self, _: HttpRequest) -> Reply:
        """``GET /docs.json``: the OpenAPI document of the served model."""
        return json_reply(self._document(self._inference.live))

    async def exposition(self, _: HttpRequest) -> Reply:
        """``GET /metrics``: what all workers of this server count, in Prometheus' text form."""
        text, content_type = await asyncio.to_thread(exposition)
        return Reply(200, text, content_type)

    async def _predict_arrow(self, request: HttpRequest) -> Reply:
        options = _query(request.query)
        self._inference.ready()
        body = await request.body(self._settings.max_bulk_bytes)
        async with self.admission.batch() as elsewhere:
            batch_id, reply, model = await bulk.answer_stream(
                self._inference,
                body,
                self._stream_limits,
                elsewhere,
                on_error=options.on_error,
                level=options.level,
            )
        named = model_headers(model.model.version, model.model_hash)
        return Reply(200, reply, ARROW, ((b"x-request-id", batch_id.encode()), *named))

    def _largest_record(self) -> int:
        """Largest body of ``/predict``, bytes."""
        live = self._inference.live
        needed = 0 if live is None else live.champion.record_bytes
        return max(self._record_bytes, min(_MORE_THAN_RECORD + needed, self._settings.max_body_bytes))

    def _document(self, live: Live | None) -> dict[str, Any]:
        rows, keyed = self._settings.max_batch_rows, self.access.is_guarded
        server = self._settings.root_path or "/"
        if live is None:
            return openapi.openapi_document(
                {"type": "object"}, {}, (0, 1), rows, API_VERSION, keyed=keyed, server=server
            )
        champion = live.champion
        key = champion.model_hash
        if key not in self._documents:
            example = champion.model.predictor.bundle.golden[-1]["record"]
            schema = champion.reader.json_schema()
            named = (champion.manifest.name, champion.model.version)
            document = openapi.openapi_document(
                schema,
                example,
                champion.classes,
                rows,
                API_VERSION,
                keyed=keyed,
                server=server,
                model=named,
            )
            self._documents = {key: document}
        return self._documents[key]


def _plain(*, ok: bool) -> Reply:
    return Reply(200 if ok else 503, b"\n" if ok else b"unavailable\n", b"text/plain; charset=utf-8")


def _parsed_batch(body: bytes, max_rows: int, options: BatchOptions) -> tuple[BatchRequest, PackReply]:
    return parse_batch(parse_json(body), max_rows, options), _batch_reply


def _batch_reply(answer: BatchResponse) -> Reply:
    headers: tuple[Header, ...] = ((b"x-request-id", answer.batch_id.encode()),)
    first = next((row.lineage for row in answer.predictions if not isinstance(row, RowError)), None)
    if first is not None:
        headers = (*headers, *model_headers(first.model_version, first.model_hash))
    return json_reply(answer, headers)


def _refuse_nesting(body: bytes, max_rows: int) -> None:
    """Refuse a large body with far more lists and objects than its records can have, before it is parsed.

    A third of a million empty lists fit into a megabyte, and building them holds up every other thread.
    """
    if body.count(b"[") + body.count(b"{") > 100 + _BRACKETS_A_ROW * max_rows:
        raise InvalidRequest([FieldProblem("records", f"has more in it than {max_rows} flat records can have")])


_BRACKETS_A_ROW = 4  # one for the record; texts may have some as well


def _require(request: HttpRequest, *types: bytes) -> None:
    if request.content_type not in types:
        wanted = " or ".join(t.decode() for t in types)
        raise Refused("unsupported_media_type", f"send the body as {wanted}")


def _query(raw: bytes) -> BatchOptions:
    """``confidence_level`` and ``on_error`` of a batch, from its query string."""
    try:
        given = parse_qs(raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), max_num_fields=10)
    except ValueError as error:
        raise InvalidRequest([FieldProblem("query", "cannot be read")]) from error
    unknown = sorted(given.keys() - {"confidence_level", "on_error"})
    if unknown:
        raise InvalidRequest([FieldProblem(shown_name(name), "is not known here") for name in unknown])
    twice = sorted(name for name, values in given.items() if len(values) > 1)
    if twice:
        raise InvalidRequest([FieldProblem(name, "is given twice") for name in twice])
    on_error, level = given.get("on_error", ["row"])[0], given.get("confidence_level", [None])[0]
    return BatchOptions(parse_on_error(on_error), None if level is None else level_of_text(level))
