"""Detectors of a model in the ledger, and the alarms that they raise, in words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from ml_core.base.clock import microseconds, utc_text
from ml_core.lab.drift.sequential import DriftState
from ml_core.lab.measuring.live_coverage import DetectorState, highest_miss_rate, start_detector, update
from ml_core.lab.watching.ledger import Ledger, MaturedRow
from ml_core.serve.rollout.monitor_state import Alarm

__all__ = ["DRIFT", "alarms_of", "coverage_detector", "drift_detector", "feed_coverage", "keep_told", "untold"]

DRIFT = "drift"
_COVERAGE = "coverage:"
_LATELY, _NAMED = 500, 6
_TOLD = "told:"


def coverage_detector(state: Mapping[str, Any]) -> DetectorState:
    """A detector as the ledger keeps it."""
    return DetectorState(**{**state, "evidence": tuple(state["evidence"])})


def drift_detector(state: Mapping[str, Any]) -> DriftState:
    """The drift detector as the ledger keeps it."""
    return DriftState(**state)


def feed_coverage(
    ledger: Ledger,
    facts: Mapping[str, Any],
    rows: Sequence[MaturedRow],
    metrics: Mapping[str, float],
    threshold: float,
    now: datetime,
) -> None:
    """Feed matured answers of one calibration to its detectors: one per class, or one where the promise is marginal.

    Parameters
    ----------
    facts : of the answers' lineage
    metrics : of the model's manifest, for the design effects of its calibration rows; empty where they are not known
    threshold : mean number of labels to a false alarm, at least
    """
    model_hash = facts["model_hash"]
    known = ledger.detectors(model_hash)
    for name, size, effect, wanted in _streams(facts, metrics):
        misses = [bool(row.missed) for row in rows if row.missed is not None and row.label in wanted]
        if not misses:
            continue
        state, since = known.get(name, (None, None))
        before = (
            start_detector(highest_miss_rate(size, Decimal(facts["level"]), effect), threshold)
            if state is None
            else coverage_detector(state)
        )
        after = update(before, misses)
        if after.is_alarmed and since is None:
            since = utc_text(now)
        ledger.keep_detector(model_hash, name, asdict(after), since)
        ledger.add_evidence(model_hash, name, microseconds(now), after.total_evidence)


def alarms_of(ledger: Ledger, model_hash: str) -> tuple[Alarm, ...]:
    """The alarms that are on for a model."""
    found = []
    for name, (state, since) in ledger.detectors(model_hash).items():
        if since is None:
            continue
        if name == DRIFT:
            found.append(_drift_alarm(drift_detector(state), since, _drifted_lately(ledger, model_hash)))
        else:
            label = name.removeprefix(_COVERAGE)
            lately = ledger.latest_misses(model_hash, None if label == "all" else label, _LATELY)
            found.append(_coverage_alarm(name, coverage_detector(state), since, lately))
    return tuple(found)


def untold(ledger: Ledger, model_hash: str, found: Sequence[Alarm]) -> tuple[Alarm, ...]:
    """Those of the alarms that are on which nobody has been told of; one that went off again is another."""
    told = ledger.fact(f"{_TOLD}{model_hash}", {})
    return tuple(alarm for alarm in found if told.get(alarm.reason) != alarm.since)


def keep_told(ledger: Ledger, model_hash: str, found: Sequence[Alarm]) -> None:
    """Keep that these alarms were told."""
    told = ledger.fact(f"{_TOLD}{model_hash}", {})
    ledger.remember(f"{_TOLD}{model_hash}", {**told, **{alarm.reason: alarm.since for alarm in found}})


def _streams(
    facts: Mapping[str, Any], metrics: Mapping[str, float]
) -> list[tuple[str, int, float, tuple[int | str, ...]]]:
    """Name, calibration rows, design effect and labels of each detector."""
    classes, sizes = facts["classes"], facts["calibration_sizes"]
    if facts["guarantee"] == "marginal":
        return [(f"{_COVERAGE}all", sizes[0], metrics.get("calibration_effect", 1.0), tuple(classes))]
    return [
        (f"{_COVERAGE}{label}", size, metrics.get(f"calibration_effect_class_{label}", 1.0), (label,))
        for label, size in zip(classes, sizes, strict=True)
    ]


def _drifted_lately(ledger: Ledger, model_hash: str) -> list[str]:
    """Features that drifted in the newest window."""
    newest = ledger.windows(model_hash, 1)
    return [report["feature"] for window in newest for report in window["reports"]["features"] if report["drifted"]]


def _coverage_alarm(name: str, state: DetectorState, since: str, lately: tuple[int, int]) -> Alarm:
    label = name.removeprefix(_COVERAGE)
    whose = "answers" if label == "all" else f"answers whose outcome was {label}"
    return Alarm(
        reason=name,
        since=since,
        says=f"of the latest {lately[1]} {whose}, {lately[0]} did not have it in their set, of all {state.labels} "
        f"{state.misses}; a miss rate of {state.mu0:.1%} does not explain the run",
        false_alarm=f"at most once in {state.threshold:,.0f} labels on average while the promise is kept",
    )


def _drift_alarm(state: DriftState, since: str, names: Sequence[str]) -> Alarm:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    which = f"; in the newest window: {', '.join(names[:_NAMED])}{more}" if names else ""
    return Alarm(
        reason=DRIFT,
        since=since,
        says=f"what is asked is no longer like what the model was trained on (alarm at window {state.alarm_at}){which}",
        false_alarm=f"at most once in {state.threshold:,.0f} windows on average while nothing has changed",
    )
