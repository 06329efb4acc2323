"""Retraining in one call: decide, add matured answers to the table, train, judge, register, start the shadow.

Every step can be repeated: killed anywhere, the same call goes on and ends with the same model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.documents import Document
from ml_core.base.errors import CannotJudge, DataError, RetrainBusy
from ml_core.base.settings import Settings
from ml_core.lab.config import ModelConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.raw_tables import columns_beside
from ml_core.lab.drift.drift_check import DriftCheck
from ml_core.lab.journeys.challenger import train_challenger
from ml_core.lab.journeys.matured_rows import new_rows
from ml_core.lab.judging.deployment_gate import validate_deployment
from ml_core.lab.registry.importer import import_version
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.training.packing import Note
from ml_core.lab.watching.health_monitor import HealthMonitor
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.lab.watching.live_drift import check_live, live_window
from ml_core.lab.watching.live_performance import lost_skill
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.home.homes import open_home
from ml_core.serve.model.promotion_record import GateReport
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.monitor_state import MonitorView
from ml_core.serve.rollout.rollout_store import RolloutStore

__all__ = [
    "Decision",
    "Retrained",
    "Retraining",
    "alone",
    "decide",
    "last_retraining",
    "retrain",
    "start_shadow",
]


class Retraining(Document):
    """The last model that retraining registered.

    Attributes
    ----------
    at : when, UTC
    outcomes_upto : number of the last matured answer it was trained on
    model_version, model_hash : of it
    reasons : why
    """

    at: str
    outcomes_upto: int
    model_version: str
    model_hash: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to train again.

    Attributes
    ----------
    go : whether
    reasons : what speaks for it, such as ``drift: age, glucose (...)``, ``skill was lost: ...`` or ``alarm coverage:1``
    against : what forbids it for now, such as the cool-down
    new_labels : labels that matured since the last training
    drift : the check of the newest answers; None where they could not be judged
    """

    go: bool
    reasons: tuple[str, ...]
    against: tuple[str, ...]
    new_labels: int
    drift: DriftCheck | None = None


@dataclass(frozen=True, slots=True)
class Retrained:
    """What retraining did.

    Attributes
    ----------
    decision : why, or why not
    table_version : Delta version it was trained on; None where nothing was trained
    rows_added : matured answers that joined the training table
    version, model_hash, is_new : in the registry
    gate : the verdict on it
    tag : in the Bento store; None where the gate refused it and no shadow was asked for
    shadow : whether it runs in shadow now
    metrics : on test patients
    """

    decision: Decision
    table_version: int | None = None
    rows_added: int = 0
    version: str | None = None
    model_hash: str | None = None
    is_new: bool = False
    gate: GateReport | None = None
    tag: str | None = None
    shadow: bool = False
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def outcome(self) -> Literal["not advised", "held back", "advised", "passed", "refused"]:
        """The result in one word or two.

        ``not advised`` and ``held back`` (advised, but cool-down or labels speak against it) trained nothing;
        ``advised`` is that of a dry run.
        """
        if not self.decision.go:
            return "held back" if self.decision.reasons else "not advised"
        if self.gate is None:
            return "advised"
        return "passed" if self.gate.passed else "refused"

    def as_dict(self) -> dict[str, Any]:
        """What was done, as JSON values."""
        decision, gate, drift = self.decision, self.gate, self.decision.drift
        looked = None if drift is None else {
            "rows": drift.rows_current,
            "features_tested": drift.features_tested,
            "features_drifted": drift.features_drifted,
        }  # fmt: skip
        return {
            "outcome": self.outcome,
            "retrained": self.version is not None,
            "reasons": list(decision.reasons),
            "against": list(decision.against),
            "drift": looked,
            "new_labels": decision.new_labels,
            "table_version": self.table_version,
            "rows_added": self.rows_added,
            "version": self.version,
            "model_hash": self.model_hash,
            "is_new": self.is_new,
            "gate": None if gate is None else "passed" if gate.passed else "refused",
            "failed_rules": [] if gate is None else list(gate.failed_rules),
            "tag": self.tag,
            "shadow": self.shadow,
            "metrics": self.metrics,
        }

    def in_words(self) -> str:
        """What was decided and done, for the person who reads the output of a job."""
        decision = self.decision
        reasons = "; ".join(decision.reasons)
        if self.outcome == "not advised":
            return f"Retraining is not advised: {'; '.join(decision.against)}. Nothing was trained."
        if self.outcome == "held back":
            return (
                f"Retraining is advised ({reasons}) and held back: {'; '.join(decision.against)}. Nothing was trained."
            )
        if self.gate is None:
            return f"Retraining is advised: {reasons or 'nothing is against it'}. Nothing was trained."
        why = reasons or "no drift or alarm is known"
        model = f"Version {self.version} ({why}) was trained on {self.rows_added} more answers"
        if not self.gate.passed:
            rules = ", ".join(self.gate.failed_rules)
            return f"{model} and is refused by the gate: {rules}. The champion stays; somebody has to look."
        return f"{model}, has passed the gate and is the challenger. Promoting it is a decision: surety promote."


