"""Measures of a model: calibration, coverage, discrimination, their sampling error."""

__all__ = [
    "calibration",
    "cell_measures",
    "comparison",
    "coverage_detector",
    "coverage_law",
    "coverage_plan",
    "coverage_power",
    "coverage_verdicts",
    "evaluation",
    "expected_performance",
    "group_coverage",
    "live_coverage",
    "metric_ranges",
    "performance",
    "reliability",
    "returned_outcomes",
    "sensitivity_threshold",
    "weighted_coverage",
]
