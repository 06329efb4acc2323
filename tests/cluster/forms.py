"""The two forms of every test of the cluster: a short one for each change, and one with the durations of the promise."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LONG", "SHORT", "Form"]


@dataclass(frozen=True)
class Form:
    """How long and how often a fault lasts.

    Attributes
    ----------
    rate : requests a second over all machines
    gone_s : how long a store is away
    changes : of the rollout, one after the other
    patience : factor of the promised times, since other tests run beside the short form
    """

    name: str
    rate: int
    gone_s: float
    changes: int
    patience: float


SHORT = Form("short", 60, 8.0, 15, 4.0)
LONG = Form("long", 300, 60.0, 100, 1.0)
