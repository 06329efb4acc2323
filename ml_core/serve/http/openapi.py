"""The OpenAPI document: our routes, every status they can answer, and the real columns of the served model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ml_core.serve.answering.answers import REASONS
from ml_core.serve.answering.live import ORIGINS
from ml_core.serve.answering.request_fields import EXPLAIN_SCHEMA, LEVEL_SCHEMA, PREDICT_FIELDS
from ml_core.serve.http.access import OPEN_TO_ALL, ROLE_OF_ROUTE
from ml_core.serve.http.oip_document import protocol_paths, protocol_schemas
from ml_core.serve.http.oip_paths import is_of_protocol
from ml_core.serve.http.openapi_parts import Schema, error_responses, object_schema, reference
from ml_core.serve.http.replies import ARROW, JSON, STATUS_OF_CODE
from ml_core.serve.log.label_requests import OBSERVED_AT_PATTERN
from ml_core.serve.log.labels import MOST_OF_ONE
from ml_core.serve.model.explanations import EFFECTS, METHODS, SCALES
from ml_core.serve.rollout.monitor_state import Validity
from ml_core.serve.rollout.rollout_state import CircuitMode, Flags, Mode, Slot

__all__ = ["ERROR", "HEALTH_STATES", "LINEAGE", "Schema", "answer_schema", "openapi_document"]

HEALTH_STATES = ("ok", "degraded", "unavailable")

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
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
        "slot": {"enum": list(ORIGINS), "description": "Whose answer it is: a model's, or its baseline's."},
        "bento": {"type": ["string", "null"]},
        "served_by": {
            "type": "object",
            "properties": {"home": _TEXT, "machine": _TEXT},
            "required": ["home", "machine"],
            "description": "Names of the home and of the machine that gave the answer.",
        },
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


_MOMENT: Schema = {"type": ["string", "null"], "format": "date-time"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SHARE: Schema = {"type": ["number", "null"], "description": "null: not enough calls to say."}


def _with_not_stored(**counts: Schema) -> Schema:
    """Counts of labels; those of labels that were not stored are there only where there were such."""
    not_stored = {
        "refused": {**_COUNT, "description": "As unknown, and not stored, because too many wait for their answer."},
        "over_limit": {
            **_COUNT,
            "description": f"As conflict, and not stored: {MOST_OF_ONE} labels of that answer are kept.",
        },
    }
    schema = object_schema(**counts)
    return {**schema, "properties": {**counts, **not_stored}}


_CIRCUIT = object_schema(
    state={"enum": ["closed", "open", "half_open"]},
    mode={"enum": list(get_args(CircuitMode))},
    reason={"type": ["string", "null"], "description": "Why it last opened."},
    retry_after_s={"type": ["number", "null"]},
    error_rate=_SHARE,
    p95_ms=_SHARE,
)
_MODEL = object_schema(
    slot={"enum": list(get_args(Slot))},
    weight={**_NUMBER, "description": "Share of the traffic."},
    validity={"enum": list(get_args(Validity))},
    validity_reasons={"type": "array", "items": _TEXT},
    model_name=_TEXT,
    model_version=_TEXT,
    model_hash=_HASH,
    bento_tag=_TEXT,
    feature_version=_TEXT,
    guarantee=_TEXT,
    confidence_level=_NUMBER,
    calibration_rows={"type": "object", "additionalProperties": _COUNT},
    promoted_at=_MOMENT,
    gate={"type": ["object", "null"], "description": "null: it has passed none, and only runs in shadow."},
    where={"enum": ["loop", "pool", "runner"], "description": "Where its arithmetic runs now."},
    unavailable={"type": ["string", "null"], "description": "Why it is not asked at all."},
    circuit=_CIRCUIT,
)
_ROLLOUT = object_schema(
    generation=_COUNT,
    mode={"enum": list(get_args(Mode))},
    weight=_NUMBER,
    pinned={"type": ["string", "null"], "description": "Tag that SURETY_MODEL names."},
    rollbacks={
        "type": "object",
        "additionalProperties": _COUNT,
        "description": "Canaries that were taken back, by the guard that tripped.",
    },
    changed_at=_MOMENT,
    changed_by={"type": ["string", "null"]},
    why={"type": ["string", "null"]},
)
_WORKERS = object_schema(
    expected={"type": "object", "additionalProperties": _COUNT},
    alive={"type": "object", "additionalProperties": _COUNT},
    missing_s={**_NUMBER, "description": "Seconds for which a process has been missing."},
    processes={
        "type": "array",
        "items": object_schema(
            role={"enum": ["api", "runner"]},
            index=_COUNT,
            pid=_COUNT,
            alive={"type": "boolean"},
            generation=_COUNT,
            problem={"type": ["string", "null"]},
            circuits={"type": "object", "additionalProperties": _TEXT},
            shadow={"type": "object"},
            log={"type": ["object", "null"], "description": "What became of answers in the prediction log."},
            rejected=_COUNT,
            abandoned=_COUNT,
            stuck=_COUNT,
        ),
    },
)
_HOME = object_schema(
    name=_TEXT,
    machine={**_TEXT, "description": "The machine that tells this."},
    silence_s={
        "type": ["number", "null"],
        "description": "Seconds for which it has not reached the home's database; null: never since its start.",
    },
    machines={
        "type": "array",
        "description": "Every machine of the home, by the last reports of its processes.",
        "items": object_schema(
            machine=_TEXT,
            alive={**_COUNT, "description": "Processes that report."},
            age_s={**_NUMBER, "description": "Seconds since the last report."},
            generation=_COUNT,
            canary_held={"type": "boolean"},
            unstored={**_COUNT, "description": "Answers that were given and are in no log yet."},
            problem={"type": ["string", "null"]},
        ),
    },
)
_STATUS = object_schema(
    ready={"type": "boolean"},
    health={"enum": list(HEALTH_STATES)},
    problem={"type": ["string", "null"], "description": "Why the rollout is not obeyed, or no model answers."},
    models={"type": "array", "items": _MODEL},
    rollout={"anyOf": [_ROLLOUT, {"type": "null"}]},
    flags={"type": "object", "properties": Flags.model_json_schema()["properties"]},
    workers=_WORKERS,
    home=_HOME,
    monitor={"type": ["object", "null"], "description": "What the monitor has published; null: it never has."},
    access=object_schema(
        guarded={"type": "boolean", "description": "Whether callers need keys."},
        keys=_COUNT,
        problem={"type": ["string", "null"], "description": "Why a changed file of keys is not obeyed."},
    ),
)


def answer_schema(classes: tuple[int | str, ...]) -> Schema:
    """JSON schema of one envelope, for a model with these labels."""
    label: Schema = {"enum": list(classes)}
    names = [str(c) for c in classes]

    def by_label(value: Schema) -> Schema:
        return {"type": "object", "properties": dict.fromkeys(names, value), "required": names}

    properties: Schema = {
        "request_id": _UUID,
        "prediction": {**label, "description": "The label with the largest p-value."},
        "probability": {"type": ["number", "null"], "description": "P(label 1) of a binary model."},
        "confidence": {**_NUMBER, "description": "Probability of the predicted label."},
        "probabilities": {
            **by_label({"type": "number", "minimum": 0, "maximum": 1}),
            "description": "Probability of every label, by its text.",
        },
        "prediction_set": {
            "type": "array",
            "items": label,
            "uniqueItems": True,
            "description": "One label: act on it. Several: refer. None: unlike all that was calibrated on, refer.",
        },
        "p_values": {
            **by_label({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
            "description": "Conformal p-value of every label, by its text.",
        },
        "confidence_level": _NUMBER,
        "guarantee": {"enum": ["class_conditional", "marginal", "class_and_group", "weighted"]},
        "validity": {
            "enum": list(get_args(Validity)),
            "description": "suspect while an alarm is on for the model; unverified while none is, but missing outcomes "
            "leave its coverage open; unmonitored while no monitor watches it.",
        },
        "validity_reasons": {"type": "array", "items": _TEXT},
        "fallback_used": {"type": "boolean"},
        "fallback_reason": {"enum": list(REASONS), "description": "Why it is not the model's own answer."},
        "error": {"type": "null"},
        "lineage": LINEAGE,
        "client_request_id": {"type": ["string", "null"]},
        "group": {
            "type": ["string", "null"],
            "description": "The group of rows in which the coverage is promised; null for a model without groups.",
        },
        "explanation": {
            "anyOf": [_explanation(label), {"type": "null"}],
            "description": "What each raw column added to the number that decides the set. null: it was not asked for.",
        },
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _explanation(label: Schema) -> Schema:
    def or_null(schema: Schema) -> Schema:
        return {"anyOf": [schema, {"type": "null"}]}

    contribution = object_schema(
        columns={"type": "array", "items": _TEXT, "minItems": 1},
        contribution={**_NUMBER, "description": "In the scale of the margin."},
        effect={"enum": list(EFFECTS), "description": "Its sign in a word. It says nothing of causes."},
    )
    return object_schema(
        label={**or_null(label), "description": "Whose margin it is: the second of two labels, else the predicted."},
        method={"enum": [*METHODS, None]},
        scale={"enum": [*SCALES, None], "description": "What margin and contributions are measured in."},
        base_value={"type": ["number", "null"], "description": "The mean margin over the training rows."},
        margin={"type": ["number", "null"], "description": "The base value and all contributions together."},
        contributions={"type": "array", "items": contribution, "description": "The largest first."},
        per={"enum": ["raw_column", "feature", None]},
        reason={"type": ["string", "null"], "description": "Why there is no explanation."},
    )


_DESCRIPTION = (
    "Prediction sets with a stated coverage per class, and the lineage of every answer. Every route that has GET has "
    "HEAD. Bodies may be packed with gzip (`Content-Encoding: gzip`); limits hold for what is unpacked. Before any "
    "route sees it, a request can be refused with 400 (`invalid_http`), 408 (`head_timeout`) or 431 (`head_too_large`)."
)


def openapi_document(
    record: Schema,
    example: Mapping[str, Any],
    classes: tuple[int | str, ...],
    max_rows: int,
    version: str,
    *,
    keyed: bool = False,
    server: str = "/",
    model: tuple[str, str] = ("model", "1"),
) -> Schema:
    """The whole document.

    Parameters
    ----------
    record : JSON schema of one record (``RecordReader.json_schema()``)
    example : one valid record
    classes : the model's labels
    max_rows : most records in a JSON batch
    version : shown as the version of the API
    keyed : whether callers need keys
    server : path of the service on its host, such as ``/surety`` behind a proxy
    model : name and version of what is served
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
            "required": [field.name for field in PREDICT_FIELDS if field.is_required],
            "properties": {field.name: field.schema for field in PREDICT_FIELDS},
        },
        "BatchRequest": {
            "type": "object",
            "additionalProperties": False,
            "required": ["records"],
            "properties": {
                "records": {"type": "array", "minItems": 1, "maxItems": max_rows, "items": reference("Record")},
                "on_error": {
                    "enum": ["row", "reject"],
                    "default": "row",
                    "description": "A bad record fails alone (row) or refuses the whole batch (reject).",
                },
                "confidence_level": LEVEL_SCHEMA,
                "explain": EXPLAIN_SCHEMA,
            },
        },
        "BatchResponse": {
            "type": "object",
            "required": ["batch_id", "predictions"],
            "properties": {
                "batch_id": _UUID,
                "predictions": {"type": "array", "items": {"anyOf": [reference("Answer"), reference("RowError")]}},
            },
        },
        "LabelsRequest": {
            "type": "object",
            "additionalProperties": False,
            "required": ["labels"],
            "properties": {
                "labels": {"type": "array", "minItems": 1, "maxItems": max_rows, "items": _label_schema(classes)}
            },
        },
        "LabelCounts": _with_not_stored(
            accepted={**_COUNT, "description": "New labels of known answers."},
            duplicate={**_COUNT, "description": "The same label as before; nothing changes."},
            conflict={**_COUNT, "description": "Another label than before: the later one holds, both are kept."},
            unknown={**_COUNT, "description": "No answer of that id is known here; kept in case it turns up."},
        ),
        "Health": object_schema(status={"enum": list(HEALTH_STATES)}),
        "Status": _STATUS,
        **protocol_schemas(list(record.get("properties", {})), classes, max_rows, *model),
    }
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Surety",
            "version": version,
            "description": _DESCRIPTION,
        },
        "servers": [{"url": server}],
        "paths": _paths(example) | protocol_paths(*model, example),
        "components": {"schemas": schemas},
    }
    return _keyed(document) if keyed else document


