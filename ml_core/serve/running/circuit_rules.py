"""What opens a circuit and what closes it: the window of the last calls with its rules, and the probes of a round."""

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
        """Drop what is as old as the window, or older."""
        if self._seconds is not None:
            while self.calls and now_s - self.calls[0][0] >= self._seconds:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, _, failed, slow = self.calls.popleft()
        self.failures -= failed
        self.slow -= slow

    def verdict(self) -> str | None:
        """Reason to open, if there is one.

        The p95 by nearest rank is the ceil(0.95 n)-th smallest of n: above a limit exactly if more than n // 20 are.
        A quotient is compared, not a product: 7 / 100 is the float 0.07, while 0.07 * 100 exceeds 7.
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
        """Begin a round without probes."""
        self.leases.clear()
        self.succeeded, self._begun_s = 0, 0.0

    def full_for(self, now_s: float) -> float | None:
        """Seconds until the nearest lease ends; None if a place is free."""
        ends = list(self.leases.values())
        return min(ends) - now_s if len(ends) + self.succeeded >= self._places else None

    def lend(self, now_s: float) -> int:
        """Number of a new probe; the first one begins the round."""
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
        """Whether all succeeded, or some in a round whose time is over; a round without success begins anew."""
        periods = (now_s - self._begun_s) // self._longest_s
        if periods >= 1 and not self.succeeded:
            self._begun_s += periods * self._longest_s
        return self.succeeded >= (1 if periods >= 1 else self._places)
