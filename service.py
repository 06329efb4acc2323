"""The BentoML service: wiring only. Routes are in web/, answers in ml_core/serving/."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import bentoml
import orjson
from pydantic import WithJsonSchema

from ml_core.errors import NotLoaded, SuretyError
from ml_core.models.loader import ModelLoader, ServedModel
from ml_core.settings import load_settings
from web.face import Routes, SuretyFace

if TYPE_CHECKING:
    from ml_core.serving.inference import InferenceService

logger = logging.getLogger("surety")

# A bento is unpacked as <bento>/bento.yaml and <bento>/src/service.py.
_BENTO = Path(__file__).resolve().parent.parent
IN_BENTO = (_BENTO / "bento.yaml").is_file()

settings = load_settings()
loader = ModelLoader(settings, _BENTO if IN_BENTO else None)

# The methods below are the documented face and what bentoml's own clients read from /schema.json. Over HTTP the
# middleware answers before BentoML would validate, log values or answer 400 in its own form.
JsonObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]
JsonObjects = Annotated[list[dict[str, Any]], WithJsonSchema({"type": "array", "items": {"type": "object"}})]


def _traced() -> bool:
    """Whether an OpenTelemetry exporter is configured; else its layer is skipped."""
    return any(name in os.environ for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))


@bentoml.service(
    name="Surety",
    workers=settings.workers,
    # Far above what the largest call takes, since BentoML's timeout answers in its own form and leaves the work
    # running; but no higher, since BentoML keeps a timer for every answered request until it has run out.
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    tracing={} if _traced() else {"excluded_urls": ".*"},
)
class Surety:
    """Prediction sets with a stated coverage per class, and the lineage of every answer."""

    served = ServedModel.of(loader)

    def __init__(self) -> None:
        # What answers is imported by workers only; BentoML's arbiter imports this file too and never answers.
        from ml_core.serving.inference import InferenceService
        from web import logs
        from web.api import HttpApi

        logs.configure()
        self.inference: InferenceService | None = None
        problem = ""
        try:
            model = loader.load(loader.served_tag())
            self.inference = InferenceService(model, bento=_bento_tag())
            logger.info("model.loaded", extra={"tag": model.tag, "model_hash": model.model_hash})
        except SuretyError as error:
            problem = str(error)
            logger.error("model.not_loaded", extra={"code": error.code, "reason": problem})  # noqa: TRY400 - one line
        self.problem = problem
        self.api = HttpApi(settings, self.inference, problem)

    @bentoml.on_startup
    def warm_up(self) -> None:
        """Answer golden records, then take everything imported so far out of the collector's sight.

        Without the freeze one request in a hundred waits 50 ms or more for a full collection over all modules.
        """
        if self.inference is not None:
            self.inference.warm_up()
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def close(self) -> None:
        """Let bulk calls finish."""
        self.api.close()

    def __is_ready__(self) -> bool:
        return self.inference is not None

    @bentoml.api(route="/predict")
    def predict(
        self,
        features: JsonObject,
        confidence_level: float | None = None,
        client_request_id: str | None = None,
        subject: str | None = None,
    ) -> JsonObject:
        """Answer one record."""
        from ml_core.serving.requests import parse_predict

        body = {
            "features": features,
            "confidence_level": confidence_level,
            "client_request_id": client_request_id,
            "subject": subject,
        }
        return _plain(self._loaded().predict(parse_predict(body)))

    @bentoml.api(route="/predict_batch")
    def predict_batch(
        self, records: JsonObjects, on_error: str = "row", confidence_level: float | None = None
    ) -> JsonObject:
        """Answer many records."""
        from ml_core.serving.requests import parse_batch

        body = {"records": records, "on_error": on_error, "confidence_level": confidence_level}
        return _plain(self._loaded().predict_batch(parse_batch(body, settings.max_batch_rows)))

    def _loaded(self) -> InferenceService:
        if self.inference is None:
            raise NotLoaded(self.problem)
        return self.inference


def _plain(answer: Any) -> dict[str, Any]:
    """The answer as JSON would carry it."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(answer))
    return plain


def _bento_tag() -> str | None:
    """Tag of the bento this code was built into, None in a checkout."""
    context = bentoml.server_context
    return f"{context.bento_name}:{context.bento_version}" if IN_BENTO else None


def _routes() -> Routes:
    service: Surety = bentoml.get_current_service()
    return service.api.routes


Surety.add_asgi_middleware(SuretyFace, routes=_routes)
