"""Tensors: the JSON form and the bytes mean the same, and nothing that is not n values of the datatype is taken."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.errors import InvalidRequest
from ml_core.serve.http.oip_tensors import DATATYPES, Tensor, read_bytes, read_json, write_bytes
from tests.serve.http.oip_bodies import FORMS, raw

INTEGERS = sorted(name for name in FORMS if "INT" in name)


def values_of(datatype: str) -> st.SearchStrategy[Any]:
    if datatype in INTEGERS:
        limits = np.iinfo(FORMS[datatype])
        return st.integers(int(limits.min), int(limits.max))
    if datatype in ("FP32", "FP64"):
        return st.floats(allow_nan=False, allow_infinity=False, width=int(datatype[2:]))  # type: ignore[call-overload]
    return st.booleans() if datatype == "BOOL" else st.text()


TENSORS = st.sampled_from(sorted(DATATYPES)).flatmap(
    lambda name: st.tuples(st.just(name), st.lists(values_of(name), min_size=1, max_size=20))
)


def test_the_datatypes_are_those_of_the_protocol() -> None:
    assert {*FORMS, "BYTES"} == set(DATATYPES)
    assert all(DATATYPES[name].width == np.dtype(form).itemsize for name, form in FORMS.items())


@given(TENSORS)
def test_values_come_back_from_bytes_as_they_went_out(tensor: tuple[str, list[Any]]) -> None:
    name, values = tensor
    written = write_bytes(Tensor("a", DATATYPES[name], (len(values),), values))
    assert written == raw(name, values)
    found = read_bytes("a", DATATYPES[name], len(values), memoryview(written))
    assert found == values
    assert [type(one) for one in found] == [type(one) for one in values]


@given(TENSORS, st.booleans())
def test_json_and_bytes_of_a_tensor_mean_the_same(tensor: tuple[str, list[Any]], nested: bool) -> None:
    name, values = tensor
    n = len(values)
    data = json.loads(json.dumps([[one] for one in values] if nested else values))
    found = read_json("a", DATATYPES[name], (n, 1) if nested else (n,), data)
    assert found == read_bytes("a", DATATYPES[name], n, memoryview(raw(name, values)))


@given(st.floats(-3e38, 3e38))
def test_a_json_number_under_fp32_is_the_one_that_its_bytes_hold(value: float) -> None:
    assert read_json("a", DATATYPES["FP32"], (1,), [value]) == [float(np.float32(value))]


@given(TENSORS, st.data())
def test_bytes_that_are_not_those_of_n_values_are_refused(tensor: tuple[str, list[Any]], data: st.DataObject) -> None:
    name, values = tensor
    whole = raw(name, values)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for odd in (whole[:cut], whole + b"\0"):
        with pytest.raises(InvalidRequest):
            read_bytes("a", DATATYPES[name], len(values), memoryview(odd))


@given(st.sampled_from(sorted(DATATYPES)), st.integers(1, 30), st.binary(max_size=200))
def test_any_bytes_are_n_values_or_refused(name: str, n: int, odd: bytes) -> None:
    try:
        found = read_bytes("a", DATATYPES[name], n, memoryview(odd))
    except InvalidRequest:
        return
    assert len(found) == n
    if name not in ("FP32", "FP64"):
        assert raw(name, found) == odd


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(st.sampled_from(sorted(DATATYPES)), st.sampled_from([(1,), (2,), (2, 1), (3, 1)]), JSON)
def test_any_json_is_n_values_of_the_datatype_or_refused(name: str, shape: tuple[int, ...], odd: Any) -> None:
    try:
        found = read_json("a", DATATYPES[name], shape, odd)
    except InvalidRequest:
        return
    kinds = {"int": int, "float": float, "bool": bool, "text": str}
    assert len(found) == shape[0]
    assert all(one is None or type(one) is kinds[DATATYPES[name].kind] for one in found)


@pytest.mark.parametrize("name", ["FP32", "FP64"])
def test_nan_in_bytes_is_a_missing_value(name: str) -> None:
    found = read_bytes("a", DATATYPES[name], 3, memoryview(raw(name, [1.5, math.nan, math.inf])))
    assert found == [1.5, None, math.inf]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("INT64", 45.7, "the datatype is INT64, and row 0 is 45.7, which is not a whole number"),
        ("INT8", 128, "INT8 holds -128 to 127, and row 0 is 128"),
        ("UINT64", -1, "UINT64 holds 0 to 18446744073709551615, and row 0 is -1"),
        ("FP32", 1e39, "too large for FP32: send FP64"),
        ("FP64", "1", "the datatype is FP64, and row 0 is this text"),
        ("FP64", True, "the datatype is FP64, and row 0 is true"),
        ("BOOL", 1, "the datatype is BOOL, and row 0 is 1"),
        ("BYTES", 1, "the datatype is BYTES, and row 0 is 1"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_both_sides(name: str, value: Any, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_json("a", DATATYPES[name], (1,), [value])
    assert told in str(caught.value)


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert read_json("a", DATATYPES["INT64"], (2,), [45.0, None]) == [45, None]


def test_a_boolean_byte_is_0_or_1() -> None:
    with pytest.raises(InvalidRequest, match="row 1 is another"):
        read_bytes("a", DATATYPES["BOOL"], 2, memoryview(b"\x01\x02"))


def test_a_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="row 0 is not UTF-8"):
        read_bytes("a", DATATYPES["BYTES"], 1, memoryview(b"\x01\0\0\0\xff"))


def test_bytes_after_the_last_text_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="shape means 1 texts, and 1 bytes follow them"):
        read_bytes("a", DATATYPES["BYTES"], 1, memoryview(raw("BYTES", ["x"]) + b"!"))
