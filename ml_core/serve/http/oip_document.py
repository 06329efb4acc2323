"""The Open Inference Protocol in the OpenAPI document: its routes, and the bodies that go in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_core.base.arrays import Label
from ml_core.serve.answering.request_fields import ID_PATTERN, LEVEL_SCHEMA
from ml_core.serve.http import oip_paths
from ml_core.serve.http.oip_replies import ROW_FACTS, output_tensors
from ml_core.serve.http.oip_requests import CONTENT_TYPES
from ml_core.serve.http.oip_tensors import DATATYPES
from ml_core.serve.http.openapi_parts import Schema, error_responses, object_schema, reference
from ml_core.serve.http.replies import JSON

__all__ = ["protocol_paths", "protocol_schemas"]

_TEXT: Schema = {"type": "string"}
_DATATYPE: Schema = {"enum": list(DATATYPES)}
_SHAPE: Schema = {"type": "array", "items": {"type": "integer"}}
_KIND: Schema = {"enum": [*CONTENT_TYPES, None], "description": "MLServer's; it changes nothing here."}
_DATA: Schema = {"type": "array", "items": {}, "description": "Values row by row; null where missing."}


def _closed(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def _as_in_path(name: str) -> Schema:
    return {"enum": [name, None], "description": "As in the path, if at all."}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def protocol_schemas(
    columns: list[str], classes: Sequence[Label], max_rows: int, model: str, version: str
) -> dict[str, Schema]:
    """The bodies, by name.

    Parameters
    ----------
    columns : names of the inputs
    classes : the model's labels
    max_rows : most rows of a request
    model, version : what is served
    """
    name: Schema = {"enum": columns, "description": "A column."} if columns else _TEXT
    rows = {"type": "integer", "minimum": 1, "maximum": max_rows}
    level = {"anyOf": [LEVEL_SCHEMA, {"type": "string", "pattern": r"^0\.[5-9][0-9]{0,2}$"}]}
    binary = {"type": ["boolean", "null"]}
    one_input = _closed(
        {
            "name": name,
            "shape": {"type": "array", "items": rows, "minItems": 1, "maxItems": 2, "description": "[n] or [n, 1]."},
            "datatype": _DATATYPE,
            "parameters": _or_null(
                _closed(
                    {"binary_data_size": {"type": ["integer", "null"], "minimum": 0}, "content_type": _KIND},
                )
            ),
            "data": {**_DATA, "description": "n values; null where missing. Left out where bytes follow the JSON."},
        },
        "name",
        "shape",
        "datatype",
    )
    one_output = _closed(
        {
            "name": {"enum": [*(one.name for one in output_tensors(classes)), *ROW_FACTS]},
            "parameters": _or_null(_closed({"binary_data": binary, "content_type": _KIND})),
        },
        "name",
    )
    tensor = _closed(
        {"name": _TEXT, "datatype": _DATATYPE, "shape": _SHAPE, "parameters": {"type": "object"}, "data": _DATA},
        "name",
        "datatype",
        "shape",
    )
    described = object_schema(name=_TEXT, datatype=_DATATYPE, shape=_SHAPE)
    return {
        "InferenceRequest": _closed(
            {
                "id": {"type": ["string", "null"], "pattern": f"^{ID_PATTERN}$", "description": "Comes back."},
                "parameters": _or_null(
                    _closed({"confidence_level": level, "binary_data_output": binary, "content_type": _KIND})
                ),
                "inputs": {"type": "array", "minItems": 1, "items": one_input, "description": "One for each column."},
                "outputs": {
                    "type": ["array", "null"],
                    "items": one_output,
                    "description": "What is wanted; all of the model's metadata if left out.",
                },
                "model_name": _as_in_path(model),
                "model_version": _as_in_path(version),
            },
            "inputs",
        ),
        "InferenceResponse": _object_with(
            object_schema(model_name=_TEXT, model_version=_TEXT, id=_TEXT, outputs={"type": "array", "items": tensor}),
            parameters={"type": "object", "description": "What all rows share: lineage, level, guarantee."},
        ),
        "ServerMetadata": object_schema(name=_TEXT, version=_TEXT, extensions={"type": "array", "items": _TEXT}),
        "ModelMetadata": object_schema(
            name=_TEXT,
            versions={"type": "array", "items": _TEXT},
            platform=_TEXT,
            inputs={"type": "array", "items": described},
            outputs={"type": "array", "items": described},
            properties={"type": "object", "additionalProperties": _TEXT},
        ),
        "ServerLive": object_schema(live={"type": "boolean"}),
        "ServerReady": object_schema(ready={"type": "boolean"}),
        "ModelReady": object_schema(name=_TEXT, ready={"type": "boolean"}),
        "ProtocolError": object_schema(error={**_TEXT, "description": "What was found, and what was expected."}),
    }


def _object_with(schema: Schema, **more: Schema) -> Schema:
    return {**schema, "properties": {**schema["properties"], **more}}


def protocol_paths(model: str, version: str, example: Mapping[str, Any]) -> Schema:
    """The routes, for a service of that model.

    Parameters
    ----------
    example : one valid record
    """
    paths: Schema = {
        oip_paths.SERVER: _get("What this is, in the Open Inference Protocol", "ServerMetadata", "v2"),
        oip_paths.LIVE: _get("Are all processes there, or on their way back", "ServerLive", "v2_live", 503),
        oip_paths.READY: _get("Can it take traffic", "ServerReady", "v2_ready", 503),
    }
    for versioned in (False, True):
        named = [_named("model", model, "The model's name.")]
        if versioned:
            named.append(_named("version", version, "A version that answers now, as lineage names it."))
        end = "_of_version" if versioned else ""
        metadata = _get("The model's inputs and outputs", "ModelMetadata", f"v2_model{end}")
        metadata["get"]["responses"] |= error_responses(404, 503, schema="ProtocolError")
        ready = _get("Does the model answer", "ModelReady", f"v2_model_ready{end}", 503)
        ready["get"]["responses"] |= error_responses(404, schema="ProtocolError")
        operations = {"": metadata, "/ready": ready, "/infer": _infer(example, f"v2_infer{end}")}
        for last, methods in operations.items():
            route = oip_paths.MODEL + last
            paths[oip_paths.with_version(route) if versioned else route] = {
                method: {**told, "parameters": named} for method, told in methods.items()
            }
    return paths


def _named(name: str, value: str, told: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"enum": [value]}, "description": told}


def _get(summary: str, schema: str, name: str, *errors: int) -> Schema:
    body = {"content": {JSON.decode(): {"schema": reference(schema)}}}
    responses = {str(status): {"description": "As the status says", **body} for status in (200, *errors)}
    return {"get": {"summary": summary, "tags": ["open inference"], "operationId": name, "responses": responses}}


_ERRORS = (400, 404, 408, 413, 415, 429, 500, 503, 504)


def _infer(example: Mapping[str, Any], name: str) -> Schema:
    inputs = [
        {"name": column, "shape": [1], "datatype": _datatype_of(value), "data": [value]}
        for column, value in example.items()
    ]
    body = {"schema": reference("InferenceRequest"), "example": {"inputs": inputs}}
    octets = {"schema": {"type": "string", "format": "binary"}}
    content = {JSON.decode(): {"schema": reference("InferenceResponse")}, "application/octet-stream": octets}
    done = {
        "description": "Answers in the order of the rows; bytes follow the JSON where asked for",
        "content": content,
    }
    return {
        "post": {
            "summary": "Answer rows, one input for each column, in JSON or with binary tensors behind it",
            "tags": ["open inference"],
            "operationId": name,
            "requestBody": {"required": True, "content": {JSON.decode(): body}},
            "responses": {"200": done, **error_responses(*_ERRORS, schema="ProtocolError")},
        }
    }


def _datatype_of(value: object) -> str:
    """The datatype of a JSON value of an example."""
    if isinstance(value, bool):
        return "BOOL"
    return "FP64" if isinstance(value, int | float) or value is None else "BYTES"
