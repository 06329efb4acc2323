"""Every Prometheus metric of ours, declared once. Counters sum over workers; gauges say how they come together."""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import Counter, Gauge, multiprocess

__all__ = [
    "ABANDONED",
    "ALARM",
    "CANARY_HELD",
    "CIRCUITS",
    "CIRCUIT_CALLS",
    "CIRCUIT_TRANSITIONS",
    "HOME_FAILURES",
    "HOME_FREE",
    "HOME_SIZE",
    "LABELS",
    "LABELS_IMPORTED",
    "LOG_PENDING",
    "LOG_PROBLEM",
    "LOG_ROWS",
    "LOG_UNSHIPPED",
    "LOG_UNSHIPPED_AGE",
    "LOG_UNSHIPPED_BYTES",
    "MONITOR_AGE",
    "REFUSED",
    "ROLLBACKS",
    "ROLLOUT_GENERATION",
    "ROLLOUT_PROBLEM",
    "SHADOW",
    "STUCK",
    "VALIDITY",
    "WORKERS",
    "WORKERS_EXPECTED",
    "answer_counter",
    "forget_process",
]

_MODEL = ("model_name", "model_version")

_ANSWERS = Counter(
    "surety_answers",
    "Answers by the model and slot that gave them; fallback_reason is empty for ordinary ones.",
    (*_MODEL, "slot", "fallback_reason"),
)
REFUSED = Counter("surety_refused", "Requests that got an error instead of an answer, by its code.", ("code",))
CIRCUITS = Gauge(
    "surety_circuits",
    "Workers whose circuit of a model is in a state.",
    (*_MODEL, "state"),
    multiprocess_mode="livesum",
)
CIRCUIT_TRANSITIONS = Counter(
    "surety_circuit_transitions", "Changes of a circuit's state.", (*_MODEL, "before", "after", "reason")
)
CIRCUIT_CALLS = Counter(
    "surety_circuit_calls",
    "Calls of a model by outcome: success, failure, ignored, late (came back after its time), rejected, slow.",
    (*_MODEL, "outcome"),
)
ABANDONED = Counter("surety_abandoned_calls", "Model calls that were still running when their deadline passed.", _MODEL)
STUCK = Gauge("surety_stuck_threads", "Threads held by abandoned calls.", _MODEL, multiprocess_mode="livesum")
SHADOW = Counter(
    "surety_shadow",
    "Shadow scoring by outcome: scored, dropped, failed, agreed (same prediction), same_set.",
    (*_MODEL, "outcome"),
)
WORKERS = Gauge("surety_workers", "Processes that reported lately, by role.", ("role",), multiprocess_mode="mostrecent")
WORKERS_EXPECTED = Gauge(
    "surety_workers_expected", "Processes there should be, by role.", ("role",), multiprocess_mode="mostrecent"
)
ROLLOUT_GENERATION = Gauge(
    "surety_rollout_generation",
    "Oldest generation of the rollout that a worker obeys.",
    ("model_name",),  # as above
    multiprocess_mode="livemin",
)
ROLLOUT_PROBLEM = Gauge(
    "surety_rollout_problem", "Workers that cannot do what the rollout says.", multiprocess_mode="livesum"
)
CANARY_HELD = Gauge(
    "surety_canary_held",
    "Workers whose champion answers the canary's share, because the monitor is silent.",
    ("model_name",),
    multiprocess_mode="livesum",
)
ROLLBACKS = Gauge(
    "surety_rollbacks",
    "Canaries that were taken back, by the guard that tripped.",
    ("model_name", "guard"),
    multiprocess_mode="mostrecent",
)

