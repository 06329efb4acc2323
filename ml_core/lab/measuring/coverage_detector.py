"""Detector of lost coverage: it bets on blocks of labels, and more carefully the more neighbouring blocks are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import fsum, isfinite, sqrt

import numpy as np
from scipy.stats import beta

from ml_core.base.arrays import BoolArray
from ml_core.lab.measuring.coverage_law import CoverageLaw

__all__ = ["BETS", "BLOCK", "THRESHOLD", "DetectorState", "block_for", "highest_miss_rate", "update"]

BETS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Stakes of the detector's bets on the miss rate of a block; the bolder, the larger the loss that it finds first."""

BLOCK = 12
"""Labels in a block, the unit of evidence: labels of one detector, one after another in the order of their answers.

A rare class has smaller blocks, see :func:`block_for`.
"""

THRESHOLD = 50_000.0
"""Mean number of labels to a false alarm, at least."""

_RARE_BLOCK, _ANSWERS = 8, 50  # see block_for
_RUNS = (1, 2, 4, 8)  # blocks in the runs whose misses are compared
_FIRST_PAIRS = 4  # pairs of runs that the value before any label, 1, weighs as much as
_PAIRS = 64  # pairs of runs that are remembered
_WIDEST_RATIO, _WIDEST_LATELY = 4.0, 2.0  # a sudden loss of coverage makes runs differ, too, and must not hide itself
_BOLDEST = 0.9  # most that a bet may lose on one covered block; with all of it lost no later miss would count
_TAIL_SLOPE, _WIDEST_TAIL = 1 / 130, 0.32  # fitted by simulation, see highest_miss_rate

