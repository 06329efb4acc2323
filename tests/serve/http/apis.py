"""HTTP APIs for tests: the routes of one worker, without siblings; and a server for them in this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http.connection import Connection
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.http.middleware import SuretyMiddleware
from ml_core.serve.worker.status import ServiceStatus


def http_api(settings: Settings, inference: InferenceService) -> HttpApi:
    """The routes of a worker that is alone."""
    return HttpApi(settings, inference, ServiceStatus(settings, inference))


def post(api: HttpApi, path: str = "/predict_batch", **options: Any) -> httpx.Response:
    """The reply of the whole middleware to one ``POST``, without a server."""

    async def once() -> httpx.Response:
        middleware = SuretyMiddleware(bentoml_app, api=lambda: api)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=middleware), base_url="http://s") as client:
            return await client.post(path, **options)

    return asyncio.run(once())


async def bentoml_app(scope: Any, receive: Any, send: Any) -> None:
    """Stands where BentoML's router is."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"bentoml"})


@contextmanager
def listening(api: HttpApi) -> Iterator[int]:
    """Port of a uvicorn in a thread of this process, with our protocol and middleware."""
    middleware = SuretyMiddleware(bentoml_app, api=lambda: api)
    config = uvicorn.Config(middleware, http=Connection, lifespan="off", log_config=None, loop="uvloop")
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
