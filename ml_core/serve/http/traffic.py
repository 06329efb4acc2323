"""Counts requests under BentoML's own metric names, with a fixed set of endpoints as labels.

BentoML labels its request metrics with whatever path a caller sent: every unknown path grows them for ever, and a path
may hold what belongs in no metric. So its layer is off (``service.py``) and this takes its place, with its names and
labels, which dashboards and alert rules know. The isolated runner, whose paths are fixed, keeps BentoML's own: hence
this module is imported by API workers only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from timeit import default_timer

import bentoml
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

__all__ = ["OTHER", "Traffic", "exposition"]

OTHER = "other"
"""Endpoint of requests for any path that is not a route."""

_SERVICE = ("service_name", "service_version", "runner_name")
_BUCKETS = (0.0005, 0.001, 0.0025, *Histogram.DEFAULT_BUCKETS)  # an answer takes less than the first default one

_TOTAL = Counter(
    "bentoml_service_request_total", "HTTP requests by route and status.", ("endpoint", *_SERVICE, "http_response_code")
)
_SECONDS = Histogram(
    "bentoml_service_request_duration_seconds",
    "Time from a request's headers to the end of its reply.",
    ("endpoint", *_SERVICE, "http_response_code"),
    buckets=_BUCKETS,
)
_IN_PROGRESS = Gauge(
    "bentoml_service_request_in_progress",
    "HTTP requests in work.",
    ("endpoint", *_SERVICE),
    multiprocess_mode="livesum",
)
_LAST = Gauge(
    "bentoml_service_last_request_timestamp_seconds",
    "When the last request other than a probe came, seconds since 1970.",
    _SERVICE,
    multiprocess_mode="mostrecent",
)


class Traffic:
    """Counts the requests of one worker.

    Parameters
    ----------
    endpoints : the routes
    quiet : those of them that say nothing about callers: probes and scrapes
    """

    def __init__(self, endpoints: Collection[str], quiet: Collection[str]) -> None:
        context = bentoml.server_context
        self._service = (
            context.bento_name or "",
            context.bento_version or "not available",
            context.service_name or "",
        )
        self._quiet = frozenset(quiet)
        self._in_progress = {e: _IN_PROGRESS.labels(e, *self._service) for e in (*endpoints, OTHER)}
        self._last = _LAST.labels(*self._service)
        self._counts: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def begin(self, path: str) -> Callable[[int], None]:
        """Begin a request for that path; call what comes out with the status of its reply."""
        endpoint = path if path in self._in_progress else OTHER
        began = default_timer()
        gauge = self._in_progress[endpoint]
        gauge.inc()
        if endpoint not in self._quiet:
            self._last.set_to_current_time()

        def end(status: int) -> None:
            gauge.dec()
            total, seconds = self._counts.get((endpoint, status)) or self._begin_count(endpoint, status)
            total.inc()
            seconds.observe(max(default_timer() - began, 0.0))

        return end

    def _begin_count(self, endpoint: str, status: int) -> tuple[Counter, Histogram]:
        labels = (endpoint, *self._service, str(status))
        found = self._counts[endpoint, status] = (_TOTAL.labels(*labels), _SECONDS.labels(*labels))
        return found


def exposition() -> tuple[bytes, bytes]:
    """Everything that the workers of this server count, in Prometheus' text form, and its content type. Reads files."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:  # one process by itself
        return generate_latest(REGISTRY), CONTENT_TYPE_LATEST.encode()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST.encode()
