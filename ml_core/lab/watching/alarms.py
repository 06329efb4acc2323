"""What the ledger keeps of a live model besides its answers: coverage target, detectors, and alarms in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from ml_core.base.clock import microseconds, utc_text
from ml_core.lab.drift.sequential import DriftState
from ml_core.lab.measuring.coverage_detector import DetectorState, block_for, highest_miss_rate, update
from ml_core.lab.measuring.coverage_law import DesignEffects
from ml_core.lab.measuring.live_coverage import CoverageTarget
from ml_core.lab.watching.ledger import Ledger, MaturedRow
from ml_core.serve.model.promotion_record import GateReport
from ml_core.serve.rollout.monitor_state import Alarm

__all__ = [
    "DRIFT",
    "GATE",
    "COVERAGE",
    "acknowledge_gate",
    "alarms_of",
    "confidence_of",
    "coverage_lately",
    "feed_coverage",
    "gate_alarm",
    "held_alarms",
    "hold",
    "is_refused",
    "keep_target",
    "mark_announced",
    "restart_detector",
    "started_hour",
    "targets_of",
    "unannounced",
]

DRIFT, GATE = "drift", "gate"
COVERAGE = "coverage:"
"""With a label behind it the name of a coverage detector and its alarm."""
_LATEST_ANSWERS = 500
_ANNOUNCED, _REFUSED, _REFUSED_SEEN = "told:", "refused:", "refused-seen:"
_HELD, _STARTED = "held:", "started:"


def keep_target(ledger: Ledger, facts: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Keep the coverage target of a calibration, when its first answer matures.

    Parameters
    ----------
    facts : lineage of the answer
    metrics : of the model's manifest; without design effects in them, every calibration row counts as a patient
    """
    effects = [metrics.get(f"calibration_effect_class_{label}") for label in facts["classes"]]
    ledger.remember(
        _target_key(facts["model_hash"], facts["calibration_id"]),
        {
            "classes": facts["classes"],
            "sizes": facts["calibration_sizes"],
            "level": facts["level"],
            "training_conditional": facts.get("training_conditional"),
            "guarantee": facts["guarantee"],
            "marginal_effect": metrics.get("calibration_effect"),
            "effects": None if None in effects else effects,
        },
    )


def targets_of(ledger: Ledger, model_hash: str) -> dict[str, CoverageTarget]:
    """The coverage targets of a model by calibration id: of its own one or, by group, of each cell's; of fallbacks'."""
    start = _target_key(model_hash, "")
    return {name.removeprefix(start): _target(kept) for name, kept in ledger.facts(start)}


def _target(kept: Mapping[str, Any]) -> CoverageTarget:
    effects = None
    if kept["effects"] is not None and kept["marginal_effect"] is not None:
        effects = DesignEffects(kept["marginal_effect"], tuple(kept["effects"]))
    return CoverageTarget(
        classes=tuple(kept["classes"]),
        sizes=tuple(kept["sizes"]),
        level=Decimal(kept["level"]),
        confidence=confidence_of(kept),
        guarantee=kept["guarantee"],
        effects=effects,
    )


def confidence_of(facts: Mapping[str, Any]) -> Decimal | None:
    """The confidence over calibrations of a model's promise, from its lineage or what the ledger keeps of it."""
    found = facts.get("training_conditional")
    return None if found is None else Decimal(found)


def feed_coverage(
    ledger: Ledger,
    facts: Mapping[str, Any],
    rows: Sequence[MaturedRow],
    metrics: Mapping[str, float],
    threshold: float,
    now: datetime,
) -> None:
    """Feed matured answers to the detectors of their calibration: one per class, or one for a marginal guarantee.

    Parameters
    ----------
    facts : lineage of the answers; where groups are calibrated, with the fewest rows of any cell
    rows : of the whole model, in the order in which they are to count
    metrics : of the model's manifest, with the design effects of its calibration rows; empty if unknown
    threshold : smallest mean number of labels between false alarms
    """
    model_hash = facts["model_hash"]
    known = ledger.detectors(model_hash)
    for name, new, wanted in _streams(facts, metrics, threshold):
        misses = [bool(row.missed) for row in rows if row.missed is not None and row.label in wanted]
        if not misses:
            continue
        state, since = known.get(name, (None, None))
        before = new if state is None else DetectorState(**state)
        after = update(before, misses)
        if after.is_alarmed and since is None:
            since = utc_text(now)
        ledger.keep_detector(model_hash, name, asdict(after), since)
        ledger.add_evidence(model_hash, name, microseconds(now), after.total_evidence)


def alarms_of(ledger: Ledger, model_hash: str) -> tuple[Alarm, ...]:
    """The alarms of a model that are on; not those that are held."""
    found, held = [], held_alarms(ledger, model_hash)
    for name, (state, since) in ledger.detectors(model_hash).items():
        if since is None or name in held:
            continue
        if name == DRIFT:
            found.append(_drift_alarm(DriftState(**state), since))
        else:
            label = name.removeprefix(COVERAGE)
            lately = coverage_lately(ledger, model_hash, None if label == "all" else label)
            found.append(_coverage_alarm(name, DetectorState(**state), since, lately))
    return tuple(found)


def hold(ledger: Ledger, model_hash: str, names: Sequence[str]) -> None:
    """Hold these alarms of a model, and no others: their evidence is of outcomes that depend on the set."""
    ledger.remember(f"{_HELD}{model_hash}", list(names))


def held_alarms(ledger: Ledger, model_hash: str) -> tuple[str, ...]:
    """Names of the alarms of a model that were held at the monitor's last look."""
    return tuple(ledger.fact(f"{_HELD}{model_hash}", ()))


