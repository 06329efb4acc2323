"""Verdicts of the measuring room in one word, as the gate's rules read them."""

from __future__ import annotations

from collections.abc import Sequence

from ml_core.lab.judging.rule_verdicts import coverage_ceiling_rules, coverage_floor_rules
from ml_core.lab.measuring.comparison import UnseenVerdict
from ml_core.lab.measuring.coverage_law import Band, CoverageLaw, effective_size
from ml_core.lab.measuring.coverage_verdicts import CoverageOf, SameLawVerdict
from ml_core.lab.measuring.live_coverage import CoverageBand

__all__ = ["above_band", "beta_binomial_band", "below_band", "is_covered", "is_plausible", "is_same", "is_unseen"]


def is_covered(rows: Sequence[CoverageOf]) -> bool:
    """No coverage is below its limit."""
    return all(rule.passed for rule in coverage_floor_rules(rows))


def is_plausible(rows: Sequence[CoverageOf]) -> bool:
    """No coverage is above what chance explains."""
    return all(rule.passed for rule in coverage_ceiling_rules(rows))


def is_same(verdict: SameLawVerdict) -> bool:
    """No class shows that its calibration scores follow another law than the scores of the test rows."""
    return all(p is None or p >= verdict.tail for p in verdict.p_values)


def is_unseen(verdict: UnseenVerdict) -> bool:
    """Nothing shows that the model has seen the test rows."""
    return verdict.p_value > verdict.tail


def below_band(band: CoverageBand) -> bool:
    """Fewer rows are covered than chance explains."""
    return band.inside is False and band.observed is not None and band.observed < band.lower


def above_band(band: CoverageBand) -> bool:
    """More rows are covered than chance explains."""
    return band.inside is False and band.observed is not None and band.observed > band.upper


def beta_binomial_band(
    n_calibration: int, n_test: int, level, tail: float, calibration_effect: float = 1.0, test_effect: float = 1.0
) -> Band:
    """Limits for the share covered of ``n_test`` rows, given ``n_calibration`` rows of the same class."""
    law = CoverageLaw.of(n_calibration, level, calibration_effect)
    return law.band(effective_size(n_test, test_effect), tail)
