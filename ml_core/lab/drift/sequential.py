"""A sequential drift detector: its mean time to a false alarm is chosen beforehand, however long it runs.

A rule with a fixed level raises a false alarm sooner or later; 52 weekly checks make one likely. A rule that takes
rows for independent raises one at once, because rows come ward by ward and patient by patient. So the evidence here
comes from bets on the means of blocks of rows, summed over all possible first blocks of a drift, so that a late drift
is found as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import FloatArray
from ml_core.lab.drift.block_means import BlockStatistics
from ml_core.lab.drift.drift_report import DriftReport

__all__ = ["DriftState", "update_drift", "window_p"]

_SAFE = np.array([0.25, 0.5, 0.9])
"""Stakes as shares of the largest that cannot lose all: what they promise holds whatever a block holds."""
_LEARNED = np.array([0.125, 0.25, 0.5])
"""Stakes per standard deviation of the blocks so far. Large where blocks vary little, which is seen first."""
_LEAST_LEFT = 0.02  # of a learned stake that would lose more than all
_DOUBT = 3.0  # blocks of the widest possible variance that are counted in, for each unit of kurtosis above 1
_MOST_EVIDENCE = 1e30
_LEADING_SHARE, _MOST_LEADING = 0.1, 6


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
    block_rows : answers in a block of the newest window, on average; 0 before the first
    blocks : blocks seen since the bets began
    leading : columns with most of the evidence, the first before the others
    key : of the statistics that the bets are about; bets on others begin anew
    bets : evidence of every bet, 6 stakes x 2 directions x J statistics in that order; empty before the first
    squares : shape (J,), sum of squared distances of block means from the reference
    """

    threshold: float
    evidence: float = 0.0
    windows: int = 0
    alarm_at: int | None = None
    block_rows: int = 0
    blocks: int = 0
    leading: tuple[str, ...] = ()
    key: str = ""
    bets: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 1.0 < self.threshold < _MOST_EVIDENCE:  # the evidence must be able to reach it
            raise ValueError(f"threshold {self.threshold}, expected a number of windows above 1")
        if not (isfinite(self.evidence) and self.evidence >= 0.0):
            raise ValueError(f"evidence {self.evidence}, expected a number of 0 or more")
        if self.alarm_at is not None and not 1 <= self.alarm_at <= self.windows:
            raise ValueError(f"alarm at window {self.alarm_at} of {self.windows}")
        for name in ("leading", "bets", "squares"):  # JSON gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def is_alarmed(self) -> bool:
        """There was an alarm. It stays until a new detector starts."""
        return self.alarm_at is not None


