"""The monitor: canary guards, matured outcomes, detectors, alarms."""

__all__ = [
    "alarms",
    "calibration_facts",
    "canary_guards",
    "canary_monitor",
    "health_monitor",
    "ledger",
    "live_performance",
    "live_window",
    "next_step",
]
