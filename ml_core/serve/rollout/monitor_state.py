"""What the monitor publishes, and what follows for an answer: valid, suspect, unverified or unmonitored."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from ml_core.base.documents import PublishedDocument, parsed_document
from ml_core.base.errors import ArtefactError
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home

__all__ = [
    "GUARD_SILENCE_S",
    "Alarm",
    "HealthFigure",
    "ModelHealth",
    "MonitorState",
    "MonitorView",
    "Unverified",
    "Validities",
    "Validity",
    "boot_id",
    "monitor_document",
]

GUARD_SILENCE_S = 30.0
"""Silence of the monitor after which the champion answers a guarded canary's share."""
Validity = Literal["valid", "suspect", "unverified", "unmonitored"]
"""An alarm is on; no alarm is, but missing outcomes hide whether one should be; nobody watches. The first that holds,
in the order suspect, unverified, valid, is what a monitored model's answers say."""
Validities = Mapping[str, tuple[Validity, tuple[str, ...]]]
"""Validity and its reasons by model hash; a model that is left out is unmonitored."""


class Alarm(PublishedDocument):
    """A problem of a model; it stays on until there is a new champion or somebody acknowledges it.

    Attributes
    ----------
    reason : short code that answers carry, such as ``coverage:1`` or ``drift``
    since : when it went off, UTC
    says : what is wrong, in one sentence
    false_alarm : how often it goes off while nothing is wrong, in words
    """

    reason: str
    since: str
    says: str
    false_alarm: str


class Unverified(PublishedDocument):
    """A promise that missing outcomes leave open.

    Attributes
    ----------
    reason : short code that answers carry, such as ``outcomes:1``: coverage of that class is not verified
    says : why, in one sentence
    """

    reason: str
    says: str


class HealthFigure(PublishedDocument):
    """A number that the monitor knows of a model.

    Attributes
    ----------
    name : key of ``metrics.HEALTH``, which says what the number is and its unit
    label, group : class label and group of patients it is about; "" where it is about all of them
    """

    name: str
    value: float
    label: str = ""
    group: str = ""


class ModelHealth(PublishedDocument):
    """One model as the monitor sees it.

    Attributes
    ----------
    model_version : as in answers
    alarms : those that are on
    unverified : what missing outcomes leave open
    figures : what the monitor has measured
    """

    model_version: str
    alarms: tuple[Alarm, ...] = ()
    unverified: tuple[Unverified, ...] = ()
    figures: tuple[HealthFigure, ...] = ()


class MonitorState(PublishedDocument):
    """What the monitor wrote last.

    Attributes
    ----------
    published_at : UTC
    boot, beat_s : the system's boot and its monotonic clock when this was written
    models : by model hash; a model that is not in here is not monitored
    """

    model_name: str
    published_at: str
    boot: str
    beat_s: float
    models: dict[str, ModelHealth] = Field(default_factory=dict)


def monitor_document(model_name: str) -> str:
    """Name of the document in which the monitor publishes what it sees of that model."""
    return f"monitor/{model_name}.state.json"


@cache
def boot_id() -> str:
    """Id of the system's boot, since monotonic clocks of two boots cannot be compared; "" where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def is_fresh(state: MonitorState, now_s: float, timeout_s: float) -> bool:
    """Whether the monitor published within the last ``timeout_s`` seconds of this boot."""
    return state.boot == boot_id() and 0.0 <= now_s - state.beat_s <= timeout_s


def validity_by_model(state: MonitorState | None, now_s: float, timeout_s: float) -> Validities:
    """Validity and its reasons by model hash; models that are left out are unmonitored.

    Parameters
    ----------
    now_s : monotonic clock
    timeout_s : silence after which nothing is monitored any more
    """
    if state is None or not is_fresh(state, now_s, timeout_s):
        return {}
    return {model_hash: _validity(health) for model_hash, health in state.models.items()}


def _validity(health: ModelHealth) -> tuple[Validity, tuple[str, ...]]:
    """The strongest word that holds, with its own reasons: evidence against a model says more than missing evidence."""
    if health.alarms:
        return "suspect", tuple(alarm.reason for alarm in health.alarms)
    if health.unverified:
        return "unverified", tuple(each.reason for each in health.unverified)
    return "valid", ()


class MonitorView:
    """The state that the monitor published, parsed again only when it has changed.

    Parameters
    ----------
    settings : where it lies, and how long silence may last
    """

    def __init__(self, settings: Settings) -> None:
        self._documents = open_home(settings).documents
        self._name = monitor_document(settings.model_name)
        self._timeout_s = settings.monitor_timeout_s
        self._content: bytes | None = None
        self.state: MonitorState | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether the state that was read last is recent enough to count."""
        return self.state is not None and is_fresh(self.state, time.monotonic(), self._timeout_s)

    @property
    def watches_canary(self) -> bool:
        """Whether the monitor, which takes a bad canary back, has published within ``GUARD_SILENCE_S``."""
        return self.state is not None and is_fresh(self.state, time.monotonic(), GUARD_SILENCE_S)

    @property
    def age_s(self) -> float | None:
        """Seconds since the monitor published what was read last; None where it has not since the system started."""
        if self.state is None or self.state.boot != boot_id():
            return None
        return max(0.0, time.monotonic() - self.state.beat_s)

    def look(self) -> Validities:
        """Validity and its reasons by model hash, as of now."""
        try:
            seen = self._documents.glimpse(self._name)
            if seen.content != self._content:
                self._content, self.state = seen.content, None
                if seen.content is not None:
                    self.state = parsed_document(seen.content, self._name, MonitorState)
            if self.state is not None and seen.age_s is not None:  # clocks of two machines cannot be compared
                beat = {"boot": boot_id(), "beat_s": time.monotonic() - seen.age_s}
                self.state = self.state.model_copy(update=beat)
        except ArtefactError:
            self.state = None
        return validity_by_model(self.state, time.monotonic(), self._timeout_s)
