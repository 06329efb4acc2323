"""What a coverage rule can see: how likely it refuses a class of a given true coverage, by exact binomial laws."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

from scipy.stats import beta, binom

__all__ = ["NOTICED_WITH", "PROOF_CONFIDENCE", "RulePower", "coverage_proof", "power_of_limit", "power_of_proof"]

NOTICED_WITH = 0.80
"""Chance with which a rule refuses what it is said to notice."""

PROOF_CONFIDENCE = 0.95
"""Confidence of the lower bound that must exceed the floor where coverage has to be proved."""


@dataclass(frozen=True, slots=True)
class RulePower:
    """A rule that passes where at least ``needed`` of ``rows`` independent test rows are covered.

    Given the true coverage of a calibration, the number covered is binomial. Rows of repeated patients count as the
    independent rows they are worth.

    Examples
    --------
    >>> rule = power_of_limit(0.865, 1_000)
    >>> round(rule.refused(0.87), 2), round(rule.noticed, 3)
    (0.3, 0.855)
    """

    needed: int
    rows: int

    def refused(self, true: float) -> float:
        """Chance to refuse a class whose sets truly cover that share of it."""
        return float(binom.cdf(self.needed - 1, self.rows, true)) if self.rows else 1.0

    @property
    def noticed(self) -> float:
        """The largest true coverage that is refused with a chance of ``NOTICED_WITH``; 0 where the rule never refuses.

        The binomial tail is a beta integral, so it is a quantile of Beta(needed, rows - needed + 1).
        """
        if not 0 < self.needed <= self.rows:
            return 0.0 if self.needed <= 0 else 1.0
        return float(beta.isf(NOTICED_WITH, self.needed, self.rows - self.needed + 1))


def power_of_limit(limit: float, rows: int) -> RulePower:
    """The rule "coverage is at least ``limit``" on that many independent test rows."""
    return RulePower(ceil(limit * rows - 1e-9), rows)  # a limit is often a share of these very rows


def power_of_proof(floor_: float, rows: int) -> RulePower:
    """The rule "the lower bound of :func:`coverage_proof` exceeds ``floor_``" on that many independent test rows."""
    if floor_ <= 0.0:
        return RulePower(1, rows)
    # the smallest x with P(Binomial(rows, floor) >= x) below the tail
    return RulePower(int(binom.isf(1.0 - PROOF_CONFIDENCE, rows, min(floor_, 1.0))) + 1, rows)


def coverage_proof(coverage: float, rows: int) -> float:
    """Lower confidence bound of the true coverage, at ``PROOF_CONFIDENCE``.

    A class whose true coverage is the bound or less shows so much coverage with a chance of 5 % at most.

    Parameters
    ----------
    coverage : share covered of the test rows
    rows : independent test rows they are worth; the number covered is rounded down to whole rows of these

    References
    ----------
    Clopper & Pearson (1934), Biometrika 26:404.

    Examples
    --------
    >>> round(coverage_proof(0.9, 1_000), 3)
    0.883
    """
    covered = floor(coverage * rows + 1e-9)
    return float(beta.ppf(1.0 - PROOF_CONFIDENCE, covered, rows - covered + 1)) if covered else 0.0
