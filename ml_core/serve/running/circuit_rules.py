"""The rules of the circuit breaker: a window of calls that can open it, and a round of probes that can close it."""

from __future__ import annotations

from collections import deque

__all__ = ["Probes", "Window"]


class Window:
    """The last calls with running sums, and the three rules that may open the circuit."""

    def __init__(self, row: int | None, rate: float | None, size: int, minimum: int, seconds: float | None) -> None:
        self._row, self._rate, self._size, self._minimum, self._seconds = row, rate, size, minimum, seconds
        self.calls: deque[tuple[float, float, bool, bool]] = deque()  # when (s), duration (ms), failed, slow
        self.clear()

    def clear(self) -> None:
        """Forget every call."""
        self.calls.clear()
        self.failures = self.slow = self.in_a_row = 0

    def add(self, now_s: float, duration_ms: float, *, failed: bool, slow: bool) -> None:
        """Take in one result."""
        self.in_a_row = self.in_a_row + 1 if failed else 0
        self.failures += failed
        self.slow += slow
        self.calls.append((now_s, duration_ms, failed, slow))
        if len(self.calls) > self._size:
            self._drop_oldest()
        self.age(now_s)

    def age(self, now_s: float) -> None:
        """Drop the calls that are ``seconds`` old or older."""
        if self._seconds is not None:
            while self.calls and now_s - self.calls[0][0] >= self._seconds:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, _, failed, slow = self.calls.popleft()
        self.failures -= failed
        self.slow -= slow

    def verdict(self) -> str | None:
        """Why the circuit should open; None where it should not.

        The p95 by nearest rank is the ceil(0.95 n)-th smallest of n values. It exceeds a limit exactly when more than
        n // 20 values do. The failure rate is compared as a quotient: 7 / 100 is the float 0.07, but 0.07 * 100 is
        more than 7.
        """
        if self._row is not None and self.in_a_row >= self._row:
            return "consecutive_failures"
        n = len(self.calls)
        if n < self._minimum:
            return None
        if self._rate is not None and self.failures / n >= self._rate:
            return "error_rate"
        return "latency_p95" if self.slow > n // 20 else None

    def rates(self) -> tuple[float, float, float] | tuple[None, None, None]:
        """Share of failures, share of slow calls, p95 (ms); None below the minimum."""
        n = len(self.calls)
        if n < self._minimum:
            return None, None, None
        return self.failures / n, self.slow / n, sorted(call[1] for call in self.calls)[-1 - n // 20]


class Probes:
    """The probes of one half-open round: places, leases and successes."""

    def __init__(self, places: int, lease_s: float, longest_s: float) -> None:
        self._places, self._lease_s, self._longest_s, self._number = places, lease_s, longest_s, 0
        self.leases: dict[int, float] = {}  # number of the probe -> end of its lease (s)
        self.clear()

    def clear(self) -> None:
        """Forget all probes, so that the next one begins a round."""
        self.leases.clear()
        self.succeeded, self._begun_s = 0, 0.0

    def full_for(self, now_s: float) -> float | None:
        """Seconds until the next lease ends; None if a place is free now."""
        ends = list(self.leases.values())
        return min(ends) - now_s if len(ends) + self.succeeded >= self._places else None

    def lend(self, now_s: float) -> int:
        """Take a place for a new probe and give its number; the first probe begins the round."""
        if not self.leases and not self.succeeded:
            self._begun_s = now_s
        self._number += 1
        self.leases[self._number] = now_s + self._lease_s
        return self._number

    def expire(self, now_s: float) -> None:
        """Take back the places of probes whose lease has ended."""
        for probe in [probe for probe, end_s in list(self.leases.items()) if end_s <= now_s]:
            self.leases.pop(probe, None)

    def are_convincing(self, now_s: float) -> bool:
        """Whether all probes succeeded, or at least one did and the round's time is over.

        A round whose time is over without a success begins anew.
        """
        periods = (now_s - self._begun_s) // self._longest_s
        if periods >= 1 and not self.succeeded:
            self._begun_s += periods * self._longest_s
        return self.succeeded >= (1 if periods >= 1 else self._places)
