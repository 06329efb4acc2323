"""The paths of the Open Inference Protocol: which route a path is, and which model and version it names.

Imports nothing that computes: the middleware asks here at each request, and BentoML's arbiter imports the middleware.
"""

from __future__ import annotations

import re

__all__ = [
    "HEALTH_PATHS",
    "INFER",
    "LIVE",
    "MODEL",
    "MODEL_PATHS",
    "READY",
    "SERVER",
    "is_of_protocol",
    "names_in",
    "route_of",
    "with_version",
]

SERVER = "/v2"
LIVE, READY = "/v2/health/live", "/v2/health/ready"
MODEL = "/v2/models/{model}"
_VERSION = "/versions/{version}"
_ENDS = ("", "/ready", "/infer")
INFER = f"{MODEL}/infer"

HEALTH_PATHS = frozenset({LIVE, READY})
MODEL_PATHS = tuple(f"{MODEL}{version}{end}" for version in ("", _VERSION) for end in _ENDS)
"""Routes of a model, with the names that a path fills in."""

_OF_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")


def is_of_protocol(path: str) -> bool:
    """Whether errors at that path are told in the protocol's form."""
    return path.startswith("/v2") and (len(path) == len(SERVER) or path[len(SERVER)] == "/")


def with_version(route: str) -> str:
    """The same route of a model, for a path that names a version too."""
    return MODEL + _VERSION + route.removeprefix(MODEL)


def route_of(path: str) -> str:
    """The route that a path is one of: a path without names in it is its own, and so is an unknown one."""
    if not is_of_protocol(path):
        return path
    if path == "/v2/":
        return SERVER
    found = _OF_MODEL.fullmatch(path)
    if found is None:
        return path
    route = f"{MODEL}{found[3] or ''}"
    return route if found[2] is None else with_version(route)


def names_in(path: str) -> tuple[str, str | None]:
    """The model and the version, if any, in the path of a model.

    Raises
    ------
    ValueError
        It is no path of a model.
    """
    found = _OF_MODEL.fullmatch(path)
    if found is None:
        raise ValueError("no path of a model")
    return found[1], found[2]
