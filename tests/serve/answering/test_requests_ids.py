"""Ids are UUIDs of version 7, all different, and sort by time."""

from __future__ import annotations

import uuid

import pytest

from ml_core.serve.answering.requests import id_texts, new_id, new_ids


@pytest.mark.parametrize("n", [0, 1, 5_000])
def test_many_at_once_are_as_good_as_one_by_one(n: int) -> None:
    texts = [bytes(row).decode() for row in id_texts(new_ids(n))]
    found = [uuid.UUID(text) for text in texts]
    assert len(set(found)) == n
    assert all(
        str(u) == text and u.version == 7 and u.variant == uuid.RFC_4122 for u, text in zip(found, texts, strict=True)
    )


def test_a_batchs_ids_carry_the_same_moment_as_single_ones() -> None:
    before, many, after = str(new_id()), bytes(id_texts(new_ids(1))[0]).decode(), str(new_id())
    moments = [uuid.UUID(text).int >> 80 for text in (before, many, after)]
    assert moments == sorted(moments)
