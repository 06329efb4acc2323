"""The BentoML services: wiring only. Routes are in ml_core/serve/http, answers in ml_core/serve/answering.

``Surety`` runs the model inside the API worker. ``SuretyIsolated`` runs it in a process of its own, for models that are
heavy or may crash. Both answer alike.
"""

from __future__ import annotations

import gc
import inspect
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import bentoml
from pydantic import WithJsonSchema
from uvicorn.config import HTTP_PROTOCOLS

from ml_core.base.reserve import keep_reserve
from ml_core.base.settings import load_settings
from ml_core.serve.answering.request_fields import PREDICT_FIELDS
from ml_core.serve.home.homes import open_home
from ml_core.serve.http import json_logs
from ml_core.serve.http.api_keys import is_guarded
from ml_core.serve.http.middleware import SuretyMiddleware
from ml_core.serve.log.key_register import check_outside_keys
from ml_core.serve.model.loader import ModelLoader, ServedModel
from ml_core.serve.worker.metrics_folder import hold_metrics_folder, use_own_metrics_folder
from ml_core.serve.worker.startup import (
    keep_bundled,
    keep_full_hashes,
    say_what_is_not_traced,
    start_notes,
    take_up_promotion,
)

if TYPE_CHECKING:
    from ml_core.serve.http.handlers import HttpApi
    from ml_core.serve.worker.worker import Hop, Worker

logger = logging.getLogger("surety")

# A bento is unpacked as <bento>/bento.yaml and <bento>/src, which holds this file at its top, or in ml_core.
_SOURCES = (folder for folder in Path(__file__).resolve().parents if folder.name == "src")
BENTO = next((src.parent for src in _SOURCES if (src.parent / "bento.yaml").is_file()), None)

settings = load_settings()
loader = ModelLoader(settings, BENTO, patience_s=0.5)  # workers report once a second, whatever a store does
use_own_metrics_folder()

# The methods below are documentation and what bentoml's own clients read from /schema.json. Over HTTP the
# middleware answers before BentoML would validate, log values or answer 400 in its own form.
JsonObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]
JsonObjects = Annotated[list[dict[str, Any]], WithJsonSchema({"type": "array", "items": {"type": "object"}})]
_PARAMETER_TYPES: dict[str, Any] = {"record": JsonObject, "level": float | None, "id": str | None, "flag": bool}
_T = TypeVar("_T", bound=Callable[..., Any])


def _takes_predict_fields(method: _T) -> _T:
    """The method with the fields of ``/predict`` for parameters, which is how BentoML learns of them."""
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if field.is_required else field.default,
            annotation=_PARAMETER_TYPES[field.kind],
        )
        for field in PREDICT_FIELDS
    ]
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    vars(method)["__signature__"] = inspect.Signature([itself, *parameters], return_annotation=JsonObject)
    return method


def _default_host() -> str:
    """Where the service listens unless it is told: without keys only on this machine.

    In a container 127.0.0.1 is the container itself: who publishes its port decides who reaches it.
    """
    is_open = "BENTOML_CONTAINERIZED" in os.environ or settings.api_keys_file is not None or is_guarded(settings)
    return "0.0.0.0" if is_open else "127.0.0.1"  # noqa: S104


HTTP_PROTOCOLS["auto"] = "ml_core.serve.http.connection:Connection"  # what uvicorn takes unless it is told

_LEAN: dict[str, Any] = {
    # Far above what the largest call takes, since BentoML's timeout answers in its own form and leaves the work
    # running; but no higher, since BentoML keeps a timer for every answered request until it has run out. /predict
    # does not pass that layer (ml_core/serve/http/connection.py).
    "traffic": {"timeout": 60},
    "http": {"host": _default_host()},
    "logging": {"access": {"enabled": False}},
    "metrics": {"enabled": False},  # ml_core/serve/http/traffic.py counts requests, under the same names
    "tracing": {"excluded_urls": ".*"},  # no exporter is installed, so spans would be made for nobody
}


_NO_KEYS = (
    "there are no keys: whoever reaches the port may ask for everything. Unless it is told another host, the service "
    "listens on 127.0.0.1 only, and in a container on all of its addresses. To open it to others, set "
    "SURETY_API_KEYS_FILE (surety keys add), or start it with --host 0.0.0.0."
)


