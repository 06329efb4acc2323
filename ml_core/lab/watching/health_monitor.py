"""The health monitor: lets labels mature, feeds the detectors of live models, raises alarms and publishes them.

Only the monitor changes detectors. Every alarm states how often it is false at most, and that holds however often the
monitor runs. An alarm stays on until a new champion comes or somebody acknowledges it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.errors import SuretyError
from ml_core.base.settings import Settings
from ml_core.lab.watching import alarms
from ml_core.lab.watching.due_outcomes import OutcomeCounter, judge_outcomes, unverified_of
from ml_core.lab.watching.health_figures import figures_of
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.lab.watching.live_drift import DriftMonitor
from ml_core.lab.watching.live_expectations import ExpectationMonitor
from ml_core.lab.watching.maturing import Horizons, NewlyMatured, mature_answers
from ml_core.lab.watching.readable_log import ReadableLog
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import LabelStore
from ml_core.serve.log.log_records import LABELS_ERASED, LogRecords
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.model.promotion_record import GateReport
from ml_core.serve.rollout.monitor_state import Alarm, ModelHealth, MonitorState, boot_id, monitor_document
from ml_core.serve.rollout.rollout_state import Slot
from ml_core.serve.rollout.rollout_store import RolloutStore

__all__ = ["HealthMonitor", "HealthReport", "MonitoredModel", "acknowledge_alarm"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MonitoredModel:
    """A model in a slot of the rollout; ``may_answer`` is False for one that only runs in shadow."""

    slot: Slot
    tag: str
    version: str
    model_hash: str
    manifest: Manifest
    may_answer: bool = True


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What one run of the monitor found.

    Attributes
    ----------
    models : the live models
    matured : answers that matured in this run
    windows : drift windows that were completed
    state : what was published
    raised : alarms raised in this run, by model hash
    dropped : labels that were dropped because no answer of their id has turned up
    """

    models: tuple[MonitoredModel, ...]
    matured: int
    windows: int
    state: MonitorState
    raised: dict[str, tuple[Alarm, ...]]
    dropped: int = 0


