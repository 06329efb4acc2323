"""Statistics of two windows of rows: distances, tests, rules, a sequential detector."""

__all__ = [
    "block_means",
    "current_window",
    "detect",
    "drift_check",
    "drift_report",
    "drift_table",
    "reference_window",
    "sequential",
]
