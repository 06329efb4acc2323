"""HTTP APIs for tests: the routes of one worker, without siblings."""

from __future__ import annotations

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.worker.status import ServiceStatus


def http_api(settings: Settings, inference: InferenceService) -> HttpApi:
    """The routes of a worker that is alone."""
    return HttpApi(settings, inference, ServiceStatus(settings, inference))
