"""The fields of a body of ``/predict``: the one list from which parser, OpenAPI document and service are made.

It imports nothing that computes, since ``service.py`` is also imported by a process that never answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["EXPLAIN_SCHEMA", "ID_PATTERN", "LEVEL_SCHEMA", "MAX_ID_LENGTH", "PREDICT_FIELDS", "RequestField"]

MAX_ID_LENGTH = 200
ID_PATTERN = rf"[^\x00-\x1f\x7f-\x9f]{{1,{MAX_ID_LENGTH}}}"
"""What ``client_request_id`` and ``subject`` may be."""

LEVEL_SCHEMA: dict[str, Any] = {
    "type": ["number", "null"],
    "minimum": 0.5,
    "maximum": 0.999,
    "description": "Wanted coverage of the true label; fix it before you see answers. Default: the model's own.",
}
EXPLAIN_SCHEMA: dict[str, Any] = {
    "type": ["boolean", "null"],
    "default": False,
    "description": "Whether the answer says what each column added to the number that decides its set.",
}
_ID_SCHEMA: dict[str, Any] = {"type": ["string", "null"], "pattern": f"^{ID_PATTERN}$", "maxLength": MAX_ID_LENGTH}


@dataclass(frozen=True, slots=True)
class RequestField:
    """One field of a request.

    Attributes
    ----------
    name : in the body
    attribute : of ``PredictRequest``
    kind : how its value is read
    schema : JSON schema of its value
    is_required : whether a request must have it
    default : its value where a request has none, or null
    """

    name: str
    attribute: str
    kind: Literal["record", "level", "id", "flag"]
    schema: dict[str, Any]
    is_required: bool = False
    default: Any = None


PREDICT_FIELDS = (
    RequestField("features", "features", "record", {"$ref": "#/components/schemas/Record"}, is_required=True),
    RequestField("confidence_level", "level", "level", LEVEL_SCHEMA),
    RequestField("client_request_id", "client_request_id", "id", _ID_SCHEMA),
    RequestField(
        "subject",
        "subject",
        "id",
        {**_ID_SCHEMA, "description": "Who the record is about; kept only as a keyed hash."},
    ),
    RequestField("explain", "explain", "flag", EXPLAIN_SCHEMA, default=False),
)
