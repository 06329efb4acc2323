"""What every part of the OpenAPI document is made of: references, objects, and what a status means."""

from __future__ import annotations

from typing import Any

from ml_core.serve.http.replies import JSON

__all__ = ["Schema", "error_responses", "object_schema", "reference"]

Schema = dict[str, Any]

_MEANING = {
    400: "not JSON, or no whole gzip stream",
    401: "no key that is valid here",
    403: "the key has another role",
    404: "there is no such model here, or no such version of it answers now",
    408: "the body came too slowly",
    413: "the body is too large",
    415: "the body is of another type, or packed in another way than gzip",
    422: "a field is wrong; `fields` names each one",
    429: "too many requests are being answered; `Retry-After` says when to ask again",
    500: "a fault here",
    503: "it cannot be done for now; `Retry-After` says when to ask again",
    504: "the model did not answer in time, and no fallback may",
}
_MEANING_OF_PROTOCOL = _MEANING | {400: "not JSON, no whole gzip stream, or a field is wrong: `error` says which"}


def reference(name: str) -> Schema:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_schema(**properties: Schema) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def error_responses(*statuses: int, schema: str = "Error") -> Schema:
    """The responses of these statuses, with a body of that schema."""
    meaning = _MEANING_OF_PROTOCOL if schema == "ProtocolError" else _MEANING
    content = {JSON.decode(): {"schema": reference(schema)}}
    return {str(status): {"description": meaning[status], "content": content} for status in statuses}
