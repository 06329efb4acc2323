"""What a circuit breaker hands out: permits, transitions, snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["NO_PERMIT", "BreakerSnapshot", "Mode", "Permit", "State", "Transition"]

State = Literal["closed", "open", "half_open"]
Mode = Literal["auto", "forced_open", "disabled", "metrics_only"]


class Permit(NamedTuple):
    """Leave to make one call, given back once; results of an older generation are late. Probe 0: an ordinary call."""

    generation: int
    probe: int


NO_PERMIT = Permit(-1, 0)  # always late


@dataclass(frozen=True, slots=True)
class Transition:
    """One change; ``after`` is "would_open" (same generation) where metrics-only mode lets calls pass all the same."""

    name: str
    before: str
    after: str
    reason: str
    generation: int


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """One consistent view of a breaker.

    Attributes
    ----------
    reason : why it last opened; None if it never has
    error_rate, slow_rate, p95_ms : of the window; None (not enough data) below the minimum of calls
    retry_after_s : seconds until a call may pass; None if one may now
    successes, failures, slow, ignored, rejected, late : totals; slow ones are successes or failures too,
        ignored were released without a verdict, late came after their era or lease and changed nothing
    transitions : (before, after, reason, how often), an operator's commands included
    """

    name: str
    state: State
    mode: Mode
    reason: str | None
    generation: int
    calls_in_window: int
    error_rate: float | None
    slow_rate: float | None
    p95_ms: float | None
    consecutive_failures: int
    retry_after_s: float | None
    successes: int
    failures: int
    slow: int
    ignored: int
    rejected: int
    late: int
    transitions: tuple[tuple[str, str, str, int], ...]