class _Service:
    """What both services have in common: their methods and their life."""

    served = ServedModel.of(loader)

    def __init__(self) -> None:
        gc.freeze()  # what BentoML is made of: while ours is imported, no collection looks through it again and again
        # What answers is imported by workers only; BentoML's arbiter imports this file too and never answers.
        from ml_core.serve.worker.worker import Worker

        self.worker: Worker = Worker(settings, loader, bento=_bento_tag(), index=_worker_index(), hop=self._hop())

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Once, before there are workers: keys, the bento's model, a newer promotion, the reserve, respawning."""
        json_logs.configure()  # BentoML's own form leaves out the reasons, which are facts beside the event
        hold_metrics_folder()
        say_what_is_not_traced()
        open_home(settings).remember()
        check_outside_keys(settings)
        if not is_guarded(settings):
            logger.warning(_NO_KEYS)
        keep_bundled(settings, loader)
        keep_full_hashes(settings, loader)
        take_up_promotion(settings, loader)
        keep_reserve(settings.home)
        if notes := start_notes(sys.argv, os.environ):
            logger.warning("BentoML was asked for what has no effect here: %s", "; ".join(notes))
        if settings.respawn:
            _respawn_in_containers()

    @bentoml.on_startup
    async def warm_up(self) -> None:
        """Start, then take everything imported so far out of the collector's sight.

        Without the freeze one request in a hundred waits 50 ms or more for a full collection over all modules.
        """
        await self.worker.start()
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def close(self) -> None:
        """Let batches finish."""
        self.worker.stop()

    @bentoml.api(route="/predict")
    @_takes_predict_fields
    def predict(self, *values: Any, **named: Any) -> JsonObject:
        """Answer one record."""
        names = [field.name for field in PREDICT_FIELDS]
        return self.worker.predict(dict(zip(names, values, strict=False)) | named)

    @bentoml.api(route="/predict_batch")
    def predict_batch(
        self,
        records: JsonObjects,
        on_error: str = "row",
        confidence_level: float | None = None,
        explain: bool = False,  # noqa: FBT001, FBT002 - BentoML's clients send it by its name
    ) -> JsonObject:
        """Answer many records."""
        return self.worker.predict_batch(
            {
                "records": records,
                "on_error": on_error,
                "confidence_level": confidence_level,
                "explain": explain,
            }
        )

    @bentoml.api(route="/labels")
    def labels(self, labels: JsonObjects) -> JsonObject:
        """Say what turned out to be true of earlier answers."""
        return self.worker.labels({"labels": labels})

    def _hop(self) -> Hop | None:
        return None


@bentoml.service(name="Surety", workers=settings.workers, **_LEAN)
class Surety(_Service):
    """Prediction sets with a stated coverage per class, and the lineage of every answer."""


@bentoml.service(
    name="SuretyRunner", workers=1, runner_connection={"max_requests": 1_000_000}, **{**_LEAN, "metrics": {}}
)
class SuretyRunner:
    """The runner of the isolated service. Its socket is private: BentoML pickles what crosses it."""

    def __init__(self) -> None:
        gc.freeze()
        from ml_core.serve.rollout.processes import Identity
        from ml_core.serve.running.model_host import ModelHost

        json_logs.configure()
        identity = Identity.of_this_process("runner", _worker_index(), settings.machine_name)
        self.host = ModelHost(settings, loader, identity)
        self.host.begin()

    @bentoml.on_startup
    def freeze(self) -> None:
        """As the other services do once they are warm."""
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def close(self) -> None:
        """Stop following the rollout."""
        self.host.stop()

    @bentoml.api
    async def score(self, model_hash: str, features: Any) -> Any:
        """Class probabilities of the rows of a float32 matrix (n, d), by the model of that hash."""
        return self.host.score(model_hash, features)


@bentoml.service(name="SuretyIsolated", workers=settings.workers, **_LEAN)
class SuretyIsolated(_Service):
    """The same service with its model in a process of its own."""

    runner = bentoml.depends(SuretyRunner)

    def _hop(self) -> Hop | None:
        from ml_core.serve.worker.worker import Hop

        runner: Any = self.runner
        if isinstance(runner, SuretyRunner.inner):  # no `bentoml serve` around: it runs in this process

            async def cross_here(model_hash: str, features: Any) -> Any:
                return runner.host.score(model_hash, features)

            return Hop(cross_here, runner.host.score)

        async def cross(model_hash: str, features: Any) -> Any:
            return await runner.to_async.call("score", model_hash=model_hash, features=features)

        return Hop(cross)


def _respawn_in_containers() -> None:
    """Have BentoML replace lost processes inside a container as it does outside.

    Its images set this variable, for which it leaves lost workers lost, and ends the whole server within ten seconds of
    losing the last process of a service, such as our runner, though fallbacks would answer meanwhile.
    """
    from bentoml.serving import running_inside_container

    os.environ.pop("BENTOML_CONTAINERIZED", None)
    running_inside_container.cache_clear()


def _bento_tag() -> str | None:
    """Tag of the bento this code was built into, None in a checkout."""
    context = bentoml.server_context
    return f"{context.bento_name}:{context.bento_version}" if BENTO else None


def _worker_index() -> int:
    return bentoml.server_context.worker_index or 1


def _api() -> HttpApi:
    service: Any = bentoml.get_current_service()
    api: HttpApi = service.worker.api
    return api


_EDGE: dict[str, Any] = {"api": _api, "root_path": settings.root_path, "origins": settings.allowed_origins}
Surety.add_asgi_middleware(SuretyMiddleware, **_EDGE)
SuretyIsolated.add_asgi_middleware(SuretyMiddleware, **_EDGE)
