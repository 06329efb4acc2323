"""Replies: status, headers and bytes; and the one table from error code to status."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import orjson

from ml_core.base.errors import FieldProblem, InvalidRecord, InvalidRequest, NotJson, SuretyError

__all__ = [
    "ARROW",
    "CLOSE",
    "JSON",
    "MESSAGE_OF_CODE",
    "ON_EVERY_REPLY",
    "RETRY_AFTER_S",
    "STATUS_OF_CODE",
    "Header",
    "Refused",
    "Reply",
    "error_reply",
    "headers_of",
    "json_reply",
    "model_headers",
    "reply_to",
]

Header = tuple[bytes, bytes]

JSON = b"application/json"
ARROW = b"application/vnd.apache.arrow.stream"

RETRY_AFTER_S = 30
"""Seconds a caller is asked to wait where nothing better is known; a restart with a loaded model takes less."""

STATUS_OF_CODE: Mapping[str, int] = {
    "invalid_json": 400,
    "invalid_arrow": 400,
    "invalid_encoding": 400,
    "invalid_http": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "head_timeout": 408,
    "too_large": 413,
    "unsupported_media_type": 415,
    "invalid_record": 422,
    "invalid_request": 422,
    "overloaded": 429,
    "rate_limited": 429,
    "head_too_large": 431,
    "internal": 500,
    "model_unavailable": 503,
    "model_not_loaded": 503,
    "bad_model_output": 503,
    "circuit_open": 503,
    "home_unreachable": 503,
    "log_unavailable": 503,
    "labels_not_stored": 503,
    "deadline": 504,
}

MESSAGE_OF_CODE: Mapping[str, str] = {
    "internal": "something went wrong here; the request can be sent again",
    "model_unavailable": "no model can answer for now",
    "model_not_loaded": "no model can answer for now",
    "bad_model_output": "no model can answer for now",
    "circuit_open": "no model can answer for now",
    "log_unavailable": "the answer cannot be stored now, and is not given without that",
    "home_unreachable": "the service cannot reach its database now; send this again",
    "labels_not_stored": "the labels cannot be stored now; send them again",
    "deadline": "the model did not answer in time",
    "overloaded": "too many requests are being answered; send this one again later",
}
"""What callers read where the reason is an internal detail (it is in the log and, for operators, in /status)."""


ON_EVERY_REPLY: tuple[Header, ...] = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
CLOSE: tuple[Header, ...] = ((b"connection", b"close"),)

_ASK_AGAIN = frozenset({429, 503})


class Refused(Exception):
    """Raised to answer a request with an error object."""

    def __init__(
        self, code: str, message: str, headers: tuple[Header, ...] = (), retry_after_s: float | None = None
    ) -> None:
        self.code = code
        self.headers = headers
        self.retry_after_s = retry_after_s
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP reply, ready to send."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[Header, ...] = field(default=())


def json_reply(value: Any, headers: tuple[Header, ...] = (), status: int = 200) -> Reply:
    """A JSON reply; NaN cannot occur, since nothing that is not finite passes the runner."""
    return Reply(status, orjson.dumps(value), JSON, headers)


@lru_cache(maxsize=16)
def model_headers(version: str, model_hash: str) -> tuple[Header, ...]:
    """The headers that name the model which a reply's lineage names."""
    return ((b"x-model-version", version.encode()), (b"x-model-hash", model_hash.encode()))


def error_reply(
    code: str,
    message: str,
    fields: Iterable[FieldProblem] = (),
    headers: tuple[Header, ...] = (),
    retry_after_s: float | None = None,
    *,
    protocol: bool = False,
) -> Reply:
    """The one error object of the contract, with the status of its code.

    Parameters
    ----------
    protocol : in the form of the Open Inference Protocol: one text, and 400 where we have 422, which it does not know
    """
    status, told = STATUS_OF_CODE.get(code, 500), MESSAGE_OF_CODE.get(code, message)
    error: Any
    if protocol:
        status, error = 400 if status == _UNPROCESSABLE else status, _in_one_text(told, tuple(fields))
    else:
        problems = [{"field": f.field, "problem": f.problem} for f in fields]
        error = {"code": code, "message": told, "fields": problems}
    if status in _ASK_AGAIN:
        wait = RETRY_AFTER_S if retry_after_s is None else max(1, math.ceil(retry_after_s))
        headers = (*headers, (b"retry-after", b"%d" % wait))
    return json_reply({"error": error}, headers, status)


_UNPROCESSABLE = 422
_PROBLEMS_TOLD = 10


def _in_one_text(message: str, fields: Sequence[FieldProblem]) -> str:
    told = [f"{f.field}: {f.problem}" for f in fields[:_PROBLEMS_TOLD]]
    if len(fields) > _PROBLEMS_TOLD:
        told.append(f"and {len(fields) - _PROBLEMS_TOLD} more")
    return "; ".join(told) or message


def headers_of(reply: Reply, *, close: bool) -> list[Header]:
    """All headers of a reply; ``close`` where nothing more is read from its connection."""
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        *ON_EVERY_REPLY,
        *reply.headers,
    ]
    if close:
        headers.extend(CLOSE)
    return headers


def reply_to(error: Exception, *, protocol: bool = False) -> Reply:
    """The reply to an exception raised while answering. Internal ones say nothing of themselves.

    Parameters
    ----------
    protocol : in the form of the Open Inference Protocol
    """
    reply = partial(error_reply, protocol=protocol)
    if isinstance(error, Refused):
        return reply(error.code, str(error), headers=error.headers, retry_after_s=error.retry_after_s)
    if isinstance(error, NotJson):
        return reply(error.code, str(error))
    if isinstance(error, InvalidRecord):
        return reply(error.code, f"{len(error.fields)} field(s) cannot be accepted", error.fields)
    if isinstance(error, InvalidRequest):
        return reply(error.code, "the request cannot be accepted", error.fields)
    if isinstance(error, SuretyError) and error.code in STATUS_OF_CODE:
        return reply(error.code, "", retry_after_s=getattr(error, "retry_after_s", None))
    return reply("internal", "")
