"""The OpenAPI document: our routes, every status they can answer, and the real columns of the served model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from web.replies import ARROW, JSON, STATUS_OF_CODE

__all__ = ["ERROR", "LINEAGE", "Schema", "answer_schema", "openapi_document"]

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_LEVEL: Schema = {
    "type": "number",
    "minimum": 0.5,
    "maximum": 0.999,
    "description": "Wanted coverage of the true label; fix it before you see answers. Default: the model's own.",
}
_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 200}
_UUID: Schema = {"type": "string", "format": "uuid"}
_HASH: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}

LINEAGE: Schema = {
    "type": "object",
    "properties": {
        "model_name": _TEXT,
        "model_version": _TEXT,
        "model_hash": _HASH,
        "feature_version": _TEXT,
        "calibration_id": _HASH,
        "input_hash": _HASH,
        "slot": _TEXT,
        "bento": {"type": ["string", "null"]},
        "timestamp": {"type": "string", "format": "date-time"},
    },
}
LINEAGE["required"] = list(LINEAGE["properties"])

ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "fields"],
            "properties": {
                "code": {"type": "string", "enum": sorted(STATUS_OF_CODE)},
                "message": _TEXT,
                "fields": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["field", "problem"],
                        "properties": {"field": _TEXT, "problem": _TEXT},
                    },
                },
            },
        }
    },
}


_STATUS: Schema = {
    "type": "object",
    "required": ["ready", "problem", "models"],
    "properties": {
        "ready": {"type": "boolean"},
        "problem": {"type": ["string", "null"], "description": "Why no model answers."},
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "slot": _TEXT,
                    "weight": {**_NUMBER, "description": "Share of the traffic."},
                    "model_name": _TEXT,
                    "model_version": _TEXT,
                    "model_hash": _HASH,
                    "bento_tag": _TEXT,
                    "feature_version": _TEXT,
                    "guarantee": _TEXT,
                    "confidence_level": _NUMBER,
                    "calibration_rows": {"type": "object", "additionalProperties": {"type": "integer"}},
                    "promoted_at": {"type": ["string", "null"], "format": "date-time"},
                    "gate": {"type": "object"},
                },
            },
        },
    },
}


def answer_schema(classes: tuple[int | str, ...]) -> Schema:
    """JSON schema of one envelope, for a model with these labels."""
    label: Schema = {"enum": list(classes)}
    properties: Schema = {
        "request_id": _UUID,
        "prediction": {**label, "description": "The label with the largest p-value."},
        "probability": {"type": ["number", "null"], "description": "P(label 1) of a binary model."},
        "confidence": {**_NUMBER, "description": "Probability of the predicted label."},
        "prediction_set": {
            "type": "array",
            "items": label,
            "uniqueItems": True,
            "description": "One label: act on it. Several: refer. None: unlike all that was calibrated on, refer.",
        },
        "p_values": {
            "type": "object",
            "properties": {str(c): {"type": "number", "exclusiveMinimum": 0, "maximum": 1} for c in classes},
            "required": [str(c) for c in classes],
        },
        "confidence_level": _NUMBER,
        "guarantee": {"enum": ["class_conditional", "marginal"]},
        "validity": {"enum": ["valid", "suspect", "unmonitored"]},
        "validity_reasons": {"type": "array", "items": _TEXT},
        "fallback_used": {"type": "boolean"},
        "fallback_reason": {"type": ["string", "null"]},
        "error": {"type": "null"},
        "lineage": LINEAGE,
        "client_request_id": {"type": ["string", "null"]},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def openapi_document(
    record: Schema, example: Mapping[str, Any], classes: tuple[int | str, ...], max_rows: int, version: str
) -> Schema:
    """The whole document.

    Parameters
    ----------
    record : JSON schema of one record (``RecordReader.json_schema()``)
    example : one valid record
    classes : the model's labels
    max_rows : most records in a JSON batch
    version : shown as the version of the API
    """
    row_error = {
        "type": "object",
        "required": ["request_id", "error"],
        "properties": {"request_id": _UUID, "error": ERROR["properties"]["error"]},
    }
    schemas = {
        "Record": record,
        "Answer": answer_schema(classes),
        "Error": ERROR,
        "RowError": row_error,
        "PredictRequest": {
            "type": "object",
            "additionalProperties": False,
            "required": ["features"],
            "properties": {
                "features": _ref("Record"),
                "confidence_level": _LEVEL,
                "client_request_id": _ID,
                "subject": {**_ID, "description": "Who the record is about; kept only as a keyed hash."},
            },
        },
        "BatchRequest": {
            "type": "object",
            "additionalProperties": False,
            "required": ["records"],
            "properties": {
                "records": {"type": "array", "minItems": 1, "maxItems": max_rows, "items": _ref("Record")},
                "on_error": {
                    "enum": ["row", "reject"],
                    "default": "row",
                    "description": "A bad record fails alone (row) or refuses the whole batch (reject).",
                },
                "confidence_level": _LEVEL,
            },
        },
        "BatchResponse": {
            "type": "object",
            "required": ["batch_id", "predictions"],
            "properties": {
                "batch_id": _UUID,
                "predictions": {"type": "array", "items": {"anyOf": [_ref("Answer"), _ref("RowError")]}},
            },
        },
        "Health": {"type": "object", "required": ["status"], "properties": {"status": {"enum": ["ok", "unavailable"]}}},
        "Status": _STATUS,
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Surety",
            "version": version,
            "description": "Prediction sets with a stated coverage per class, and the lineage of every answer.",
        },
        "paths": _paths(example),
        "components": {"schemas": schemas},
    }


def _paths(example: Mapping[str, Any]) -> Schema:
    json_type, arrow_type = JSON.decode(), ARROW.decode()
    predict_body = {"schema": _ref("PredictRequest"), "example": {"features": example}}
    batch_body = {
        json_type: {"schema": _ref("BatchRequest"), "example": {"records": [example]}},
        arrow_type: {"schema": {"type": "string", "format": "binary"}},
    }
    batch_reply = {
        json_type: {"schema": _ref("BatchResponse")},
        arrow_type: {"schema": {"type": "string", "format": "binary"}},
    }
    return {
        "/predict": {
            "post": {
                "summary": "Answer one record",
                "tags": ["answers"],
                "operationId": "predict",
                "requestBody": {"required": True, "content": {json_type: predict_body}},
                "responses": _responses("Answer", 400, 413, 415, 422, 500, 503),
            }
        },
        "/predict_batch": {
            "post": {
                "summary": "Answer many records, as JSON or as an Arrow IPC stream",
                "tags": ["answers"],
                "operationId": "predict_batch",
                "parameters": [
                    _query("confidence_level", _LEVEL),
                    _query("on_error", {"enum": ["row", "reject"], "default": "row"}),
                ],
                "requestBody": {"required": True, "content": batch_body},
                "responses": {
                    **_responses("BatchResponse", 400, 413, 415, 422, 500, 503),
                    "200": {"description": "Answers in the order of the records", "content": batch_reply},
                },
            }
        },
        "/health": {"get": _look("Can it answer", "health", _responses("Health", 503))},
        "/status": {"get": _look("What serves, or why nothing does", "status", _responses("Status"))},
        **{path: {"get": _look(text, path[1:], _plain(*errors))} for path, text, errors in _BENTOML_ROUTES},
    }


_BENTOML_ROUTES = (
    ("/livez", "Is the process alive", ()),
    ("/healthz", "The same, under its older name", ()),
    ("/readyz", "Can it take traffic", (503,)),
    ("/metrics", "Prometheus metrics", ()),
)


def _look(summary: str, name: str, responses: Schema) -> Schema:
    return {"summary": summary, "tags": ["operation"], "operationId": name, "responses": responses}


def _plain(*errors: int) -> Schema:
    content = {"text/plain": {"schema": _TEXT}}
    return {str(status): {"description": "As the status says", "content": content} for status in (200, *errors)}


_MEANING = {
    400: "not JSON",
    413: "the body is too large",
    415: "the body is of another type",
    422: "a field is wrong; `fields` names each one",
    500: "a fault here",
    503: "no model can answer for now; `Retry-After` says when to ask again",
}


def _responses(schema: str, *errors: int) -> Schema:
    found: Schema = {"200": {"description": "Done", "content": {JSON.decode(): {"schema": _ref(schema)}}}}
    for status in errors:
        content = {JSON.decode(): {"schema": _ref("Health" if schema == "Health" else "Error")}}
        found[str(status)] = {"description": _MEANING[status], "content": content}
    return found


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": "Arrow streams only."}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
