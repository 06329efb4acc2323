"""The monitor: canary guards, matured answers, detectors, alarms."""

__all__ = [
    "alarms",
    "canary_guards",
    "canary_monitor",
    "due_outcomes",
    "health_monitor",
    "ledger",
    "live_drift",
    "live_expectations",
    "live_performance",
    "matured_arrays",
    "model_status",
    "outcomes_by_group",
]