def decide(
    config: ModelConfig,
    settings: Settings,
    *,
    if_drift: bool,
    force: bool,
    unattended: bool = False,
    now: datetime | None = None,
) -> Decision:
    """Whether to train again, and why.

    Parameters
    ----------
    if_drift : only with a reason: drift of the newest answers, skill that was lost, or an alarm that is on
    force : also with something against it
    unattended : answers whose drift cannot be judged are an error. Otherwise they count as not drifted, which a
        schedule must not do: it would never say that a log is not there

    Raises
    ------
    LogDamaged, ArtefactError
        What decides cannot be read.
    DataError, CannotJudge
        Unattended: nothing is live, its log has no inputs, or the newest answers are too few to test any feature.
    """
    drift = _drift(config, settings, must_judge=unattended and not force)
    reasons = _reasons(drift, settings, config.retrain.live_rows)
    moment = now or utc_now()
    last = last_retraining(settings)
    new_labels = _new_labels(settings, last)
    against = []
    if last is not None:
        until = datetime.fromisoformat(last.at) + timedelta(days=config.retrain.cool_down_days)
        if moment < until:
            against.append(f"cool-down until {utc_text(until)}: the last model was trained {last.at}")
    if new_labels < config.retrain.min_new_labels:
        against.append(f"{new_labels} new labels have matured, {config.retrain.min_new_labels} are wanted")
    if if_drift and not reasons:
        against.append("neither drift, nor lost skill, nor an alarm")
    return Decision(force or not against, tuple(reasons), tuple(against), new_labels, drift)


def retrain(
    config: ModelConfig,
    settings: Settings,
    note: Note,
    *,
    if_drift: bool = False,
    force: bool = False,
    unattended: bool = False,
    shadow: bool = False,
    dry_run: bool = False,
) -> Retrained:
    """Decide and, where the decision is to go, train on everything known by now.

    Parameters
    ----------
    if_drift, force, unattended : see ``decide``
    shadow : let the new model score every request beside the champion
    dry_run : decide only

    Raises
    ------
    RetrainBusy
        Another run is at it.
    DataError, CannotJudge, ArtefactError, RegistryError, CalibrationTooSmall
        A step failed; the next run begins where it left off.
    """
    with alone(settings):
        decision = decide(config, settings, if_drift=if_drift, force=force, unattended=unattended)
        if dry_run or not decision.go:
            return Retrained(decision)
        table_version, added, upto = _extend_table(config, settings, note)
        found = train_challenger(config, settings, note, table_version=table_version)
        if found.version is None:
            raise DataError("retraining", "registered nothing")
        registry = ModelRegistry(settings)
        note("judging it")
        gate = validate_deployment(registry, found.version, config, settings)
        done = Retraining(
            at=utc_text(utc_now()),
            outcomes_upto=upto,
            model_version=found.version.version,
            model_hash=found.model_hash,
            reasons=decision.reasons or (("forced",) if force else ("scheduled",)),
        )
        tag = None
        if gate.passed or shadow:
            note("bringing it into the Bento store")
            tag = import_version(registry, found.version, settings).tag
        in_shadow = shadow and tag is not None and start_shadow(settings, tag, f"retrained: {'; '.join(done.reasons)}")
        open_home(settings).documents.save(_name(settings), done)
        facts = {"model": config.model, "table_version": table_version, "rows_added": added, "gate": gate.passed}
        open_home(settings).journal.append("model.retrained", {**facts, **done.model_dump(), "shadow": in_shadow})
    return Retrained(
        decision=decision,
        table_version=table_version,
        rows_added=added,
        version=found.version.version,
        model_hash=found.model_hash,
        is_new=found.is_new,
        gate=gate,
        tag=tag,
        shadow=in_shadow,
        metrics=found.metrics,
    )


