"""What Schemathesis must be told to fuzz this service: how to write an Arrow stream, which batches are refused whole, and that tensors fit."""

from __future__ import annotations

import io
import re
from typing import Any

import pyarrow as pa
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

ARROW = "application/vnd.apache.arrow.stream"


def _stream(rows: list[dict[str, Any]]) -> bytes:
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


_RECORDS = st.fixed_dictionaries(
    {
        "age": st.integers(0, 120),
        "glucose": st.none() | st.floats(30, 600),
        "bmi": st.none() | st.floats(10, 80),
        "bp_systolic": st.none() | st.floats(50, 300),
    }
)
schemathesis.openapi.media_type(ARROW, st.lists(_RECORDS, min_size=1, max_size=8).map(_stream))


@schemathesis.hook
def before_call(ctx: Any, case: Any, kwargs: Any) -> None:
    """Change what a JSON schema cannot say: that a row may fail alone, what the time is, and that inputs fit each other."""
    if case.operation.path == "/predict_batch":
        _refuse_whole(case)
    elif case.operation.path.endswith("/infer") and case.meta.generation.mode == GenerationMode.POSITIVE:
        case.body = _fitting(case.body)
    elif case.operation.path == "/labels" and isinstance(case.body, dict) and isinstance(case.body.get("labels"), list):
        case.body["labels"] = [_observed_already(label) for label in case.body["labels"]]


def _refuse_whole(case: Any) -> None:
    """With ``row``, which is what callers want, one bad record among others is a 200."""
    in_body = isinstance(case.body, dict) and case.body.get("on_error", "row") == "row"
    if in_body:
        case.body["on_error"] = "reject"
    query = dict(case.query or {})
    if query.get("on_error", "row") == "row":
        case.query = {**query, "on_error": "reject"}


_VALUES = {"age": 50, "glucose": None, "bmi": 22.5, "bp_systolic": 120}


def _fitting(body: Any) -> Any:
    """The request with every column once, as many rows as its first input says (up to three), and no output twice."""
    n = int(min(body["inputs"][0]["shape"][0], 3))
    inputs = [
        {"name": name, "shape": [n, 1] if n == 2 else [n], "datatype": "FP64", "data": [value] * n}
        for name, value in _VALUES.items()
    ]
    outputs = {one["name"]: one for one in body.get("outputs") or []}
    return {**body, "inputs": inputs, "outputs": list(outputs.values())}


def _observed_already(label: Any) -> Any:
    """A label is not observed in the future: take a year that has passed, as long as it was a leap year or is none."""
    observed = label.get("observed_at") if isinstance(label, dict) else None
    if isinstance(observed, str) and re.match("20[2-9]|21", observed):
        return {**label, "observed_at": "2016" + observed[4:]}
    return label
