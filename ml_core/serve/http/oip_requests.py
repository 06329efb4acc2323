"""What callers of the Open Inference Protocol ask: one input per column in, the records of a batch out.

Stricter than the protocol's other servers on purpose: what is short, too long, unknown, doubled or of another kind is
refused with both sides named, since a row that is filled in or shifted gets an answer that looks like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_core.base.errors import FieldProblem, InvalidRequest
from ml_core.features.columns import Column
from ml_core.serve.answering.requests import BatchRequest, level_of_text, parse_json, read_id
from ml_core.serve.features.column_rules import OPTIONAL_ROLES, fault_of, integer_levels, shown, shown_name
from ml_core.serve.http.oip_tensors import DATATYPES, DataType, TensorValue, read_bytes, read_json, wrong
from ml_core.serve.model.prediction_sets import level_from_json

__all__ = [
    "CONTENT_TYPES",
    "REQUEST_PARAMETERS",
    "InferenceRequest",
    "column_datatype",
    "parse_inference",
    "required_columns",
]

CONTENT_TYPES = ("np", "pd", "str", "datetime")
"""Values of MLServer's parameter ``content_type`` that change nothing here: a column is read as the table says."""

REQUEST_PARAMETERS = ("confidence_level", "binary_data_output", "content_type")
_REQUEST_FIELDS = frozenset({"id", "parameters", "inputs", "outputs", "model_name", "model_version"})
_INPUT_FIELDS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_FIELDS = frozenset({"name", "parameters"})
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A request, read.

    Attributes
    ----------
    batch : its records, as ``/predict_batch`` has them
    id : the caller's name for it, or None
    outputs : the outputs that are wanted, each with whether as bytes (None: as ``binary``); None: the usual ones
    binary : whether outputs go out as bytes that say nothing themselves
    model, version : which the body names beside the path, as KServe's client does; None where it does not
    """

    batch: BatchRequest
    id: str | None
    outputs: dict[str, bool | None] | None
    binary: bool
    model: str | None = None
    version: str | None = None


def column_datatype(column: Column) -> DataType:
    """The datatype of a column as the model's metadata tells it."""
    if column.dtype == "int" or integer_levels(column):
        return DATATYPES["INT64"]
    return DATATYPES[{"float": "FP64", "bool": "BOOL"}.get(column.dtype, "BYTES")]


def required_columns(columns: Sequence[Column]) -> list[Column]:
    """The columns that a request must have as inputs: the features, missing values sent as such."""
    return [column for column in columns if column.role == "feature"]


def parse_inference(
    body: bytes, head_length: int | None, columns: Sequence[Column], beside: Sequence[Column], max_rows: int
) -> InferenceRequest:
    """The request in a body.

    Parameters
    ----------
    head_length : bytes of the JSON at its beginning, which those of binary tensors follow; None: it is JSON alone
    columns, beside : the model's column table, and the columns beside it that tell groups
    max_rows : most rows

    Raises
    ------
    NotJson
        The body, or its head, is no JSON.
    InvalidRequest
        Anything else about it is wrong.
    """
    if head_length is not None and head_length > len(body):
        problem = f"says {head_length} bytes of JSON, and the body has {len(body)}"
        raise wrong("Inference-Header-Content-Length", problem)
    head = body if head_length is None else body[:head_length]
    _refuse_nesting(head, len(columns) + len(beside), max_rows)
    given = _object("body", parse_json(head), _REQUEST_FIELDS)
    parameters = _parameters("parameters", given.get("parameters"), REQUEST_PARAMETERS)
    rest = memoryview(body)[len(head) :]
    records = _records(given.get("inputs"), rest, head_length is not None, columns, beside, max_rows)
    identity = given.get("id")
    return InferenceRequest(
        batch=BatchRequest(records, "reject", _level(parameters.get("confidence_level"))),
        id=None if identity is None else read_id("id", identity),
        outputs=_outputs(given.get("outputs")),
        binary=_flag("parameters.binary_data_output", parameters.get("binary_data_output")) or False,
        model=_text("model_name", given.get("model_name")),
        version=_text("model_version", given.get("model_version")),
    )


