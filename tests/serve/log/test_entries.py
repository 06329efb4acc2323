"""A row's digest covers all it says, and what is stored reads back to the same digest and the same bits."""

from __future__ import annotations

import hashlib
import math
import struct
import tracemalloc
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.serve.log.entries import (
    SALT_BYTES,
    Lineage,
    Row,
    answer_json,
    id_bytes,
    id_text,
    new_salts,
    next_head,
    row_digest,
    stored_digest,
)
from tests.serve.log.builders import LINEAGE, row

SALT = b"s" * SALT_BYTES
OTHER = Lineage.of({"model_name": "other"})
CHANGES: list[dict[str, Any]] = [
    {"request_id": b"y" * 16},
    {"at_us": 1},
    {"client_request_id": "visit-8"},
    {"client_request_id": None},
    {"subject": b"t" * 32},
    {"subject": None},
    {"batch_id": b"c" * 16},
    {"batch_id": None},
    {"batch_index": 1},
    {"batch_index": None},
    {"lineage": OTHER},
    {"answer": b"{}"},
    {"input": b"[2]"},
]


def a_row(**changes: Any) -> Row:
    facts = {
        "client_request_id": "visit-7", "subject": b"s" * 32, "batch_id": b"b" * 16, "batch_index": 0, "input": b"[1]",
    }  # fmt: skip
    return row(1, **{**facts, **changes})


def as_stored(found: Row) -> dict[str, Any]:
    """The row as it lies in the database."""
    return {**found._asdict(), "salt": SALT}


@pytest.mark.parametrize("change", CHANGES)
def test_any_changed_field_changes_the_digest(change: dict[str, Any]) -> None:
    assert row_digest(a_row(), SALT) != row_digest(a_row(**change), SALT)
    bare = row(1)
    if getattr(bare, next(iter(change))) != next(iter(change.values())):
        assert row_digest(bare, SALT) != row_digest(bare._replace(**change), SALT)


def test_another_salt_gives_another_digest() -> None:
    assert row_digest(a_row(), SALT) != row_digest(a_row(), b"t" * SALT_BYTES)


texts = st.none() | st.text(max_size=20)
blobs = st.binary(max_size=40)


@settings(deadline=None)
@given(
    client=texts, subject=st.none() | blobs, batch=st.none() | blobs, index=st.none() | st.integers(0, 1_000),
    answer=blobs, kept=blobs.filter(bool) | st.none(), at_us=st.integers(0, 1 << 56),
)  # fmt: skip
def test_a_stored_row_has_the_digest_it_was_given(client, subject, batch, index, answer, kept, at_us) -> None:
    found = a_row(
        client_request_id=client, subject=subject, batch_id=batch, batch_index=index, answer=answer, input=kept,
        at_us=at_us,
    )  # fmt: skip
    assert stored_digest(as_stored(found), found.lineage.digest) == row_digest(found, SALT)


@settings(deadline=None)
@given(first=st.tuples(blobs, blobs, texts), second=st.tuples(blobs, blobs, texts))
def test_bytes_cannot_move_from_one_field_to_the_next_unseen(first, second) -> None:
    one, two = (a_row(answer=a, input=b, client_request_id=c) for a, b, c in (first, second))
    assert (row_digest(one, SALT) == row_digest(two, SALT)) == (first == second)


def test_a_digest_is_a_salted_sha256_that_anybody_can_recompute() -> None:
    found = row(3)
    rest = orjson.dumps([None, None, None, LINEAGE.digest.hex(), None])
    assert found.input is not None
    lengths = struct.pack("<16sqIII", found.request_id, found.at_us, len(found.answer), len(found.input), len(rest))
    expected = hashlib.sha256(SALT + lengths + found.answer + found.input + rest).digest()
    assert row_digest(found, SALT) == expected


def test_heads_chain_every_commit_to_all_before_it() -> None:
    first = next_head(b"g" * 32, [b"a" * 32, b"b" * 32])
    assert first == hashlib.sha256(b"g" * 32 + b"a" * 32 + b"b" * 32).digest()
    assert next_head(first, [b"c" * 32]) != next_head(b"g" * 32, [b"c" * 32])
    assert next_head(b"g" * 32, [b"b" * 32, b"a" * 32]) != first


def test_salts_are_all_different() -> None:
    salts = new_salts(1_000)
    assert len(set(salts)) == 1_000
    assert {len(salt) for salt in salts} == {SALT_BYTES}


def test_lineages_are_named_by_what_they_say() -> None:
    one, two = Lineage.of({"a": 1, "b": [2]}), Lineage.of({"b": [2], "a": 1})
    assert one.digest == two.digest == hashlib.sha256(one.text).digest()
    assert orjson.loads(one.text) == one.facts
    assert Lineage.of({"a": 2, "b": [2]}).digest != one.digest


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, allow_nan=False), min_size=2, max_size=4))
def test_numbers_of_an_answer_read_back_to_the_same_bits(values: list[float]) -> None:
    said = orjson.loads(
        answer_json(
            prediction=0, probabilities=values, p_values=[math.nextafter(v, 2) for v in values], members=[0],
            level="0.9", reason=None, validity="valid", validity_reasons=["drift"], elapsed_us=1, input_hash="",
        )
    )  # fmt: skip
    assert said["probabilities"] == values
    assert said["p_values"] == [math.nextafter(v, 2) for v in values]
    assert said["validity_reasons"] == ["drift"]


def test_an_answer_takes_no_more_memory_than_its_length() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [row(n) for n in range(1_000)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 1_000 < 2 * (len(kept[0].answer) + len(kept[0].input or b"")) + 500


@settings(deadline=None)
@given(st.uuids())
def test_ids_read_back(raw: uuid.UUID) -> None:
    assert id_text(id_bytes(str(raw))) == str(raw)


@pytest.mark.parametrize("text", ["", "x", "visit-7", "0" * 31])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        id_bytes(text)
