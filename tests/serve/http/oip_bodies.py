"""Bodies of the Open Inference Protocol for tests: rows as inputs, in JSON and with bytes behind it; and odd ones."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Body = dict[str, Any]

FORMS = {
    "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "FP32": "<f4", "FP64": "<f8", "BOOL": "|b1",
}  # fmt: skip
"""The protocol's table of datatypes, in numpy's words; BYTES has texts behind their lengths."""


def json_body(records: Sequence[Mapping[str, Any]], **more: Any) -> Body:
    """Rows as one input of shape [n] for each column."""
    return {
        "inputs": [
            {"name": name, "shape": [len(records)], "datatype": "FP64", "data": [record[name] for record in records]}
            for name in records[0]
        ],
        **more,
    }


def raw(datatype: str, values: Sequence[Any]) -> bytes:
    """Values as bytes; None as NaN, and as a text of length 0."""
    if datatype == "BYTES":
        texts = [("" if value is None else value).encode() for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array([np.nan if value is None else value for value in values], dtype=FORMS[datatype]).tobytes()


def binary_body(body: Body, only: Sequence[str] | None = None) -> tuple[bytes, dict[str, str]]:
    """The same request with its inputs, or those alone, as bytes behind the JSON; and its headers."""
    head, pieces = copy.deepcopy(body), []
    for one in head["inputs"]:
        if only is None or one["name"] in only:
            pieces.append(raw(one["datatype"], one.pop("data")))
            one["parameters"] = {**one.get("parameters", {}), "binary_data_size": len(pieces[-1])}
    text = json.dumps(head).encode()
    return text + b"".join(pieces), {"inference-header-content-length": str(len(text))}


def changed(change: Callable[[Body], Any]) -> Body:
    """Two sound rows, after that change."""
    body = json_body(
        [
            {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148},
            {"age": 45, "glucose": None, "bmi": 22.0, "bp_systolic": 120},
        ]
    )
    change(body)
    return body


def _first(**fields: Any) -> Callable[[Body], None]:
    return lambda body: body["inputs"][0].update(fields)


ODD: dict[str, Body] = {
    "a column one row short": changed(lambda b: b["inputs"][1].update(shape=[1], data=[182.5])),
    "a column one value short of its shape": changed(lambda b: b["inputs"][1].update(data=[182.5])),
    "a column one value longer than its shape": changed(_first(data=[71, 45, 30])),
    "shape [1, 2] for two rows": changed(_first(shape=[1, 2])),
    "shape [2, 2]": changed(_first(shape=[2, 2], data=[71, 45, 30, 20])),
    "shape []": changed(_first(shape=[])),
    "no rows": changed(lambda b: [one.update(shape=[0], data=[]) for one in b["inputs"]]),
    "shape [2], data nested as [2, 1]": changed(_first(data=[[71], [45]])),
    "a column missing": changed(lambda b: b["inputs"].pop()),
    "a column that may have no values missing": changed(lambda b: b["inputs"].pop(1)),
    "an unknown column": changed(lambda b: b["inputs"].append({**b["inputs"][0], "name": "weight"})),
    "the outcome sent as a column": changed(lambda b: b["inputs"].append({**b["inputs"][0], "name": "readmitted"})),
    "a column twice": changed(lambda b: b["inputs"].append(b["inputs"][0])),
    "an unknown datatype": changed(_first(datatype="FP8")),
    "numbers as texts": changed(_first(datatype="BYTES", data=["71", "45"])),
    "an integer column sent 45.7": changed(_first(data=[71, 45.7])),
    "45.7 under INT64": changed(_first(datatype="INT64", data=[71, 45.7])),
    "300 under UINT8": changed(_first(datatype="UINT8", data=[71, 300])),
    "null in a column that must have values": changed(_first(data=[71, None])),
    "a value out of bounds": changed(_first(data=[71, 130])),
    "true among numbers": changed(_first(data=[71, True])),
    "no inputs": changed(lambda b: b.update(inputs=[])),
    "an unknown parameter": changed(lambda b: b.update(parameters={"confidence": 0.95})),
    "an unknown output": changed(lambda b: b.update(outputs=[{"name": "score"}])),
    "a confidence level of 1": changed(lambda b: b.update(parameters={"confidence_level": 1.0})),
    "MLServer's content type base64": changed(_first(parameters={"content_type": "base64"})),
}
"""Bodies that are refused, by what is odd about them. docs/open-inference.md shows what each gets."""
