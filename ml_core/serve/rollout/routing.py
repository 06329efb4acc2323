"""Which slot answers a request: sticky for a subject or a caller's own id, else by chance."""

from __future__ import annotations

import hashlib
import random

__all__ = ["bucket", "takes_challenger"]


def bucket(key: str, salt: str) -> float:
    """Where a key falls in [0, 1): always the same for one salt, uniform over keys, independent between salts.

    Examples
    --------
    >>> bucket("ward-3", "risk:v2-0a1b2c3d") == bucket("ward-3", "risk:v2-0a1b2c3d")
    True
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8, salt=hashlib.sha256(salt.encode()).digest()[:16]).digest()
    return int.from_bytes(digest, "big") / 2**64


def takes_challenger(weight: float, challenger: str, subject: str | None, client_request_id: str | None) -> bool:
    """Whether the challenger answers; whoever it answers at some weight it also answers at every larger one."""
    key = subject if subject is not None else client_request_id
    return (random.random() if key is None else bucket(key, challenger)) < weight  # noqa: S311 - no secret