def update_drift(state: DriftState, statistics: BlockStatistics, means: FloatArray, rows: int) -> DriftState:
    """The state after one more window of B blocks.

    For every statistic with reference mean m and tolerance d, and both directions, a bet of stake l multiplies its
    evidence by ``1 + l (mean - m - d)`` (or ``1 + l (m - d - mean)``) with every block: S becomes ``(S + 1/B)`` times
    that. The evidence is the mean over all bets, and raises the alarm at the threshold.

    *What is promised.* Where the mean over a block of each statistic, given the blocks before, lies within m - d and
    m + d on average, no factor has a mean above 1, so evidence minus windows does not rise on average (an e-detector of
    Shiryaev-Roberts form): the mean number of windows to a false alarm is at least the threshold, and a false alarm
    within T windows has at most the chance T / threshold. Nothing is asked of the rows inside a block, which may all
    be alike. That blocks know little of each other is asked: rows that come together should be fewer than a block has.

    *Stakes.* Three of six are shares of the largest that leaves no factor below 0, so for them the promise is exact.
    The other three are measured by how much the blocks of this very stream have varied so far, and find a small change
    of a steady column two to three times as soon. A block that lies far off may then lose more than all, which a factor
    never does; the tolerance outweighs it unless the distribution of blocks is very skewed, and so the variance counts
    in blocks that vary as much as blocks can, the more the more skewed the statistic. Tested in natural orders of real
    rows (statistical suite).

    Parameters
    ----------
    means : shape (B, J), see ``BlockStatistics.block_means``
    rows : of the window

    References
    ----------
    Shin, Ramdas & Rinaldo (2024), E-detectors: a nonparametric framework for sequential change detection, New England
    Journal of Statistics in Data Science 2(2), 229-260. Waudby-Smith & Ramdas (2024), Estimating means of bounded
    random variables by betting, JRSS-B 86(1), 1-27.
    """
    windows, count = state.windows + 1, len(means)
    if state.is_alarmed or not means.size:  # resting; or nothing that can be judged
        return replace(state, windows=windows)
    mean, sd, tolerance, kurtosis = _laws(statistics)
    shape = (len(_SAFE) + len(_LEARNED), 2, len(mean))
    bets, squares, blocks, evidence = np.zeros(shape), np.zeros(len(mean)), 0, 0.0
    if state.key == statistics.key:
        bets, squares, blocks = np.reshape(state.bets, shape), np.array(state.squares), state.blocks
    limit = np.stack([mean + tolerance, tolerance - mean])
    safe = _SAFE[:, np.newaxis, np.newaxis] / np.stack([mean + tolerance, 1.0 - mean + tolerance])
    doubt = np.maximum(_DOUBT * (kurtosis - 1.0), 1.0)
    sides = np.array([[1.0], [-1.0]])
    for block in means:
        scale = np.sqrt((doubt * sd**2 + squares) / (doubt + blocks))
        learned = np.divide(
            _LEARNED[:, np.newaxis, np.newaxis], scale, where=scale > 0.0, out=np.zeros((3, 1, len(mean)))
        )
        stakes = np.concatenate([safe, np.broadcast_to(learned, safe.shape)])
        factors = np.maximum(1.0 + stakes * (sides * block - limit), _LEAST_LEFT)
        bets = np.minimum((bets + 1.0 / count) * factors, _MOST_EVIDENCE)
        squares, blocks, evidence = squares + (block - mean) ** 2, blocks + 1, float(bets.mean())
        if evidence >= state.threshold:
            break
    return DriftState(
        threshold=state.threshold,
        evidence=evidence,
        windows=windows,
        alarm_at=windows if evidence >= state.threshold else None,
        block_rows=rows // count,
        blocks=blocks,
        leading=_leading(statistics, bets),
        key=statistics.key,
        bets=tuple(bets.ravel().tolist()),
        squares=tuple(squares.tolist()),
    )


def _laws(statistics: BlockStatistics) -> npt.NDArray[np.float64]:
    """Mean, standard deviation, tolerance and kurtosis of every statistic, shape (4, J)."""
    return np.array([(s.mean, s.sd, s.tolerance, s.kurtosis) for s in statistics.statistics], dtype=np.float64).T


def _leading(statistics: BlockStatistics, bets: FloatArray) -> tuple[str, ...]:
    """Columns whose bets hold at least a tenth of all evidence."""
    of_column: dict[str, float] = {}
    for statistic, evidence in zip(statistics.statistics, bets.sum(axis=(0, 1)).tolist(), strict=True):
        of_column[statistic.column] = of_column.get(statistic.column, 0.0) + evidence
    total = sum(of_column.values())
    first = sorted(of_column, key=lambda name: -of_column[name])[:_MOST_LEADING]
    return tuple(name for name in first if total > 0.0 and of_column[name] >= _LEADING_SHARE * total)


def window_p(reports: Sequence[DriftReport]) -> float:
    """One p-value for a window whose rows are independent: the smallest of all tests times their number, at most 1.

    No alarm hangs on it, because rows seldom are. A test whose effect is not large counts as p = 1. 1 where nothing
    was tested.

    Parameters
    ----------
    reports : of one window, by either rule
    """
    findings = [finding for report in reports for finding in report.findings]
    return min(1.0, max(len(findings), 1) * min((f.p_value for f in findings if f.large), default=1.0))
