"""Facts of a report on what runs: shadow, circuits, the journal, the prediction log. Conventions as in ``facts``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

__all__ = [
    "CircuitNow",
    "CircuitTransition",
    "Circuits",
    "JournalEntry",
    "LogStore",
    "Rollout",
    "ShadowPair",
    "StoredFile",
]


@dataclass(frozen=True, slots=True)
class ShadowPair:
    """A challenger scored beside the champion, unseen.

    Attributes
    ----------
    champion, challenger : tags
    scored, dropped, failed : requests scored, left out because the queue was full, given up because scoring failed
    agreed, same_set : scored ones with the same prediction, and with the same set
    mean_difference, max_difference : of the probabilities of the champion's prediction, absolute
    edges, counts : histogram of the challenger's minus the champion's probability of that label: B + 1 rising edges in
        [-1, 1], B counts
    """

    champion: str
    challenger: str
    scored: int
    agreed: int
    same_set: int
    dropped: int = 0
    failed: int = 0
    mean_difference: float | None = None
    max_difference: float | None = None
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CircuitNow:
    """The circuit of one slot in one worker, now.

    Attributes
    ----------
    worker : e.g. ``api 1``
    state : ``closed`` (calls pass), ``open`` (calls are refused) or ``half_open`` (a few probes decide)
    mode : ``auto`` unless an operator has ordered otherwise
    reason : why it last opened; None if it never has
    error_rate : share of failed calls in the window; None with too few calls
    p95_ms : milliseconds, of the calls in the window; None with too few
    opened : how often it has opened
    """

    worker: str
    slot: str
    state: str
    mode: str = "auto"
    reason: str | None = None
    calls_in_window: int = 0
    error_rate: float | None = None
    p95_ms: float | None = None
    opened: int = 0


@dataclass(frozen=True, slots=True)
class CircuitTransition:
    """A change of a circuit; ``times`` of them where only their number is known, and then ``at`` may be None."""

    worker: str
    slot: str
    before: str
    after: str
    reason: str
    at: datetime | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class Circuits:
    """All circuits now, and their changes, newest first."""

    now: tuple[CircuitNow, ...] = ()
    transitions: tuple[CircuitTransition, ...] = ()


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One decision: when, which, by whom, on what, and why."""

    at: datetime | None
    event: str
    by: str
    what: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The journal, newest first, and the flags that differ from their defaults, as text by name."""

    journal: tuple[JournalEntry, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of the prediction log.

    Attributes
    ----------
    state : e.g. ``live``, ``closed``, ``sealed``
    size : bytes
    chain : whether its hash chain held when it was last verified, as it is now; None if it never was
    """

    name: str
    state: str
    rows: int
    size: int
    chain: bool | None = None


@dataclass(frozen=True, slots=True)
class LogStore:
    """The prediction log.

    Attributes
    ----------
    rows : predictions stored
    lost : predictions answered but not stored, exactly counted
    mode : how sure it is, e.g. ``standard``
    verified_at : when all chains were verified; None where they were not, for this report
    broken : names of files whose chain did not hold
    files : newest first
    """

    rows: int
    lost: int
    mode: str
    verified_at: datetime | None = None
    broken: tuple[str, ...] = ()
    files: tuple[StoredFile, ...] = ()