LOG_ROWS = Counter(
    "surety_log_rows",
    "Answers by what became of them in the prediction log: stored, lost, refused (strict mode gave no answer), "
    "unanswered (stored after strict mode had given up).",
    ("outcome",),
)
LOG_PENDING = Gauge("surety_log_pending", "Answers given whose rows wait to be stored.", multiprocess_mode="livesum")
LOG_PROBLEM = Gauge("surety_log_problem", "Workers that cannot store answers at present.", multiprocess_mode="livesum")
LOG_UNSHIPPED = Gauge(
    "surety_log_unshipped",
    "Rows of the prediction log that wait on this machine for the database of the home; a bulk call is one.",
    multiprocess_mode="livesum",
)
LOG_UNSHIPPED_BYTES = Gauge(
    "surety_log_unshipped_bytes", "Bytes of the files that those rows lie in.", multiprocess_mode="livesum"
)
LOG_UNSHIPPED_AGE = Gauge(
    "surety_log_unshipped_age_seconds",
    "Longest time that one of those rows has waited, at most.",
    multiprocess_mode="livemax",
)
VALIDITY = Gauge(
    "surety_validity",
    "1 for what answers of a live model say of themselves: valid, suspect, unverified or unmonitored.",
    (*_MODEL, "validity"),
    multiprocess_mode="livemax",
)
ALARM = Gauge(
    "surety_alarm",
    "1 while an alarm of the monitor is on for a live model, by its reason.",
    (*_MODEL, "reason"),
    multiprocess_mode="livemax",
)
HEALTH = {
    name: Gauge(f"surety_{name}", says, (*_MODEL, "label", "group"), multiprocess_mode="livemax")
    for name, says in {
        "live_coverage": "Share of the latest matured answers (at most 500) whose set held its label, by class label.",
        "live_coverage_answers": "Matured answers behind surety_live_coverage.",
        "due_answers": "Latest own answers of a model (about 1,000) whose outcome should be known by now.",
        "missing_outcomes": "Those of surety_due_answers whose outcome has not come.",
        "lowest_coverage": "Smallest share covered of surety_due_answers that their missing outcomes leave possible, "
        "by class label.",
        "highest_coverage": "Largest share covered of surety_due_answers that their missing outcomes leave possible, "
        "by class label.",
        "weighted_coverage": "Share covered of surety_due_answers by class label, if outcomes are missing at random "
        "given the set and the predicted class.",
        "expected_answers": "Answers of the latest days, about 1,000 or one day, behind the surety_expected_* gauges.",
        "expected_auc": "Area under the ROC curve that the labels of the latest answers are expected to show.",
        "expected_auc_error": "Standard error of what they will show around surety_expected_auc.",
        "expected_brier": "Brier score that the labels of the latest answers are expected to show.",
        "expected_brier_error": "Standard error of what they will show around surety_expected_brier.",
        "expected_coverage": "Coverage that the labels of the latest answers are expected to show, by class label.",
        "expected_coverage_error": "Standard error of what they will show around surety_expected_coverage.",
        "group_coverage": "Share of the latest matured answers (at most 5,000 of the model) whose set held its label, "
        "by class label and declared group; not of fewer than 10 subjects.",
        "group_coverage_answers": "Matured answers behind surety_group_coverage.",
        "group_coverage_lowest": "Coverage below which surety_group_coverage seldom lies (1 in 100) by chance.",
        "group_returned": "Share of surety_due_answers whose outcome has come, by declared group, in whole percents; "
        "not of fewer than 10 answers.",
        "calibration_slope": "Calibration slope of the latest matured answers (at most 5,000), overall and by declared "
        "group: 1 is right, less means that probabilities are too extreme.",
        "calibration_slope_error": "Standard error of surety_calibration_slope.",
    }.items()
}
"""What the monitor measures of a model, by the name of its figure; NaN once it is no longer measured."""
MONITOR_AGE = Gauge(
    "surety_monitor_age_seconds",
    "Seconds since the monitor published; -1 where it never has since the system started.",
    ("model_name",),  # without a label a process that only imports this, such as the runner, would join in with 0
    multiprocess_mode="livemax",
)
LABELS = Counter(
    "surety_labels",
    "Labels sent over HTTP, by outcome: accepted, duplicate, conflict, unknown, refused, over_limit.",
    ("outcome",),
)
LABELS_IMPORTED = Gauge(
    "surety_labels_imported",
    "Labels that `surety labels import` has ever brought in, by outcome as above.",
    ("outcome",),
    multiprocess_mode="mostrecent",
)

HOME_FAILURES = Counter(
    "surety_home_failures",
    "Times that a file in SURETY_HOME could not be read or written, by what was tried.",
    ("what",),
)

HOME_FREE = Gauge(
    "surety_home_free_bytes",
    "Room on the disk of SURETY_HOME that the service may still use.",
    ("model_name",),
    multiprocess_mode="livemin",
)
HOME_SIZE = Gauge(
    "surety_home_size_bytes", "Size of the disk of SURETY_HOME.", ("model_name",), multiprocess_mode="livemax"
)


def answer_counter(model_name: str, model_version: str, slot: str, fallback_reason: str) -> Callable[[float], None]:
    """What counts answers of that kind; kept by the caller, since looking it up costs more than counting."""
    child = _ANSWERS.labels(model_name, model_version, slot, fallback_reason)
    count: Callable[[float], None] = child.inc
    return count


def forget_process(pid: int) -> None:
    """Leave a lost process out of the gauges that speak of living ones."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
