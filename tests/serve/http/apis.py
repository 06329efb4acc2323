"""HTTP APIs for tests: the routes of one worker, without siblings."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.http.middleware import SuretyMiddleware
from ml_core.serve.worker.status import ServiceStatus


def http_api(settings: Settings, inference: InferenceService) -> HttpApi:
    """The routes of a worker that is alone."""
    return HttpApi(settings, inference, ServiceStatus(settings, inference))


def post(api: HttpApi, path: str = "/predict_batch", **options: Any) -> httpx.Response:
    """The reply of the whole middleware to one ``POST``, without a server."""

    async def bentoml_app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("reached BentoML")

    async def once() -> httpx.Response:
        middleware = SuretyMiddleware(bentoml_app, api=lambda: api)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=middleware), base_url="http://s") as client:
            return await client.post(path, **options)

    return asyncio.run(once())
