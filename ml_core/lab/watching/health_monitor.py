"""The long look: labels that matured, coverage and drift of live models, alarms that are on, and publishing them.

Only this owns detectors. Every alarm states how rarely it goes off for nothing, and keeps that however often somebody
looks. It stays on until a new champion comes or somebody acknowledges it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.documents import write_document
from ml_core.base.errors import SuretyError
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.lab.watching import alarms
from ml_core.lab.watching.calibration_facts import keep_promise
from ml_core.lab.watching.ledger import Ledger
from ml_core.lab.watching.live_drift import DriftWatch
from ml_core.lab.watching.matured_outcomes import Entered, take_labels
from ml_core.serve.log.labels import LabelStore
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.rollout.monitor_state import Alarm, ModelHealth, MonitorState, boot_id
from ml_core.serve.rollout.rollout_state import Slot
from ml_core.serve.rollout.rollout_store import RolloutStore

__all__ = ["Watch", "WatchLook", "WatchedModel", "acknowledge", "ledger_path"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchedModel:
    """A model that is live in some slot."""

    slot: Slot
    tag: str
    version: str
    model_hash: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class WatchLook:
    """What one look found.

    Attributes
    ----------
    models : those that are live
    entered : answers that matured
    windows : drift windows that were completed
    state : what was published
    raised : alarms that went off just now, by model hash
    """

    models: tuple[WatchedModel, ...]
    entered: int
    windows: int
    state: MonitorState
    raised: dict[str, tuple[Alarm, ...]]


class Watch:
    """Looks after the models of one model name.

    Parameters
    ----------
    settings : home, model name, horizon, thresholds
    loader : finds the artefacts of live models
    now, clock : the time of day, and monotonic seconds
    """

    def __init__(
        self,
        settings: Settings,
        loader: ModelLoader | None = None,
        *,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._loader = loader or ModelLoader(settings)
        self._log = PredictionLog(settings.log)
        self._labels = LabelStore(settings.labels, self._log.known)
        self._drift = DriftWatch(settings, self._loader, self._log)
        self._known: dict[str, tuple[Manifest, str]] = {}
        self._now = now
        self._clock = clock

    def look(self) -> WatchLook:
        """Take in what is new, publish what it means, and write alarms that went off into the journal.

        Raises
        ------
        LogDamaged, ArtefactError
            Log, labels, ledger or rollout cannot be read; nothing was published.
        """
        models = self.live_models()
        now = self._now()
        with Ledger.changing(ledger_path(self._settings)) as ledger:
            entered = take_labels(ledger, self._labels, self._log, now, self._settings.label_horizon_days)
            self._feed(ledger, entered, now)
            champion = next((model for model in models if model.slot == "champion"), None)
            windows = 0 if champion is None else self._drift.look(ledger, champion.tag, champion.model_hash, now)
            on = {model.model_hash: alarms.alarms_of(ledger, model.model_hash) for model in models}
            raised = {h: new for h, found in on.items() if (new := alarms.untold(ledger, h, found))}
        state = self._publish(models, on)
        self._tell(models, raised)
        return WatchLook(models, len(entered.rows), windows, state, raised)

    def live_models(self) -> tuple[WatchedModel, ...]:
        """The models in the rollout's slots; those that cannot be found are left out, and so are not monitored."""
        state = RolloutStore(self._settings).read()
        if state is None:
            return ()
        slots: list[tuple[Slot, str | None]] = [
            ("champion", self._settings.model or state.champion),
            ("challenger", state.challenger),
            ("previous", state.previous),
        ]
        found: dict[str, WatchedModel] = {}
        for slot, tag in slots:
            if tag is None:
                continue
            try:
                manifest, model_hash = self._facts(tag)
            except SuretyError as error:
                logger.warning("model.not_watched", extra={"tag": tag, "reason": str(error)})
                continue
            version = tag.rpartition(":v")[2].rpartition("-")[0]
            found.setdefault(model_hash, WatchedModel(slot, tag, version, model_hash, manifest))
        return tuple(found.values())

    def _facts(self, tag: str) -> tuple[Manifest, str]:
        if tag not in self._known:
            self._known[tag] = self._loader.facts(tag)
        return self._known[tag]

    def _feed(self, ledger: Ledger, entered: Entered, now: datetime) -> None:
        for whose, facts in entered.lineages.items():
            rows = [row for row in entered.rows if row.own and (row.model_hash, row.calibration_id) == whose]
            metrics = self._metrics_behind(facts)
            keep_promise(ledger, facts, metrics)
            alarms.feed_coverage(ledger, facts, rows, metrics, self._settings.coverage_alarm_labels, now)

    def _metrics_behind(self, facts: Mapping[str, Any]) -> Mapping[str, float]:
        """Metrics of the model whose calibration it is, live or not; none where that is gone, or of its scorecard."""
        try:
            manifest, _ = self._facts(facts["bento_tag"])
        except SuretyError:
            return {}
        return manifest.metrics if manifest.calibration_id == facts["calibration_id"] else {}

    def _publish(self, models: Sequence[WatchedModel], found: dict[str, tuple[Alarm, ...]]) -> MonitorState:
        state = MonitorState(
            model_name=self._settings.model_name,
            published_at=utc_text(self._now()),
            boot=boot_id(),
            beat_s=self._clock(),
            models={
                model.model_hash: ModelHealth(model_version=model.version, alarms=found[model.model_hash])
                for model in models
            },
        )
        write_document(self._settings.monitor_state, state, durable=False)
        return state

    def _tell(self, models: Sequence[WatchedModel], raised: dict[str, tuple[Alarm, ...]]) -> None:
        """Write alarms into the journal, and only then that they were: killed in between, it is told again."""
        for model in models:
            for alarm in raised.get(model.model_hash, ()):
                facts = {
                    "model": self._settings.model_name,
                    "tag": model.tag,
                    "alarm": alarm.reason,
                    "says": alarm.says,
                }
                Journal(self._settings.journal).append("alarm.raised", facts)
                logger.warning("alarm.raised", extra=facts)
        if raised:
            with Ledger.changing(ledger_path(self._settings)) as ledger:
                for model_hash, found in raised.items():
                    alarms.keep_told(ledger, model_hash, found)


def ledger_path(settings: Settings) -> Path:
    """Where the monitor remembers what it knows of the configured model."""
    return settings.monitor / f"{settings.model_name}.ledger.db"


def acknowledge(settings: Settings, model_hash: str, reason: str, *, why: str, by: str) -> bool:
    """Switch an alarm off and let its detector begin anew; False where it is not on. Written into the journal."""
    with Ledger.changing(ledger_path(settings)) as ledger:
        on = {alarm.reason: alarm for alarm in alarms.alarms_of(ledger, model_hash)}
        if reason not in on:
            return False
        Journal(settings.journal).append(
            "alarm.acknowledged",
            {"model": settings.model_name, "model_hash": model_hash, "alarm": reason, "why": why, "who": by},
        )
        ledger.forget_detector(model_hash, reason)
    return True