def restart_detector(ledger: Ledger, model_hash: str, name: str) -> None:
    """Let a detector begin anew, which switches its alarm off."""
    ledger.forget_detector(model_hash, name)
    ledger.remember(f"{_STARTED}{model_hash}:{name}", ledger.outcomes.last_hour(model_hash) + 1)


def started_hour(ledger: Ledger, model_hash: str, name: str) -> int:
    """Hour, since 1970, of the first answers that a detector can have seen since it began."""
    return int(ledger.fact(f"{_STARTED}{model_hash}:{name}", 0))


def coverage_lately(ledger: Ledger, model_hash: str, label: str | None) -> tuple[int, int]:
    """Misses among the latest matured answers (at most 500) with that label, or any, and how many they are."""
    return ledger.latest_misses(model_hash, label, _LATEST_ANSWERS)


def gate_alarm(ledger: Ledger, model_hash: str, verdict: GateReport | None) -> tuple[Alarm, ...]:
    """The alarm of a live model whose newest verdict is no, unless somebody has acknowledged that very verdict."""
    since = None if verdict is None or verdict.passed else verdict.judged_at
    ledger.remember(f"{_REFUSED}{model_hash}", since)
    if verdict is None or since is None or ledger.fact(f"{_REFUSED_SEEN}{model_hash}") == since:
        return ()
    says = f"the gate judged this model again and said no: {', '.join(verdict.failed_rules)}"
    return (Alarm(reason=GATE, since=since, says=says, false_alarm="none: it is a decision, not an estimate"),)


def acknowledge_gate(ledger: Ledger, model_hash: str) -> None:
    """Switch the alarm off until the gate says no once more."""
    ledger.remember(f"{_REFUSED_SEEN}{model_hash}", ledger.fact(f"{_REFUSED}{model_hash}"))


def is_refused(ledger: Ledger, model_hash: str) -> bool:
    """Whether the gate's alarm was on at the monitor's last look, and nobody has acknowledged it since."""
    since = ledger.fact(f"{_REFUSED}{model_hash}")
    return since is not None and ledger.fact(f"{_REFUSED_SEEN}{model_hash}") != since


def unannounced(ledger: Ledger, model_hash: str, found: Sequence[Alarm]) -> tuple[Alarm, ...]:
    """The alarms that have not been announced yet. An alarm that was acknowledged and raised again is a new one."""
    known = ledger.fact(f"{_ANNOUNCED}{model_hash}", {})
    return tuple(alarm for alarm in found if known.get(alarm.reason) != alarm.since)


def mark_announced(ledger: Ledger, model_hash: str, found: Sequence[Alarm]) -> None:
    """Remember that these alarms have been announced."""
    known = ledger.fact(f"{_ANNOUNCED}{model_hash}", {})
    ledger.remember(f"{_ANNOUNCED}{model_hash}", {**known, **{alarm.reason: alarm.since for alarm in found}})


def _streams(
    facts: Mapping[str, Any], metrics: Mapping[str, float], threshold: float
) -> list[tuple[str, DetectorState, tuple[int | str, ...]]]:
    """Name, first state and labels of each detector."""
    classes, sizes, level = facts["classes"], facts["calibration_sizes"], Decimal(facts["level"])
    if facts["guarantee"] == "marginal":
        mu0 = highest_miss_rate(sizes[0], level, metrics.get("calibration_effect", 1.0), confidence_of(facts))
        return [(f"{COVERAGE}all", DetectorState(mu0, threshold), tuple(classes))]
    found: list[tuple[str, DetectorState, tuple[int | str, ...]]] = []
    for label, size in zip(classes, sizes, strict=True):
        effect = metrics.get(f"calibration_effect_class_{label}", 1.0)
        mu0 = highest_miss_rate(size, level, effect, confidence_of(facts))
        new = DetectorState(mu0, threshold, block=block_for(size / max(1, sum(sizes))))
        found.append((f"{COVERAGE}{label}", new, (label,)))
    return found


def _coverage_alarm(name: str, state: DetectorState, since: str, lately: tuple[int, int]) -> Alarm:
    label = name.removeprefix(COVERAGE)
    which = "answers" if label == "all" else f"answers with label {label}"
    blocks, ratio = f"blocks of {state.block} labels", f"{state.variance_ratio:.1f} times as much as unrelated ones"
    return Alarm(
        reason=name,
        since=since,
        says=f"the sets of {lately[0]} of the latest {lately[1]} {which} miss their label ({state.misses} of all "
        f"{state.labels}); a miss rate of {state.mu0:.1%} does not explain this, judged in {blocks} in the order of "
        f"their answers (runs of blocks vary {ratio}; this is allowed for)",
        false_alarm=f"at most once in {state.threshold:,.0f} labels on average while none of the {blocks} is expected "
        "to miss more, whatever came before it; many alike rows one after another can raise it, too",
    )


def _drift_alarm(state: DriftState, since: str) -> Alarm:
    # a detector of an earlier version knows neither blocks nor columns
    blocks = f", in blocks of {state.block_rows:,} answers," if state.block_rows else ""
    which = f"; most of the evidence lies in {', '.join(state.leading)}" if state.leading else ""
    within = f", if no more than {state.block_rows:,} answers come together (a batch, the rows of one subject)"
    return Alarm(
        reason=DRIFT,
        since=since,
        says=f"inputs{blocks} no longer look like the data the model was trained on (alarm at window {state.alarm_at})"
        f"{which}",
        false_alarm=f"at most once in {state.threshold:,.0f} windows on average while inputs do not change"
        f"{within if state.block_rows else ''}",
    )


def _target_key(model_hash: str, calibration_id: str) -> str:
    return f"promise:{model_hash}:{calibration_id}"
