"""Every route, status, field and error code of the OpenAPI document is on the page of HTTP."""

from __future__ import annotations

import re

import pytest

from ml_core.serve.http.replies import STATUS_OF_CODE
from scripts.docs.markdown import anchor
from scripts.docs.routes import _fields, _type, document, render

PAGE = render()
DOCUMENT = document()
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


def section(heading: str) -> str:
    return PAGE.partition(f"\n{heading}\n")[2].partition("\n##")[0]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_route_tells_its_statuses(path: str, method: str) -> None:
    told = section(f"### {method.upper()} {path}")
    statuses = re.findall(r"^\| (\d{3}) \|", told, re.MULTILINE)
    assert statuses == sorted(DOCUMENT["paths"][path][method]["responses"])


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_every_body_tells_its_fields(name: str) -> None:
    told = section(f"### {name}")
    for field in DOCUMENT["components"]["schemas"][name].get("properties", {}):
        assert f"| `{field}` |" in told


@pytest.mark.parametrize("code", STATUS_OF_CODE)
def test_every_error_code_stands_beside_its_status(code: str) -> None:
    assert f"| {STATUS_OF_CODE[code]} | `{code}` |" in section("## Errors")


def test_links_within_the_page_lead_to_headings() -> None:
    headings = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= headings


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "number", "minimum": 0.5, "maximum": 0.999}, "number, 0.5 to 0.999"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number, above 0 to 1"),
        ({"type": "integer", "minimum": 0}, "integer, 0 or more"),
        ({"type": "string", "minLength": 1, "maxLength": 200}, "string, 1 to 200 characters"),
        ({"type": ["string", "null"], "format": "date-time"}, "string or null, date-time"),
        ({"type": "array", "minItems": 1, "maxItems": 1000, "items": {"$ref": "#/components/schemas/Record"}},
         "list of [Record](#record), 1 to 1,000"),
        ({"enum": ["row", "reject"]}, '`"row"`, `"reject"`'),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "number or null"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "object, each name with string"),
        ({"type": "string", "format": "binary"}, "bytes"),
        ({"type": "string", "pattern": "^[a-z]+$"}, "string, `^[a-z]+$`"),
        ({"type": "string", "pattern": "a" * 61}, "string, of the form that its pattern in `/docs.json` says"),
    ],
)  # fmt: skip
def test_type_is_told_in_words(schema: dict[str, object], words: str) -> None:
    assert _type(schema) == words


def test_fields_of_objects_within_have_dotted_names() -> None:
    inner = {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}
    schema = {"type": "object", "properties": {"a": inner, "c": {"type": "array", "items": inner}}, "required": ["a"]}
    assert [(name, required) for name, _, required, _ in _fields(schema)] == [
        ("`a`", "yes"), ("`a.b`", "yes"), ("`c`", ""), ("`c[].b`", "yes"),
    ]  # fmt: skip
