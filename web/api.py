"""The handlers: one per route, each reading a request, calling the inference core once and packing the reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qs

from ml_core.conformal.predict import level_from_json
from ml_core.errors import FieldProblem, InvalidRequest, NotLoaded
from ml_core.serving.inference import InferenceService
from ml_core.serving.requests import parse_batch, parse_on_error, parse_predict
from ml_core.settings import Settings
from web import bulk, openapi, strict_json
from web.face import HttpRequest, Routes
from web.replies import ARROW, JSON, Header, Refused, Reply, json_reply

__all__ = ["VERSION", "HttpApi"]

T = TypeVar("T")
VERSION = "1"


class HttpApi:
    """Routes of one worker.

    Parameters
    ----------
    settings : limits
    inference : what answers; None while no model is loaded
    problem : why no model is loaded, for operators
    """

    def __init__(self, settings: Settings, inference: InferenceService | None, problem: str = "") -> None:
        self._settings = settings
        self._inference = inference
        self._problem = problem
        self._pool = ThreadPoolExecutor(settings.pool_threads, thread_name_prefix="surety-bulk")
        self._model_headers = _model_headers(inference)
        self._openapi = _openapi(inference, settings)
        self.routes: Routes = {
            "/predict": {"POST": self.predict},
            "/predict_batch": {"POST": self.predict_batch},
            "/health": {"GET": self.health},
            "/status": {"GET": self.status},
            "/docs.json": {"GET": self.docs},
        }

    def close(self) -> None:
        """Let running bulk calls finish, and take no more."""
        self._pool.shutdown(wait=True)

    async def predict(self, request: HttpRequest) -> Reply:
        """``POST /predict``: one record, answered on the event loop (a thread would cost more than the model)."""
        _require(request, JSON)
        body = await request.body(self._settings.max_body_bytes)
        parsed = parse_predict(_json(body))
        answer = self._ready().predict(parsed)
        return json_reply(answer, ((b"x-request-id", answer.request_id.encode()), *self._model_headers))

    async def predict_batch(self, request: HttpRequest) -> Reply:
        """``POST /predict_batch``: many records, as JSON or as an Arrow IPC stream."""
        if request.content_type == ARROW:
            return await self._predict_arrow(request)
        _require(request, JSON, ARROW)
        body = await request.body(self._settings.max_body_bytes)
        parsed = parse_batch(_json(body), self._settings.max_batch_rows)
        inference = self._ready()
        call = partial(_batch_reply, inference, parsed, self._model_headers)
        return call() if len(parsed.records) <= self._settings.inline_rows else await self._in_pool(call)

    async def health(self, _: HttpRequest) -> Reply:
        """``GET /health``: 200 while a model can answer, else 503."""
        if self._inference is None:
            return json_reply({"status": "unavailable"}, status=503)
        return json_reply({"status": "ok"})

    async def status(self, _: HttpRequest) -> Reply:
        """``GET /status``: which model answers, with what guarantee, or why none does."""
        return json_reply(
            {"ready": self._inference is not None, "problem": self._problem or None, "models": self._models()}
        )

    async def docs(self, _: HttpRequest) -> Reply:
        """``GET /docs.json``: the OpenAPI document of the served model."""
        return json_reply(self._openapi)

    async def _predict_arrow(self, request: HttpRequest) -> Reply:
        options = _query(request.query)
        inference = self._ready()
        body = await request.body(self._settings.max_bulk_bytes)
        answer = partial(bulk.answer_stream, inference, body, self._settings.max_bulk_rows, **options)
        batch_id, reply = await self._in_pool(answer)
        return Reply(200, reply, ARROW, ((b"x-request-id", batch_id.encode()), *self._model_headers))

    async def _in_pool(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _ready(self) -> InferenceService:
        if self._inference is None:
            raise NotLoaded(self._problem or "no model is loaded")
        return self._inference

    def _models(self) -> list[dict[str, Any]]:
        if self._inference is None:
            return []
        model = self._inference.model
        manifest = model.predictor.bundle.manifest
        return [
            {
                "slot": "champion",
                "weight": 1.0,
                "model_name": manifest.name,
                "model_version": model.version,
                "model_hash": model.model_hash,
                "bento_tag": model.tag,
                "feature_version": manifest.feature_version,
                "guarantee": manifest.guarantee,
                "confidence_level": float(manifest.confidence_level),
                "calibration_rows": dict(
                    zip(map(str, manifest.classes), model.predictor.bundle.calibration.sizes, strict=True)
                ),
                "promoted_at": model.promotion.promoted_at if model.promotion else None,
                "gate": {"passed": model.gate.passed, "judged_at": model.gate.judged_at, "on": model.gate.judged_on},
            }
        ]


def _batch_reply(inference: InferenceService, parsed: Any, headers: tuple[Header, ...]) -> Reply:
    answer = inference.predict_batch(parsed)
    return json_reply(answer, ((b"x-request-id", answer.batch_id.encode()), *headers))


def _json(body: bytes) -> object:
    try:
        return strict_json.loads(body)
    except strict_json.NotJson as error:
        raise Refused("invalid_json", str(error)) from error


def _require(request: HttpRequest, *types: bytes) -> None:
    if request.content_type not in types:
        wanted = " or ".join(t.decode() for t in types)
        raise Refused("unsupported_media_type", f"send the body as {wanted}")


def _query(raw: bytes) -> dict[str, Any]:
    """``confidence_level`` and ``on_error`` of an Arrow call, from its query string."""
    try:
        given = parse_qs(raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), max_num_fields=10)
    except ValueError as error:
        raise InvalidRequest([FieldProblem("query", "cannot be read")]) from error
    unknown = sorted(given.keys() - {"confidence_level", "on_error"})
    if unknown:
        raise InvalidRequest([FieldProblem(name[:100], "is not known here") for name in unknown])
    level = given.get("confidence_level", [None])[-1]
    return {
        "on_error": parse_on_error(given.get("on_error", ["row"])[-1]),
        "level": None if level is None else _level(level),
    }


def _level(text: str) -> Decimal:
    try:
        return level_from_json(float(text))
    except ValueError as error:
        raise InvalidRequest([FieldProblem("confidence_level", "must be a number")]) from error


def _model_headers(inference: InferenceService | None) -> tuple[Header, ...]:
    if inference is None:
        return ()
    model = inference.model
    return ((b"x-model-version", model.version.encode()), (b"x-model-hash", model.model_hash.encode()))


def _openapi(inference: InferenceService | None, settings: Settings) -> dict[str, Any]:
    if inference is None:
        return openapi.openapi_document({"type": "object"}, {}, (0, 1), settings.max_batch_rows, VERSION)
    example = inference.model.predictor.bundle.golden[-1]["record"]
    return openapi.openapi_document(
        inference.reader.json_schema(), example, inference.model.predictor.classes, settings.max_batch_rows, VERSION
    )