def last_retraining(settings: Settings) -> Retraining | None:
    """What retraining registered last; None where it never has."""
    return open_home(settings).documents.load(_name(settings), Retraining)


def _drift(config: ModelConfig, settings: Settings, *, must_judge: bool) -> DriftCheck | None:
    """The newest answers against the champion's reference; None where there are none that can be compared."""
    try:
        live = live_window(settings, config.retrain.live_rows)
        check = check_live(live, config.drift)
    except DataError:
        if must_judge:
            raise
        return None
    if must_judge and not check.features_tested:
        raise CannotJudge("drift", f"{live.rows} answers of {live.reference.tag} test no feature; 30 values are needed")
    return check


def _reasons(drift: DriftCheck | None, settings: Settings, rows: int) -> list[str]:
    reasons = []
    if drift is not None and drift.retrain_advised:
        names = ", ".join(report.feature for report in drift.features if report.drifted)
        reasons.append(f"drift: {names or 'no feature'} ({'; '.join(drift.reasons)})")
    lost = lost_skill(settings, rows)
    if lost is not None:
        reasons.append(lost)
    view = MonitorView(settings)
    view.look()
    if view.state is not None:
        champion = _champion_hash(settings)
        health = view.state.models.get(champion) if champion is not None else None
        reasons += [f"alarm {alarm.reason}" for alarm in (health.alarms if health is not None else ())]
    return reasons


def _champion_hash(settings: Settings) -> str | None:
    return next((m.model_hash for m in HealthMonitor(settings).live_models() if m.slot == "champion"), None)


def _new_labels(settings: Settings, last: Retraining | None) -> int:
    with Ledger.reading(open_ledger_tables(settings, settings.model_name)) as ledger:
        return 0 if ledger is None else ledger.count_matured(0 if last is None else last.outcomes_upto)[0]


def _extend_table(config: ModelConfig, settings: Settings, note: Note) -> tuple[int, int, int]:
    """Delta version with every matured answer, how many were added, and the number of the last one."""
    store = FeatureStore.of(settings, config.model)
    name = config.feature_version
    upto = store.extended_upto(name)
    beside = columns_beside(config.conformal.groups, get_feature_version(name).columns)
    found = new_rows(settings, name, upto, beside)
    if found.without_input:
        note(f"{found.without_input} labelled answers are left out: the log keeps no input of them")
    if not len(found.frame):
        return store.latest(name), 0, upto
    version = store.extend(name, found.frame, found.upto, beside)
    note(f"{len(found.frame)} matured answers are in the training table, version {version}")
    return version, len(found.frame), found.upto


def start_shadow(settings: Settings, tag: str, why: str) -> bool:
    """Let a challenger score every request beside the champion; False where nothing is live."""
    store = RolloutStore(settings)
    state = store.read()
    if state is None or (state.challenger == tag and state.mode == "shadow"):
        return state is not None
    store.change(changes.shadow(tag), why=why)
    return True


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Keep a second run that makes a challenger of the same model out; ``RetrainBusy`` where one is at it."""
    seat = open_home(settings).seat(f"retrain/{settings.model_name}")
    if not seat.take():
        raise RetrainBusy(settings.model_name)
    try:
        yield
    finally:
        seat.leave()


def _name(settings: Settings) -> str:
    return f"retrain/{settings.model_name}.json"
