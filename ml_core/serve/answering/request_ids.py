"""Request ids: UUIDv7, one at a time or a whole batch at once."""

from __future__ import annotations

import os
import time

import numpy as np
import numpy.typing as npt
import uuid_utils

__all__ = ["new_id", "new_ids"]

_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
# Where the 32 hex digits of a UUID stand among its 36 characters.
_DIGITS = np.array([i for i in range(36) if i not in (8, 13, 18, 23)])


def new_id() -> str:
    """A UUIDv7: sorts by time, unique also when the clock steps back."""
    return str(uuid_utils.uuid7())


def new_ids(n: int) -> npt.NDArray[np.uint8]:
    """``n`` UUIDv7 as ASCII, shape (n, 36): RFC 9562, 48 bits of Unix milliseconds, 74 random bits."""
    raw = np.frombuffer(os.urandom(16 * n), dtype=np.uint8).reshape(n, 16).copy()
    raw[:, :6] = np.frombuffer((time.time_ns() // 1_000_000).to_bytes(6, "big"), dtype=np.uint8)
    raw[:, 6] = (raw[:, 6] & 0x0F) | 0x70
    raw[:, 8] = (raw[:, 8] & 0x3F) | 0x80
    text = np.full((n, 36), ord("-"), dtype=np.uint8)
    text[:, _DIGITS[0::2]] = _HEX[raw >> 4]
    text[:, _DIGITS[1::2]] = _HEX[raw & 0x0F]
    return text
