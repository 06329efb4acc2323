"""The routes of the Open Inference Protocol (version 2): health, metadata, and inference by the one core.

https://github.com/kserve/open-inference-protocol; the extension for binary tensor data is Triton's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ml_core.base.settings import Settings
from ml_core.serve.answering.envelope import BatchResponse, InferenceResponse
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.answering.requests import BatchRequest
from ml_core.serve.features.column_rules import OPTIONAL_ROLES, shown_name
from ml_core.serve.http import oip_paths
from ml_core.serve.http.middleware import HttpRequest, Routes
from ml_core.serve.http.oip_replies import OCTETS, ROW_FACTS, inference_reply, labels_text, output_tensors
from ml_core.serve.http.oip_requests import InferenceRequest, column_datatype, parse_inference, required_columns
from ml_core.serve.http.oip_tensors import wrong
from ml_core.serve.http.record_batches import PackReply, RecordBatches
from ml_core.serve.http.replies import JSON, Refused, Reply, json_reply

__all__ = ["EXTENSIONS", "PLATFORM", "OpenInference"]

EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "surety_conformal_onnx"


class OpenInference:
    """Handlers of the protocol's routes.

    Parameters
    ----------
    settings : limits, and the model's name while none is live
    inference : what answers
    batches : answers within the worker's limits
    is_alive : whether no process of the service has been missing for too long
    version : of the API
    """

    def __init__(
        self,
        settings: Settings,
        inference: InferenceService,
        batches: RecordBatches,
        is_alive: Callable[[], bool],
        version: str,
    ) -> None:
        self._settings = settings
        self._inference = inference
        self._batches = batches
        self._is_alive = is_alive
        self._version = version
        routes: Routes = {
            oip_paths.SERVER: {"GET": self.server},
            oip_paths.LIVE: {"GET": self.live},
            oip_paths.READY: {"GET": self.ready},
        }
        ends = {"": ("GET", self.model), "/ready": ("GET", self.model_ready), "/infer": ("POST", self.infer)}
        for end, (method, handler) in ends.items():
            route = oip_paths.MODEL + end
            routes |= {route: {method: handler}, oip_paths.with_version(route): {method: handler}}
        self.routes = routes

    async def server(self, _: HttpRequest) -> Reply:
        """``GET /v2``: what this is, and which extensions it knows."""
        return json_reply({"name": "surety", "version": self._version, "extensions": EXTENSIONS})

    async def live(self, _: HttpRequest) -> Reply:
        """``GET /v2/health/live``: as ``/livez``."""
        alive = self._is_alive()
        return json_reply({"live": alive}, status=200 if alive else 503)

    async def ready(self, _: HttpRequest) -> Reply:
        """``GET /v2/health/ready``: as ``/readyz``."""
        ready = self._inference.live is not None
        return json_reply({"ready": ready}, status=200 if ready else 503)

    async def model_ready(self, request: HttpRequest) -> Reply:
        """``GET /v2/models/M/ready``: whether the model answers."""
        live = self._inference.live
        name, version = self._named(request.path, live)
        told = {"name": name, "ready": live is not None}
        if version is not None:
            told["version"] = version
        return json_reply(told, status=503 if live is None else 200)

    async def model(self, request: HttpRequest) -> Reply:
        """``GET /v2/models/M``: its inputs and outputs."""
        self._named(request.path, self._inference.live)
        live = self._inference.ready()
        _, version = self._named(request.path, live)
        return json_reply(_metadata(live, _model_of(live, version)))

    async def infer(self, request: HttpRequest) -> Reply:
        """``POST /v2/models/M/infer``: rows as one tensor per column."""
        _require_type(request)
        self._named(request.path, self._inference.live)
        live = self._inference.ready()
        _, version = self._named(request.path, live)
        head_length = _head_length(request)
        if head_length is None and request.content_type == OCTETS:
            raise wrong("Inference-Header-Content-Length", "is missing: it says how many bytes of the body are JSON")
        body = await request.body(self._settings.max_body_bytes)
        parse = partial(self._parsed, body, head_length, live, version)
        return await self._batches.answer(body, parse)

    def _parsed(
        self, body: bytes, head_length: int | None, live: Live, version: str | None
    ) -> tuple[BatchRequest, PackReply]:
        model = _model_of(live, version)
        beside = model.accepted[len(model.columns) :]
        asked = parse_inference(body, head_length, model.columns, beside, self._settings.max_batch_rows)
        version = _agreed(asked, live, version)
        known = [*(one.name for one in output_tensors(model.classes)), *ROW_FACTS]
        for name in asked.outputs or ():
            if name not in known:
                raise wrong(shown_name(name), f"is no output of this model, which has {', '.join(known)}")

        def pack(answer: BatchResponse) -> Reply:
            rows = [row for row in answer.predictions if isinstance(row, InferenceResponse)]  # on_error is reject: all
            return inference_reply(asked, rows, answer.batch_id)

        return replace(asked.batch, version=version), pack

    def _named(self, path: str, live: Live | None) -> tuple[str, str | None]:
        """The model and the version that a path names, once it is known that they are served here.

        Raises
        ------
        Refused
            There is no such model, or no such version of it answers now.
        """
        name, version = oip_paths.names_in(path)
        served = self._settings.model_name if live is None else live.champion.manifest.name
        if name != served:
            raise Refused("not_found", f"there is no model{_shown(name)} here; this service serves {served}")
        if live is not None and version is not None and live.slot_of(version) is None:
            answering = ", ".join(live.versions())
            raise Refused("not_found", f"no version{_shown(version)} answers now; {answering} does")
        return name, version


def _shown(name: str) -> str:
    """A name from a path as it may be told to its sender: only where it looks like the name of a model or version."""
    return f" {name}" if _NAME.fullmatch(name) else " of that name"


_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _model_of(live: Live, version: str | None) -> LiveModel:
    """The model of that version; without one the champion, whose columns any model that answers has."""
    slot = None if version is None else live.slot_of(version)
    return live.champion if slot is None else live.asked(slot)


def _agreed(asked: InferenceRequest, live: Live, version: str | None) -> str | None:
    """The version that a request wants; what its body says of model and version must be what its path says."""
    served = live.champion.manifest.name
    if asked.model not in (None, served):
        raise wrong("model_name", f"is another one than in the path, which names {served}")
    if asked.version is None or asked.version == version:
        return version
    if version is not None:
        raise wrong("model_version", f"is another one than in the path, which names {version}")
    if live.slot_of(asked.version) is None:
        raise wrong("model_version", f"is none that answers now; {', '.join(live.versions())} does")
    return asked.version


def _require_type(request: HttpRequest) -> None:
    """JSON, bytes, or no type at all, as Triton's client sends it; but not from a page of a browser.

    A page may send a body without a type anywhere without asking first, and with any other type only where it may.
    """
    if request.content_type in (JSON, OCTETS):
        return
    if request.content_type or any(name == b"origin" for name, _ in request.headers):
        raise Refused("unsupported_media_type", "send the body as application/json or application/octet-stream")


def _head_length(request: HttpRequest) -> int | None:
    """Bytes of JSON at the beginning of the body; None where all of it is."""
    given = [value for name, value in request.headers if name == b"inference-header-content-length"]
    if not given:
        return None
    if len(given) > 1 or not given[0].isdigit() or len(given[0]) > _DIGITS:
        raise wrong("Inference-Header-Content-Length", "must be one whole number of bytes")
    return int(given[0])


_DIGITS = 12


def _metadata(live: Live, model: LiveModel) -> dict[str, Any]:
    optional = [column.name for column in model.accepted if column.role in OPTIONAL_ROLES]
    beside = [column.name for column in model.accepted[len(model.columns) :]]
    return {
        "name": model.manifest.name,
        "versions": live.versions(),
        "platform": PLATFORM,
        "inputs": [
            {"name": column.name, "datatype": column_datatype(column).name, "shape": [-1]}
            for column in required_columns(model.columns)
        ],
        "outputs": [
            {"name": one.name, "datatype": one.datatype.name, "shape": list(one.shape)}
            for one in output_tensors(model.classes)
        ],
        "properties": {
            "labels": labels_text(model.classes),
            "optional_inputs": ",".join([*optional, *beside]),
            "confidence_level": str(live.level("champion", None)),
            "guarantee": model.manifest.guarantee,
            "model_hash": model.model_hash,
            "feature_version": model.feature_version,
        },
    }
