"""A sequential drift detector: its mean time to a false alarm is chosen beforehand, however long it runs.

A rule with a fixed level raises a false alarm sooner or later; 52 weekly checks make one likely. Here every window
gives one p-value, and the p-value gives one e-value, whose mean is at most 1 while nothing drifts. The evidence is a
sum over all possible first windows of a drift, so that a late drift is found as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, log

from ml_core.lab.drift.drift_report import DriftReport

__all__ = ["DriftState", "e_value", "update_drift", "window_p"]

_MOST_E = 1e12  # larger bets are cut to it, which keeps the guarantee and keeps the evidence finite
_NEAR_ONE = 1e-3


@dataclass(frozen=True, slots=True)
class DriftState:
    """All that the detector remembers.

    ``DriftState(**json.loads(json.dumps(asdict(state))))`` is the same to the bit.

    Attributes
    ----------
    threshold : evidence from which it alarms, in windows
    evidence : >= 0; where it stood at the alarm once there was one
    windows : windows seen, also after the alarm
    alarm_at : number of the window that raised the alarm, 1 for the first; None without alarm
    """

    threshold: float
    evidence: float = 0.0
    windows: int = 0
    alarm_at: int | None = None

    def __post_init__(self) -> None:
        if not 1.0 < self.threshold < 1e300:  # the evidence must stay a finite number
            raise ValueError(f"threshold {self.threshold}, expected a number of windows above 1")
        if not (isfinite(self.evidence) and self.evidence >= 0.0):
            raise ValueError(f"evidence {self.evidence}, expected a number of 0 or more")
        if self.alarm_at is not None and not 1 <= self.alarm_at <= self.windows:
            raise ValueError(f"alarm at window {self.alarm_at} of {self.windows}")

    @property
    def is_alarmed(self) -> bool:
        """There was an alarm. It stays until a new detector starts."""
        return self.alarm_at is not None


def update_drift(state: DriftState, p_value: float) -> DriftState:
    """The state after one more window: evidence S becomes ``(S + 1) e``, and raises the alarm at the threshold.

    While nothing drifts each e has a mean of at most 1 given the windows before, so ``S - windows`` does not rise on
    average (an e-detector of Shiryaev-Roberts form): the mean number of windows to a false alarm is at least the
    threshold, and a false alarm within T windows has at most the chance T / threshold, however long it runs.

    The promise asks for windows that share no row, and for a p-value that holds given the windows before. One reference
    of n rows for all windows breaks the second a little: where it is off by chance, it is off for all of them. Take
    windows of at most n / 10 rows. The reference then adds a tenth to the variance of a distance, which the p-value
    knows of, and in simulation (10,000 rows against windows of 1,000, see the statistical suite) the rate of false
    alarms stays far below what is stated, because only large effects count at all.

    Parameters
    ----------
    p_value : of the newest window, in [0, 1]; see ``window_p``

    Raises
    ------
    ValueError
        The p-value lies outside [0, 1] or is NaN.

    References
    ----------
    Shin, Ramdas & Rinaldo (2024), E-detectors: a nonparametric framework for sequential change detection, New England
    Journal of Statistics in Data Science 2(2), 229-260.

    Examples
    --------
    >>> state = DriftState(1000.0)
    >>> for p in (1.0, 0.4, 1e-9, 1e-9):
    ...     state = update_drift(state, p)
    >>> (state.windows, state.alarm_at)
    (4, 3)
    """
    windows = state.windows + 1
    bet = e_value(p_value)
    if state.is_alarmed:  # resting: left to grow, the evidence would leave the range of floats
        return replace(state, windows=windows)
    evidence = (state.evidence + 1.0) * bet
    return DriftState(state.threshold, evidence, windows, windows if evidence >= state.threshold else None)


def e_value(p_value: float) -> float:
    """The e-value of a p-value: the mean of ``k p^(k-1)`` over all k in (0, 1), which integrates to 1 over p.

    ``(1 - p + p log p) / (p log(p)^2)``: 0.5 at p = 1, 1 at p = 0.17, 21 at 0.001; larger p give smaller e.

    Raises
    ------
    ValueError
        The p-value lies outside [0, 1] or is NaN.

    References
    ----------
    Vovk & Wang (2021), E-values: calibration, combination and applications, Annals of Statistics 49(3), 1736-1754.

    Examples
    --------
    >>> round(e_value(1.0), 3), round(e_value(0.05), 2), round(e_value(0.001), 1)
    (0.5, 1.78, 20.8)
    """
    if not 0.0 <= p_value <= 1.0:
        raise ValueError(f"p-value {p_value}, expected one in [0, 1]")
    if p_value < 1.0 / _MOST_E**2:
        return _MOST_E
    distance = 1.0 - p_value
    if distance < _NEAR_ONE:  # the formula is 0 / 0 at 1; its series there
        return 0.5 + distance / 6.0
    logarithm = log(p_value)
    return min((distance + p_value * logarithm) / (p_value * logarithm**2), _MOST_E)


def window_p(reports: Sequence[DriftReport]) -> float:
    """One p-value for a whole window: the smallest of all tests times their number (Bonferroni), at most 1.

    A test whose effect is not large counts as p = 1: that makes the p-value larger, never smaller, and keeps the alarm
    from changes too small to matter. 1 where nothing was tested.

    Parameters
    ----------
    reports : of one window, by either rule
    """
    findings = [finding for report in reports for finding in report.findings]
    return min(1.0, max(len(findings), 1) * min((f.p_value for f in findings if f.large), default=1.0))