_Counts = tuple[int, ...]
_Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DetectorState:
    """All that the detector of one class of one model remembers. A new one starts for a new champion or a new alarm.

    ``DetectorState(**json.loads(json.dumps(asdict(state))))`` is the same to the bit. A state from before there were
    blocks has none of the last six fields: it keeps its evidence and counts, and its first block begins.

    Attributes
    ----------
    mu0 : largest miss rate that is no cause for alarm, in (0, 1); see :func:`highest_miss_rate`
    threshold : > 1, evidence that raises the alarm: the smallest mean number of labels between false alarms
    evidence : per bet, >= 0; where it stood at the alarm once there was one
    labels, misses : matured labels seen, and those of them that were not in their set, also after the alarm
    alarm_at : number of the label that completed the block that raised the alarm; None without alarm
    block : > 0, labels in a block
    in_blocks : labels that have entered blocks, the open block included
    open_misses : misses since the last complete run of 1, 2, 4 and 8 blocks
    last_misses : misses of the last complete run of each length; 0 before there was one
    variances : per length, half the mean squared difference of the misses of neighbouring runs (the Allan variance),
        relative to the variance of as many independent labels with miss rate ``mu0``; over about the last 64 pairs
    earlier_ratios : the ratio of these variances, 1 to 4, at the ends of the last two runs of 8 blocks; fewer before
    """

    mu0: float
    threshold: float = THRESHOLD
    evidence: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    labels: int = 0
    misses: int = 0
    alarm_at: int | None = None
    block: int = BLOCK
    in_blocks: int = 0
    open_misses: _Counts = (0, 0, 0, 0)
    last_misses: _Counts = (0, 0, 0, 0)
    variances: _Numbers = (1.0, 1.0, 1.0, 1.0)
    earlier_ratios: _Numbers = ()

    def __post_init__(self) -> None:
        if not 0.0 < self.mu0 < 1.0:
            raise ValueError(f"miss rate {self.mu0}, expected one in (0, 1)")
        if not 1.0 < self.threshold < 1e300:  # the evidence must stay a finite number
            raise ValueError(f"threshold {self.threshold}, expected one above 1")
        if self.block < 1:
            raise ValueError(f"blocks of {self.block} labels")
        _check_numbers("evidence", self.evidence, len(BETS))
        for name in ("open_misses", "last_misses", "variances"):
            _check_numbers(name, getattr(self, name), len(_RUNS))
        _check_numbers("earlier_ratios", self.earlier_ratios, min(len(self.earlier_ratios), 2), least=1.0)
        for name in ("evidence", "open_misses", "last_misses", "variances", "earlier_ratios"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON gives a list
        if not 0 <= self.misses <= self.labels:
            raise ValueError(f"{self.misses} misses of {self.labels} labels")
        if not max(self.open_misses) <= self.in_blocks <= self.labels:
            raise ValueError(f"{self.open_misses} misses of {self.in_blocks} labels in blocks, {self.labels} in all")
        if self.alarm_at is not None and not 1 <= self.alarm_at <= self.labels:
            raise ValueError(f"alarm at label {self.alarm_at} of {self.labels}")

    @property
    def is_alarmed(self) -> bool:
        """There was an alarm. It stays until a new detector starts."""
        return self.alarm_at is not None

    @property
    def total_evidence(self) -> float:
        """The sum over the bets, which is compared with the threshold."""
        return fsum(self.evidence)

    @property
    def variance_ratio(self) -> float:
        """How many times as much misses of longer runs vary as if neighbouring blocks had nothing in common: 1 to 4.

        The largest ratio, over runs of 2, 4 and 8 blocks, of their variance per label to that of single blocks or of
        independent labels, whichever is larger. It is about 1 in random order, and also where patients come together
        whose labels fit into a block. It is more where longer runs of labels are alike, such as those of a ward.

        A sudden loss of coverage makes runs differ as well, and must not hide itself. So what has been seen up to the
        run of 8 blocks before the last one counts up to 4, and what came since then only up to 2.

        References
        ----------
        Allan (1966), Statistics of atomic frequency standards, Proceedings of the IEEE 54(2), 221-230; Lo & MacKinlay
        (1988), Stock market prices do not follow random walks, Review of Financial Studies 1(1), 41-66.
        """
        now = _ratio(self.variances)
        return max(min(now, _WIDEST_LATELY), self.earlier_ratios[0]) if self.earlier_ratios else now


def update(state: DetectorState, misses: Sequence[bool] | BoolArray) -> DetectorState:
    """The state after these labels. A stream may be fed in pieces of any size, with the same result to the bit.

    Labels make blocks, in the order they are fed. With each complete block of b labels, the evidence S of a bet becomes
    (S + b/5) (1 + stake (m - mu0)) ** (1/r), m being the block's miss rate and r the variance ratio of the blocks
    before it; the sum over the bets raises the alarm at the threshold (an e-detector of Shiryaev-Roberts form).

    What is guaranteed: while the mean of m, given all blocks before, is at most mu0, the sum minus the number of
    labels does not rise on average, because x ** (1/r) is concave. So the mean number of labels to a false alarm is at
    least the threshold, and a false alarm within n labels has at most the chance n / threshold, however often somebody
    looks. How the labels of one block hang together does not matter. A block never loses all: stakes are cut to
    0.9 / mu0.

    What is measured: where wards or patients come together over more than a block, the mean of a block given those
    before does exceed mu0 at times. The variance ratio then makes the bets smaller. On held-out rows of Diabetes 130 in
    batches of 50 by specialty, discharge disposition or earlier stays, at most 1 valid model in 10 alarms within 3,000
    labels. Where longer runs of one kind of patient come, a valid model can be accused: no rule that sees only misses
    can tell this from lost coverage.

    Feed every label once, in order of arrival; do not feed corrections.

    Parameters
    ----------
    misses : shape (n,), True where the label was not in its set, in order of arrival

    Raises
    ------
    ValueError
        Flags that are not True or False.

    References
    ----------
    Shin, Ramdas & Rinaldo (2024), E-detectors: a nonparametric framework for sequential change detection, New England
    Journal of Statistics in Data Science 2(2), 229-260. Waudby-Smith & Ramdas (2024), Estimating means of bounded
    random variables by betting, Journal of the Royal Statistical Society B 86(1), 1-27.

    Examples
    --------
    >>> state = update(DetectorState(0.1), [True] * 100)
    >>> state.alarm_at, state.misses
    (72, 100)
    """
    flags, fed = _flags(misses), 0
    while fed < len(flags) and not state.is_alarmed:
        piece = flags[fed : fed + state.block - state.in_blocks % state.block]
        state, fed = _fed(state, len(piece), sum(piece)), fed + len(piece)
    rest = flags[fed:]  # resting: left to grow, the evidence would leave the range of floats
    return replace(state, labels=state.labels + len(rest), misses=state.misses + sum(rest))


def block_for(share: float) -> int:
    """Labels in a block, for a class that has that share of all labels: as many as about 50 answers hold, 8 to 12.

    The fewer labels of a class a ward's answers hold, the less these resemble each other, and the smaller a block may
    be. With smaller blocks a loss is found sooner.

    Examples
    --------
    >>> block_for(0.9), block_for(0.1)
    (12, 8)
    """
    return min(BLOCK, max(_RARE_BLOCK, round(_ANSWERS * share)))


def highest_miss_rate(
    n_calibration: int, level: Decimal, effect: float = 1.0, confidence: Decimal | None = None
) -> float:
    """The miss rate ``mu0`` up to which a detector should stay silent, for a class with that many calibration rows.

    A valid model's true miss rate is not alpha: it depends on the calibration rows, with law Beta(l, n + 1 - l) and
    l = floor((n + 1) alpha). This is the upper quantile of that law, never below alpha. The larger it is, the fewer
    valid models alarm that miss a little more than promised, and the later comes every alarm.

    The quantile's tail is sqrt(n) / 130, at most 0.32: fitted by simulation, so that at every size at most 1 valid
    model in 20 alarms within its first 3,000 labels at the default threshold. A small n needs a small tail because the
    law is wide. At level 0.90, in random order and with blocks of 12, delays being the median number of labels from
    label 1,000 on, when the miss rate rises from 0.10:

    ====== ===== =============== ============= ============= =============
    n      mu0   alarms in 3,000 0.10 to 0.15  0.10 to 0.20  0.10 to 0.30
    ====== ===== =============== ============= ============= =============
    50     0.171 2.5 %           over 6,000    1,880         284
    100    0.144 2.7 %           over 6,000    656           212
    200    0.126 2.6 %           2,036         428           176
    500    0.112 2.5 %           1,028         332           152
    1,000  0.106 2.2 %           776           284           152
    1,500  0.104 2.1 %           704           272           152
    2,000  0.103 1.8 %           680           272           152
    5,000  0.102 1.2 %           644           260           140
    20,000 0.101 0.9 %           632           260           140
    ====== ===== =============== ============= ============= =============

    With blocks of 8, a rise to 0.20 is found after 288, 232 and 216 labels at 500, 2,000 and 20,000 rows.

    With few calibration rows a loss of coverage is found late: an unlucky calibration looks the same for long.

    Parameters
    ----------
    n_calibration : >= 0, calibration rows of the class; of all classes under a ``marginal`` guarantee
    level : the model's configured confidence level
    effect : design effect of the calibration rows, >= 1; n / effect takes the place of n
    confidence : of a calibration that has one; what is promised is then alpha, and seldom more is silent

    Returns
    -------
    float
        In (0, 1). Alpha itself where the rows are too few for the level: then every label is in every set.

    Examples
    --------
    >>> round(highest_miss_rate(500, Decimal("0.9")), 4)
    0.1124
    """
    alpha = float(1 - level)
    law = CoverageLaw.of(n_calibration, level, effect, confidence=confidence)
    weight = law.effective_rows + 1.0
    if law.promised >= 1.0:
        return alpha
    tail = min(_WIDEST_TAIL, sqrt(law.effective_rows) * _TAIL_SLOPE)
    return max(alpha, float(beta.isf(tail, weight * (1.0 - law.promised), weight * law.promised)))


def _flags(misses: Sequence[bool] | BoolArray) -> list[bool]:
    flags = np.asarray(misses)
    if flags.ndim != 1 or (flags.size and flags.dtype != np.bool_):
        raise ValueError(f"misses of shape {flags.shape} and type {flags.dtype}, expected one axis of True and False")
    listed: list[bool] = flags.tolist()
    return listed


def _check_numbers(name: str, numbers: Sequence[float], n: int, least: float = 0.0) -> None:
    if len(numbers) != n or not all(isfinite(number) and number >= least for number in numbers):
        raise ValueError(f"{name} {numbers}, expected {n} numbers of {least:g} or more")


def _fed(state: DetectorState, labels: int, misses: int) -> DetectorState:
    """The state after these labels, which end no later than the open block does."""
    a, b, c, d = (count + misses for count in state.open_misses)
    state = replace(
        state,
        labels=state.labels + labels,
        misses=state.misses + misses,
        in_blocks=state.in_blocks + labels,
        open_misses=(a, b, c, d),
    )
    if state.in_blocks % state.block:
        return state
    factors = _factors(state.mu0, a / state.block, state.variance_ratio)
    evidence = _step(state.evidence, state.block / len(BETS), factors)
    alarm_at = state.labels if fsum(evidence) >= state.threshold else None
    return replace(_compared(state), evidence=evidence, alarm_at=alarm_at)


def _compared(state: DetectorState) -> DetectorState:
    """The state after a complete block, with the runs that it completes compared with the runs before them.

    Half of the squared difference of neighbours estimates the variance also where the miss rate has changed since.
    """
    opened, last, variances = list(state.open_misses), list(state.last_misses), list(state.variances)
    for n, blocks in enumerate(_RUNS):
        runs, left = divmod(state.in_blocks, blocks * state.block)
        if left:
            continue
        if runs > 1:
            squared = (opened[n] - last[n]) ** 2 / (2 * blocks * state.block * state.mu0 * (1.0 - state.mu0))
            variances[n] += (squared - variances[n]) * max(1.0 / (_FIRST_PAIRS + runs - 1), 1.0 / _PAIRS)
        opened[n], last[n] = 0, opened[n]
    earlier = state.earlier_ratios
    if state.in_blocks % (_RUNS[-1] * state.block) == 0:
        earlier = (*earlier[-1:], _ratio(variances))
    return replace(
        state,
        open_misses=tuple(opened),
        last_misses=tuple(last),
        variances=tuple(variances),
        earlier_ratios=earlier,
    )


def _ratio(variances: Sequence[float]) -> float:
    """Of the variance of longer runs to that of blocks, 1 to 4."""
    return min(_WIDEST_RATIO, max(1.0, max(variances[1:]) / max(1.0, variances[0])))


def _factors(mu0: float, missed: float, ratio: float = 1.0) -> tuple[float, ...]:
    """Factor of each bet's evidence for a block of that miss rate; all > 0."""
    return tuple((1.0 + min(bet, _BOLDEST / mu0) * (missed - mu0)) ** (1.0 / ratio) for bet in BETS)


def _step(
    evidence: tuple[float, ...], added: float, factors: tuple[float, ...]
) -> tuple[float, float, float, float, float]:
    a, b, c, d, e = ((s + added) * f for s, f in zip(evidence, factors, strict=True))
    return a, b, c, d, e
