"""docs/reference/http.md: routes, bodies and errors, from the OpenAPI document of the example's model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_core.base import errors
from ml_core.base.settings import Settings
from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.http.handlers import API_VERSION
from ml_core.serve.http.openapi import openapi_document
from ml_core.serve.http.openapi_parts import Schema
from ml_core.serve.http.replies import MESSAGE_OF_CODE, RETRY_AFTER_S, STATUS_OF_CODE
from scripts.docs.markdown import anchor, cell, code, prose, table

__all__ = ["document", "render"]

_HEAD = """# HTTP reference

Made from the service's OpenAPI document by `make docs`; do not edit. How the routes are used is told in
[HTTP](../http.md).

The fields of a record, and the labels, are those of the example's model (feature version v1). A running service gives
the document of the model that it serves at `GET /docs.json`, and shows it at `GET /`. Roles count where
`SURETY_API_KEYS_FILE` is set; without it no key is asked for. Pages and schemas (`/`, `/docs.json`, `/schema.json`) ask
for any key that is valid.
"""

_EXAMPLE = {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148}
_REFERENCE = "#/components/schemas/"


def document() -> Schema:
    """The OpenAPI document of the example's model, with everything on."""
    record = RecordReader(get_feature_version("v1").columns).json_schema()
    rows = int(Settings.model_fields["max_batch_rows"].default)
    model = (str(Settings.model_fields["model_name"].default), "1")
    return openapi_document(record, _EXAMPLE, (0, 1), rows, API_VERSION, keyed=True, model=model)


def render() -> str:
    """The whole page."""
    found = document()
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    ]
    overview = [(f"[`{name}`](#{anchor(name)})", cell(told["summary"]), _key(told)) for name, told in operations]
    parts = [_HEAD, "## Routes\n", table(("route", "does", "key"), overview)]
    parts += [part for name, operation in operations for part in _route(name, operation)]
    parts.append("## Bodies\n")
    parts += [part for name, schema in found["components"]["schemas"].items() for part in _body(name, schema)]
    return "\n".join((*parts, "## Errors\n", _errors()))


def _key(operation: Mapping[str, Any]) -> str:
    return cell(operation.get("description", "")) if operation.get("security") else "None."


def _route(name: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"{operation['summary']}. {_key(operation) if operation.get('security') else 'Asks for no key.'}\n"
    for place, told in (("path", "in the path"), ("query", "in the query string")):
        given = [p for p in operation.get("parameters", []) if p["in"] == place]
        if given:
            fields = [_field(p["name"], p["schema"], required=p["required"], told=p["description"]) for p in given]
            yield table((told, "type", "required", "meaning"), fields)
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        yield table(("sends", "body"), [(code(kind), _type(body["schema"])) for kind, body in content.items()])
    for body in content.values():
        if "example" in body:
            yield f"```json\n{json.dumps(body['example'])}\n```\n"
    yield table(("status", "body", "meaning"), [_reply(*item) for item in sorted(operation["responses"].items())])


def _reply(status: str, reply: Mapping[str, Any]) -> tuple[str, str, str]:
    bodies = dict.fromkeys(_type(body["schema"]) for body in reply.get("content", {}).values())
    return status, " or ".join(bodies), cell(reply["description"])


def _body(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name}\n"
    if schema.get("additionalProperties") is False:
        yield "Other fields are refused.\n"
    yield table(("field", "type", "required", "meaning"), list(_fields(schema)))


def _fields(schema: Schema, above: str = "") -> Iterator[tuple[str, str, str, str]]:
    """The fields of an object, and those of objects in it under a dotted name; ``[]`` stands for each of a list."""
    required = schema.get("required", ())
    for name, inner in schema.get("properties", {}).items():
        path = f"{above}{name}"
        yield _field(path, inner, required=name in required)
        yield from _inner(path, inner)


def _inner(path: str, schema: Schema) -> Iterator[tuple[str, str, str, str]]:
    for choice in schema.get("anyOf", [schema]):
        if "properties" in choice:
            yield from _fields(choice, f"{path}.")
        elif "properties" in choice.get("items", {}):
            yield from _fields(choice["items"], f"{path}[].")


def _field(name: str, schema: Schema, *, required: bool = False, told: str = "") -> tuple[str, str, str, str]:
    said = " ".join(part for part in (schema.get("description", ""), told) if part)
    default = schema.get("default")
    said += f" Default: `{json.dumps(default)}`." if default is not None else ""
    return code(name), _type(schema), "yes" if required else "", cell(said.strip())


def _type(schema: Schema) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REFERENCE)
        return f"[{name}](#{anchor(name)})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if schema.get("enum") == sorted(STATUS_OF_CODE):
        return "one of the [codes](#errors)"
    if "enum" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema["enum"])
    kinds = schema.get("type", "any")
    words = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if words.startswith("array"):
        return f"list of {_type(schema.get('items', {}))}{_span(schema, 'minItems', 'maxItems')}"
    if "additionalProperties" in schema and "properties" not in schema:
        return f"{words}, each name with {_type(schema['additionalProperties'])}"
    if schema.get("format") == "binary":
        return "bytes"
    shape = schema.get("format") or _pattern(schema.get("pattern", ""))
    length = _span(schema, "minLength", "maxLength", " characters")
    return words + _span(schema, "minimum", "maximum") + length + (f", {shape}" if shape else "")


def _pattern(pattern: str) -> str:
    return code(pattern) if len(pattern) <= _LONGEST_PATTERN else "of the form that its pattern in `/docs.json` says"


_LONGEST_PATTERN = 60  # that of a date has three hundred characters, and tells a reader nothing


def _span(schema: Schema, low: str, high: str, of: str = "") -> str:
    least, above, most = schema.get(low), schema.get("exclusiveMinimum"), schema.get(high)
    words = f"above {above:g}" if above is not None and low == "minimum" else "" if least is None else f"{least:g}"
    words += (" or more" if least is not None else "") if most is None else f" to {most:,.16g}"
    return f", {words}{of}" if words else ""


_OWN_WORDS = "what is wrong with this request"


def _errors() -> str:
    when = {
        error.code: prose(error.__doc__ or "").removeprefix("Raised ").rstrip(".")
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.SuretyError) and error.code != "internal"
    }
    rows = [
        (
            str(status),
            code(name),
            cell(MESSAGE_OF_CODE.get(name, "what is wrong with this request")),
            when.get(name, ""),
        )
        for name, status in STATUS_OF_CODE.items()
    ]
    told = (
        'Every error is one object, `{"error": {"code", "message", "fields"}}`. Replies with 429 and 503 carry '
        f"`Retry-After`, {RETRY_AFTER_S} s where nothing better is known.\n"
    )
    return f"{told}\n{table(('status', 'code', 'message', 'raised'), rows)}"
