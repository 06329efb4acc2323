"""Tensors of the Open Inference Protocol, in JSON and as bytes, to plain values and back.

The bytes are those of the extension for binary tensor data: little-endian numbers without gaps, a byte for a boolean,
and texts of UTF-8 behind their length of four bytes. A tensor here is a column of n values; a value is checked against
the datatype it came under, and nothing is rounded, cut or filled in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Literal

import numpy as np

from ml_core.base.errors import FieldProblem, InvalidRequest
from ml_core.serve.features.column_rules import shown

__all__ = ["DATATYPES", "DataType", "Tensor", "TensorValue", "read_bytes", "read_json", "wrong", "write_bytes"]

TensorValue = bool | int | float | str | None
Kind = Literal["int", "float", "bool", "text"]

_LENGTH = Struct("<I")


@dataclass(frozen=True, slots=True)
class DataType:
    """A datatype of the protocol.

    Attributes
    ----------
    name : in requests and replies
    kind : what its values are
    form : numpy's name of it as bytes; "" for texts, which have no fixed width
    """

    name: str
    kind: Kind
    form: str

    @property
    def width(self) -> int:
        """Bytes of a value; 0 for texts."""
        return np.dtype(self.form).itemsize if self.form else 0


_INTEGERS = [
    DataType(f"{sign}INT{8 * width}", "int", f"<{letter}{width}")
    for sign, letter in (("", "i"), ("U", "u"))
    for width in (1, 2, 4, 8)
]
DATATYPES = {
    one.name: one
    for one in (
        *_INTEGERS,
        DataType("FP32", "float", "<f4"),
        DataType("FP64", "float", "<f8"),
        DataType("BOOL", "bool", "|u1"),
        DataType("BYTES", "text", ""),
    )
}
"""The datatypes that are read, by name. FP16 and BF16 are not: they hold three digits."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a reply, its values row by row."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    values: Sequence[Any]
    parameters: dict[str, str] = field(default_factory=dict)


def wrong(name: str, problem: str) -> InvalidRequest:
    """The error for one part of a request."""
    return InvalidRequest([FieldProblem(name, problem)])


# --- JSON ---------------------------------------------------------------------------------------------------------


def read_json(name: str, datatype: DataType, shape: tuple[int, ...], data: object) -> list[TensorValue]:
    """The n values in the ``data`` of an input of shape [n] or [n, 1]; None where null.

    Raises
    ------
    InvalidRequest
        Fewer or more values than the shape says, nested in another way, or a value that is none of the datatype.
    """
    if not isinstance(data, list):
        raise wrong(name, f"data must be a list of values, not {shown(data)}")
    values = _flat(name, shape, data)
    if len(values) != shape[0]:
        raise wrong(name, f"shape {list(shape)} means {shape[0]} values, and data has {len(values)}")
    return [None if value is None else _json_value(name, datatype, value, row) for row, value in enumerate(values)]


def _flat(name: str, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    """The values of a list of values, or of a list of rows of one value each where the shape has two dimensions."""
    nested = sum(type(row) is list for row in data)
    if not nested:
        return data
    if len(shape) == 1 or nested < len(data) or any(len(row) != 1 or type(row[0]) is list for row in data):
        raise wrong(name, f"data is nested in another way than shape {list(shape)} says")
    return [row[0] for row in data]


def _json_value(name: str, datatype: DataType, value: Any, row: int) -> TensorValue:
    kind = type(value)
    if datatype.kind == "text" and kind is str:
        return str(value)
    if datatype.kind == "bool" and kind is bool:
        return bool(value)
    if kind is int or kind is float:
        if datatype.kind == "int":
            return _whole(name, datatype, value, row)
        if datatype.kind == "float":
            return _floating(name, datatype, value, row)
    raise wrong(name, f"the datatype is {datatype.name}, and row {row} is {shown(value)}")


def _whole(name: str, datatype: DataType, value: float, row: int) -> int:
    """A whole number that the datatype can hold; also written as 45.0."""
    if isinstance(value, float) and not value.is_integer():
        raise wrong(name, f"the datatype is {datatype.name}, and row {row} is {value}, which is not a whole number")
    limits = np.iinfo(datatype.form)
    if not limits.min <= value <= limits.max:
        raise wrong(name, f"{datatype.name} holds {limits.min} to {limits.max}, and row {row} is {shown(value)}")
    return int(value)


def _floating(name: str, datatype: DataType, value: float, row: int) -> float:
    """The number as the datatype holds it, so that the JSON form and the bytes of a tensor mean the same."""
    if datatype.name == "FP64":
        return float(value)
    with np.errstate(over="ignore"):
        held = float(np.float32(value))
    if math.isinf(held):
        raise wrong(name, f"row {row} is {shown(value)}, which is too large for {datatype.name}: send FP64")
    return held


# --- bytes --------------------------------------------------------------------------------------------------------


def read_bytes(name: str, datatype: DataType, n: int, raw: memoryview) -> list[TensorValue]:
    """The n values in the bytes of an input; NaN, which no column takes, is None.

    Raises
    ------
    InvalidRequest
        The bytes are not those of n values of the datatype.
    """
    if datatype.kind == "text":
        return _texts(name, n, raw)
    if len(raw) != n * datatype.width:
        problem = f"{n} values of {datatype.name} take {n * datatype.width} bytes, and binary_data_size is {len(raw)}"
        raise wrong(name, problem)
    values = np.frombuffer(raw, dtype=datatype.form)
    if datatype.kind == "bool":
        if (values > 1).any():
            raise wrong(name, f"a BOOL is a byte of 0 or 1, and row {int(np.argmax(values > 1))} is another")
        return [bool(value) for value in values.tolist()]
    if datatype.kind == "int":
        return [int(value) for value in values.tolist()]
    return [None if math.isnan(value) else value for value in values.astype(np.float64).tolist()]


def _texts(name: str, n: int, raw: memoryview) -> list[TensorValue]:
    found: list[TensorValue] = []
    at = 0
    for row in range(n):
        if len(raw) - at < _LENGTH.size:
            raise wrong(name, f"shape means {n} texts, and its bytes end after {row}")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if length > len(raw) - at:
            raise wrong(name, f"row {row} is a text of {length} bytes, and {len(raw) - at} are left")
        try:
            found.append(str(raw[at : at + length], "utf-8"))
        except UnicodeDecodeError as error:
            raise wrong(name, f"row {row} is not UTF-8") from error
        at += length
    if at != len(raw):
        raise wrong(name, f"shape means {n} texts, and {len(raw) - at} bytes follow them")
    return found


def write_bytes(tensor: Tensor) -> bytes:
    """The values of a tensor as bytes."""
    if tensor.datatype.kind == "text":
        texts = [str(value).encode() for value in tensor.values]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    return np.array(tensor.values, dtype=tensor.datatype.form).tobytes()
