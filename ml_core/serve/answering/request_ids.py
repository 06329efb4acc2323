"""Request ids: UUIDv7, one at a time or those of a whole bulk call at once."""

from __future__ import annotations

import os
import time

import numpy as np
import numpy.typing as npt
import uuid_utils

__all__ = ["IdArray", "id_texts", "new_id", "new_ids"]

IdArray = npt.NDArray[np.uint8]
"""Ids of n rows: shape (n, 16) as bytes, (n, 36) as ASCII."""

_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
# Where the 32 hex digits of a UUID stand among its 36 characters.
_DIGITS = np.array([i for i in range(36) if i not in (8, 13, 18, 23)])

new_id = uuid_utils.uuid7
"""A UUIDv7: sorts by time, unique also when the clock steps back."""


def new_ids(n: int) -> IdArray:
    """``n`` UUIDv7 as bytes, shape (n, 16): RFC 9562, 48 bits of Unix milliseconds, 74 random bits."""
    raw = np.frombuffer(os.urandom(16 * n), dtype=np.uint8).reshape(n, 16).copy()
    raw[:, :6] = np.frombuffer((time.time_ns() // 1_000_000).to_bytes(6, "big"), dtype=np.uint8)
    raw[:, 6] = (raw[:, 6] & 0x0F) | 0x70
    raw[:, 8] = (raw[:, 8] & 0x3F) | 0x80
    return raw


def id_texts(ids: IdArray) -> IdArray:
    """The same ids as they are written in answers: ASCII, shape (n, 36)."""
    text = np.full((len(ids), 36), ord("-"), dtype=np.uint8)
    text[:, _DIGITS[0::2]] = _HEX[ids >> 4]
    text[:, _DIGITS[1::2]] = _HEX[ids & 0x0F]
    return text