def _keyed(document: Schema) -> Schema:
    """The document of a service whose callers need keys: which, where, and what they are told without."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        if path in OPEN_TO_ALL:
            continue
        for operation in methods.values():
            role = ROLE_OF_ROUTE[path]
            operation["security"] = [{"key": []}]
            operation["description"] = f"Asks for a key with the role {role}."
            schema = "ProtocolError" if is_of_protocol(path) else "Error"
            operation["responses"].update(error_responses(401, 403, 429, schema=schema))
    return document


def _label_schema(classes: tuple[int | str, ...]) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["request_id", "label"],
        "properties": {
            "request_id": {**_UUID, "description": "Of the answer it belongs to."},
            "label": {"enum": list(classes)},
            "observed_at": {
                "type": ["string", "null"],
                "pattern": f"^{OBSERVED_AT_PATTERN}$",
                "description": "When it was known, with its time zone, since 1970; when it is received, if left out.",
            },
        },
    }


def _paths(example: Mapping[str, Any]) -> Schema:
    json_type, arrow_type = JSON.decode(), ARROW.decode()
    predict_body = {"schema": reference("PredictRequest"), "example": {"features": example}}
    batch_body = {
        json_type: {"schema": reference("BatchRequest"), "example": {"records": [example]}},
        arrow_type: {"schema": {"type": "string", "format": "binary"}},
    }
    batch_reply = {
        json_type: {"schema": reference("BatchResponse")},
        arrow_type: {"schema": {"type": "string", "format": "binary"}},
    }
    return {
        "/predict": {
            "post": {
                "summary": "Answer one record",
                "tags": ["answers"],
                "operationId": "predict",
                "requestBody": {"required": True, "content": {json_type: predict_body}},
                "responses": _responses("Answer", *_ERRORS),
            }
        },
        "/predict_batch": {
            "post": {
                "summary": "Answer many records, as JSON or as an Arrow IPC stream",
                "tags": ["answers"],
                "operationId": "predict_batch",
                "parameters": [
                    _query("confidence_level", {**LEVEL_SCHEMA, "type": "number"}),
                    _query("on_error", {"enum": ["row", "reject"], "default": "row"}),
                ],
                "requestBody": {"required": True, "content": batch_body},
                "responses": {
                    **_responses("BatchResponse", *_ERRORS),
                    "200": {"description": "Answers in the order of the records", "content": batch_reply},
                },
            }
        },
        "/labels": {
            "post": {
                "summary": "Say what turned out to be true",
                "tags": ["labels"],
                "operationId": "labels",
                "requestBody": {"required": True, "content": {json_type: {"schema": reference("LabelsRequest")}}},
                "responses": _responses("LabelCounts", *_LABEL_ERRORS),
            }
        },
        "/health": {"get": _look("Can it answer, and as it should", "health", _responses("Health", 503))},
        "/status": {"get": _look("What serves, or why nothing does", "status", _responses("Status"))},
        **{path: {"get": _look(text, path[1:], _plain(*errors))} for path, text, errors in _BENTOML_ROUTES},
    }


_ERRORS = (400, 408, 413, 415, 422, 429, 500, 503, 504)
_LABEL_ERRORS = (400, 408, 413, 415, 422, 429, 500, 503)
_BENTOML_ROUTES = (
    ("/livez", "Are all processes there, or on their way back", (503,)),
    ("/healthz", "The same, under its older name", (503,)),
    ("/readyz", "Can it take traffic", (503,)),
    ("/metrics", "Prometheus metrics", ()),
)


def _look(summary: str, name: str, responses: Schema) -> Schema:
    return {"summary": summary, "tags": ["operation"], "operationId": name, "responses": responses}


def _plain(*errors: int) -> Schema:
    content = {"text/plain": {"schema": _TEXT}}
    return {str(status): {"description": "As the status says", "content": content} for status in (200, *errors)}


def _responses(schema: str, *errors: int) -> Schema:
    found: Schema = {"200": {"description": "Done", "content": {JSON.decode(): {"schema": reference(schema)}}}}
    return {**found, **error_responses(*errors, schema="Health" if schema == "Health" else "Error")}


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": _OPTIONS}


_OPTIONS = "For Arrow streams. A JSON batch says it in its body, which comes first."