class HealthMonitor:
    """Monitors the live models of one model name.

    Parameters
    ----------
    settings : home, model name, horizon, thresholds
    loader : finds the artefacts of live models
    now : current time, UTC
    clock : monotonic seconds
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
        self._log = PredictionLog.of(settings)
        self._labels = LabelStore(open_label_tables(settings, settings.model_name), self._log.known)
        self._records = LogRecords(settings)
        readable = ReadableLog(self._log)
        self._drift = DriftMonitor(settings, self._loader, readable)
        self._outcomes = OutcomeCounter(readable, settings.log_retention_days)
        self._expected = ExpectationMonitor(self._loader, readable)
        self._known: dict[str, tuple[Manifest, str]] = {}
        self._now = now
        self._clock = clock

    def _explain_dropped(self, labels: Sequence[int]) -> None:
        """Write into the journal which labels go, so that nobody takes their end for tampering."""
        self._records.write(LABELS_ERASED, {"labels": list(labels)})

    def look(self) -> HealthReport:
        """Process new labels and answers, publish the state of every live model, and journal alarms that were raised.

        Raises
        ------
        LogDamaged, ArtefactError
            Log, labels, ledger or rollout cannot be read. Nothing was published.
        """
        models = self.live_models()
        now = self._now()
        with Ledger.changing(open_ledger_tables(self._settings, self._settings.model_name)) as ledger:
            horizons = self._horizons(ledger, models)
            matured = mature_answers(ledger, self._labels, self._log, now, horizons, self._explain_dropped)
            self._feed(ledger, matured, now)
            self._outcomes.look(ledger, matured, now, horizons)
            champion = next((model for model in models if model.slot == "champion"), None)
            windows = 0 if champion is None else self._drift.look(ledger, champion.tag, champion.model_hash, now)
            self._expected.look(ledger, models)
            health = {model.model_hash: self._health(ledger, model, now) for model in models}
            raised = {h: new for h, found in health.items() if (new := alarms.unannounced(ledger, h, found.alarms))}
        state = self._publish(health)
        self._announce(models, raised)
        if matured.dropped:
            facts = {"model": self._settings.model_name, "labels": matured.dropped}
            open_home(self._settings).journal.append("labels.dropped", facts)
            logger.warning("labels.dropped", extra=facts)
        return HealthReport(models, len(matured.rows), windows, state, raised, matured.dropped)

    def published(self) -> MonitorState | None:
        """What a monitor published last; None where none ever has.

        Raises
        ------
        ArtefactError, HomeUnreachable
            It cannot be read.
        """
        name = monitor_document(self._settings.model_name)
        return open_home(self._settings).documents.load(name, MonitorState)

    def live_models(self) -> tuple[MonitoredModel, ...]:
        """The models in the slots of the rollout, except those whose artefact cannot be read."""
        state = RolloutStore(self._settings).read()
        if state is None:
            return ()
        slots: list[tuple[Slot, str | None]] = [
            ("champion", self._settings.model or state.champion),
            ("challenger", state.challenger),
            ("previous", state.previous),
        ]
        found: dict[str, MonitoredModel] = {}
        for slot, tag in slots:
            if tag is None:
                continue
            try:
                manifest, model_hash = self._facts(tag, state.hashes.get(tag, ""))
            except SuretyError as error:
                logger.warning("model.not_watched", extra={"tag": tag, "reason": str(error)})
                continue
            version = tag.rpartition(":v")[2].rpartition("-")[0]
            may_answer = slot != "challenger" or state.mode == "canary"
            found.setdefault(model_hash, MonitoredModel(slot, tag, version, model_hash, manifest, may_answer))
        return tuple(found.values())

    def _health(self, ledger: Ledger, model: MonitoredModel, now: datetime) -> ModelHealth:
        """What is to be published of a model. Changes of what is unverified are journalled."""
        manifest, model_hash, settings = model.manifest, model.model_hash, self._settings
        before = [each.reason for each in unverified_of(ledger, model_hash)]
        judged = judge_outcomes(ledger, model_hash, manifest, settings, now)
        for name in judged.restarted:
            why = "its evidence was of outcomes that depended on the set"
            self._tell("detector.restarted", model, {"alarm": name, "says": why})
        reasons = [each.reason for each in judged.unverified]
        if reasons != before:
            facts = {"reasons": reasons, "says": "; ".join(each.says for each in judged.unverified)}
            self._tell("coverage.unverified" if reasons else "coverage.verified", model, facts)
        return ModelHealth(
            model_version=model.version,
            alarms=(
                *alarms.gate_alarm(ledger, model_hash, self._verdict(model)),
                *alarms.alarms_of(ledger, model_hash),
            ),
            unverified=judged.unverified,
            figures=figures_of(ledger, manifest, model_hash, judged.latest, now),
        )

    def _tell(self, event: str, model: MonitoredModel, facts: Mapping[str, Any]) -> None:
        """Write into journal and log what has happened to a model."""
        told = {"model": self._settings.model_name, "tag": model.tag, **facts}
        open_home(self._settings).journal.append(event, told)
        logger.warning(event, extra=told)

    def _verdict(self, model: MonitoredModel) -> GateReport | None:
        """The newest verdict on a model that may answer; None where it cannot be read."""
        if not model.may_answer:
            return None
        try:
            return self._loader.verdict(model.tag, model.model_hash)
        except SuretyError as error:
            logger.warning("verdict.not_read", extra={"tag": model.tag, "reason": str(error)})
            return None

    def _facts(self, tag: str, model_hash: str = "") -> tuple[Manifest, str]:
        if tag not in self._known:
            self._known[tag] = self._loader.facts(tag, model_hash)
        return self._known[tag]

    def _horizons(self, ledger: Ledger, models: Sequence[MonitoredModel]) -> Horizons:
        """Horizons of the live models, and of earlier ones as they were when they were live."""
        told = {model.model_hash: model.manifest.label_horizon_days for model in models}
        known = {**ledger.fact("horizons", {}).get("by_model", {}), **{h: d for h, d in told.items() if d is not None}}
        return Horizons(self._settings.label_horizon_days, known)

    def _feed(self, ledger: Ledger, matured: NewlyMatured, now: datetime) -> None:
        threshold = self._settings.coverage_alarm_labels
        for facts in matured.lineages.values():
            alarms.keep_target(ledger, facts, self._metrics_of(facts))
        for model_hash in {facts["model_hash"]: None for facts in matured.lineages.values()}:
            rows = [r for r in matured.rows if r.own and r.model_hash == model_hash]
            calibrations = [matured.lineages[model_hash, i] for i in {r.calibration_id: None for r in rows}]
            if calibrations:  # of several cells where groups are calibrated; their rows stay in the order of time
                facts = {**calibrations[0], "calibration_sizes": self._fewest(calibrations)}
                alarms.feed_coverage(ledger, facts, rows, self._metrics_of(facts), threshold, now)

    def _fewest(self, calibrations: Sequence[Mapping[str, Any]]) -> list[int]:
        """Fewest rows of each class that calibrated any cell of a model: they decide what its detectors put up with."""
        sizes = [facts["calibration_sizes"] for facts in calibrations]
        manifest = self._manifest_of(calibrations[0])
        if manifest is not None and manifest.groups is not None:
            own = [cell for cell in manifest.groups.cells if cell.is_own]
            sizes += [[cell.rows[str(label)] for label in manifest.classes] for cell in own]
        return [min(of_class) for of_class in zip(*sizes, strict=True)]

    def _metrics_of(self, facts: Mapping[str, Any]) -> Mapping[str, float]:
        """Metrics of the model that was calibrated; empty if it is gone, or if the calibration is of its scorecard."""
        manifest = self._manifest_of(facts)
        if manifest is None:
            return {}
        by_cell = manifest.groups is not None and bool(manifest.groups.cells) and facts["slot"] != "scorecard"
        return manifest.metrics if by_cell or manifest.calibration_id == facts["calibration_id"] else {}

    def _manifest_of(self, facts: Mapping[str, Any]) -> Manifest | None:
        try:
            return self._facts(facts["bento_tag"])[0]
        except SuretyError:
            return None

    def _publish(self, health: Mapping[str, ModelHealth]) -> MonitorState:
        state = MonitorState(
            model_name=self._settings.model_name,
            published_at=utc_text(self._now()),
            boot=boot_id(),
            beat_s=self._clock(),
            models=dict(health),
        )
        open_home(self._settings).documents.save(monitor_document(self._settings.model_name), state, durable=False)
        return state

    def _announce(self, models: Sequence[MonitoredModel], raised: dict[str, tuple[Alarm, ...]]) -> None:
        """Journal the alarms, then mark them as announced. In a folder, a run killed in between is repeated."""
        if not raised:
            return
        with open_home(self._settings).together():
            for model in models:
                for alarm in raised.get(model.model_hash, ()):
                    self._tell("alarm.raised", model, {"alarm": alarm.reason, "says": alarm.says})
            with Ledger.changing(open_ledger_tables(self._settings, self._settings.model_name)) as ledger:
                for model_hash, found in raised.items():
                    alarms.mark_announced(ledger, model_hash, found)


def acknowledge_alarm(settings: Settings, model_hash: str, reason: str, *, why: str, by: str) -> bool:
    """Switch an alarm off, restart its detector and journal both; False if the alarm is not on."""
    with Ledger.changing(open_ledger_tables(settings, settings.model_name)) as ledger:
        on = {alarm.reason for alarm in alarms.alarms_of(ledger, model_hash)}
        if alarms.is_refused(ledger, model_hash):
            on.add(alarms.GATE)
        if reason not in on:
            return False
        open_home(settings).journal.append(
            "alarm.acknowledged",
            {"model": settings.model_name, "model_hash": model_hash, "alarm": reason, "why": why, "who": by},
        )
        if reason == alarms.GATE:
            alarms.acknowledge_gate(ledger, model_hash)
        else:
            alarms.restart_detector(ledger, model_hash, reason)
    return True