def _refuse_nesting(head: bytes, n_columns: int, max_rows: int) -> None:
    """Refuse a head with far more lists and objects than its inputs can have, before it is parsed."""
    if head.count(b"[") + head.count(b"{") > 100 + n_columns * (max_rows + _BRACKETS_OF_AN_INPUT):
        raise wrong("inputs", f"has more lists in it than {n_columns} columns of {max_rows} rows can have")


_BRACKETS_OF_AN_INPUT = 8  # the input, its shape, its parameters, its data; its name may have some as well


def _object(name: str, value: object, allowed: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise wrong(name, f"must be a JSON object, not {shown(value)}")
    unknown = sorted(value.keys() - allowed)
    if unknown:
        known = ", ".join(sorted(allowed))
        raise InvalidRequest(
            [FieldProblem(f"{name}.{shown_name(one)}", f"is not known here; known: {known}") for one in unknown[:5]]
        )
    return value


def _parameters(name: str, value: object, allowed: Sequence[str]) -> Mapping[str, Any]:
    """Parameters, ``content_type`` checked. An unknown one is refused: it may be a wish that would go unheard."""
    if value is None:
        return {}
    found = _object(name, value, frozenset(allowed))
    kind = found.get("content_type")
    if kind is not None and kind not in CONTENT_TYPES:
        raise wrong(f"{name}.content_type", f"must be one of {', '.join(CONTENT_TYPES)}")
    return found


def _flag(name: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise wrong(name, f"must be true or false, not {shown(value)}")


def _text(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise wrong(name, f"must be text, not {shown(value)}")


def _level(value: object) -> Any:
    """The confidence level, as a number or as a text of one: gRPC has parameters of text only."""
    if value is None:
        return None
    return level_of_text(value) if isinstance(value, str) else level_from_json(value)


def _outputs(value: object) -> dict[str, bool | None] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise wrong("outputs", f"must be a list of objects, not {shown(value)}")
    found: dict[str, bool | None] = {}
    for at, item in enumerate(value):
        wanted = _object(f"outputs[{at}]", item, _OUTPUT_FIELDS)
        name = wanted.get("name")
        if not isinstance(name, str):
            raise wrong(f"outputs[{at}].name", "must be text")
        if name in found:
            raise wrong(shown_name(name), "is asked for twice in outputs")
        parameters = _parameters(f"outputs[{at}].parameters", wanted.get("parameters"), ("binary_data", "content_type"))
        found[name] = _flag(f"outputs[{at}].parameters.binary_data", parameters.get("binary_data"))
    return found


# --- inputs -------------------------------------------------------------------------------------------------------


def _records(
    inputs: object,
    rest: memoryview,
    has_head: bool,  # noqa: FBT001
    columns: Sequence[Column],
    beside: Sequence[Column],
    max_rows: int,
) -> list[object]:
    """The rows as objects of named values, which the one reader of records judges."""
    required = required_columns(columns)
    accepted = {c.name: c for c in (*required, *beside, *(c for c in columns if c.role in OPTIONAL_ROLES))}
    if not isinstance(inputs, list) or not inputs:
        raise wrong("inputs", f"must be a list of inputs, one for each of {_named([c.name for c in required])}")
    cells: dict[str, list[TensorValue]] = {}
    n_rows, first, used = 0, "", 0
    for at, item in enumerate(inputs):
        given = _object(f"inputs[{at}]", item, _INPUT_FIELDS)
        column = _column(at, given.get("name"), accepted, cells)
        datatype, shape = _datatype(column, given.get("datatype")), _shape(column.name, given.get("shape"), max_rows)
        if cells and shape[0] != n_rows:
            problem = f"shape {list(shape)} has {shape[0]} rows, and {first} has {n_rows}: send a value for every row"
            raise wrong(column.name, problem)
        values, size = _values(column, datatype, shape, given, rest[used:], has_head)
        cells[column.name], used = values, used + size
        n_rows, first = shape[0], first or column.name
    if used != len(rest):
        raise wrong("inputs", f"name {used} bytes of binary data, and {len(rest)} follow the JSON")
    _refuse_gaps(required, cells)
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def _column(at: int, name: object, accepted: Mapping[str, Column], cells: Mapping[str, Any]) -> Column:
    if not isinstance(name, str):
        raise wrong(f"inputs[{at}].name", "must be the name of a column")
    if name not in accepted:
        raise wrong(shown_name(name), f"is no column of this model, which has {_named(list(accepted))}")
    if name in cells:
        raise wrong(name, "is there twice")
    return accepted[name]


def _refuse_gaps(required: Sequence[Column], cells: Mapping[str, Any]) -> None:
    gaps = [column.name for column in required if column.name not in cells]
    if gaps:
        raise wrong(
            "inputs",
            f"lack {_named(gaps)}; {_named(list(cells))} came. A column without values is sent with null in every row",
        )


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


_KINDS = {"int": ("int", "float"), "float": ("int", "float"), "bool": ("bool",)}


def _datatype(column: Column, name: object) -> DataType:
    datatype = DATATYPES.get(name) if isinstance(name, str) else None
    if datatype is None:
        raise wrong(column.name, f"datatype must be one of {', '.join(DATATYPES)}, and is {_quoted(name)}")
    kinds = ("int", "float") if integer_levels(column) else _KINDS.get(column.dtype, ("text",))
    if datatype.kind not in kinds:
        taken = ", ".join(one.name for one in DATATYPES.values() if one.kind in kinds)
        raise wrong(column.name, f"takes the datatypes {taken}, and came as {datatype.name}")
    return datatype


def _quoted(name: object) -> str:
    return shown(name) if not isinstance(name, str) or shown_name(name) != name else name


def _shape(name: str, shape: object, max_rows: int) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise wrong(name, "shape must be a list of whole numbers, [n] or [n, 1]")
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        told = "x".join(str(size) for size in shape[:5])
        raise wrong(name, f"shape must be [n] or [n, 1], one value for every row, and is {told or 'empty'}")
    if not 1 <= shape[0] <= max_rows:
        told = ": split it" if shape[0] else ""
        raise wrong(name, f"shape has {shown(shape[0])} rows, and a request has 1 to {max_rows}{told}")
    return tuple(shape)


def _values(
    column: Column,
    datatype: DataType,
    shape: tuple[int, ...],
    given: Mapping[str, Any],
    rest: memoryview,
    has_head: bool,  # noqa: FBT001
) -> tuple[list[TensorValue], int]:
    """The values of an input, and how many of the bytes behind the JSON are its."""
    name = column.name
    parameters = _parameters(f"{name}.parameters", given.get("parameters"), ("binary_data_size", "content_type"))
    size = parameters.get("binary_data_size")
    if (size is None) == (given.get("data") is None):
        problem = "both data and binary_data_size" if size is not None else "neither data nor binary_data_size"
        raise wrong(name, f"has {problem}; an input has one of them")
    if size is None:
        return read_json(name, datatype, shape, given["data"]), 0
    if not has_head:
        raise wrong(name, "has binary_data_size, and the request no header Inference-Header-Content-Length")
    if type(size) is not int or size < 0:
        raise wrong(name, "binary_data_size must be a whole number of bytes")
    if size > len(rest):
        raise wrong(name, f"binary_data_size is {shown(size)}, and {len(rest)} bytes are left")
    values = read_bytes(name, datatype, shape[0], rest[:size])
    if datatype.kind == "text" and "" in values and fault_of(column, "") is not None:
        values = [value or None for value in values]  # bytes have no null, and no value of this column is empty
    return values, size
