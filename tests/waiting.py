"""Waits for what another thread or process does, and fails where it does not."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["soon"]


def soon(is_so: Callable[[], bool], within_s: float = 20.0) -> None:
    """Return as soon as it is so; far more time is given than it takes, so that a busy machine fails nothing."""
    ends = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > ends:
            raise AssertionError(f"not within {within_s:g} s")
        time.sleep(0.01)
