"""What gate and monitor can see of coverage at given sizes, and how many rows a promise needs: before data is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from math import floor

import numpy as np
from scipy.stats import beta

from ml_core.lab.measuring.calibration import needed_rows
from ml_core.lab.measuring.coverage_detector import BLOCK, DetectorState, block_for, highest_miss_rate, update
from ml_core.lab.measuring.coverage_law import CoverageLaw
from ml_core.lab.measuring.coverage_power import NOTICED_WITH, power_of_limit, power_of_proof
from ml_core.lab.measuring.coverage_verdicts import COVERAGE_BUDGET

__all__ = ["MOST_DELAY", "CellPlan", "CoverageNeed", "PlannedSizes", "median_delay", "plan_cells", "rows_needed"]

MOST_DELAY = 3_000
"""Labels after which :func:`median_delay` stops waiting for an alarm."""

_LIKELY = 0.05  # tail beyond either end of the range of a calibration's true coverage
_LOSSES = (Decimal("0.02"), Decimal("0.03"), Decimal("0.05"), Decimal("0.10"))  # below the level
_CLASSES = 2  # the class that was asked about, and the others
_STREAMS, _LABELS_BEFORE = 200, 1_000  # of a simulated delay
_LARGEST_CLASS = 500_000  # rows of a class beyond which :func:`rows_needed` gives up


@dataclass(frozen=True, slots=True)
class PlannedSizes:
    """What is planned: labelled rows, how they are shared out, and what is promised.

    Attributes
    ----------
    rows : labelled rows in all parts of the split
    class_share : share of them in the class, in (0, 1)
    groups : groups of patients of one size in which coverage is promised or judged; 1 for none
    calibration, test : shares of the rows that calibrate and test
    level : confidence level
    floor : smallest coverage that the gate accepts
    confidence : ``conformal.training_conditional``; None where it is not set
    """

    rows: int
    class_share: float
    groups: int = 1
    calibration: float = 0.2
    test: float = 0.2
    level: Decimal = Decimal("0.9")
    floor: float = 0.88
    confidence: Decimal | None = None

    def of(self, share: float, rows: int | None = None) -> tuple[int, int]:
        """Calibration rows and test rows of a class with that share, in one group; of so many rows instead of all."""
        own = (self.rows if rows is None else rows) * share / self.groups
        return floor(own * self.calibration + 1e-9), floor(own * self.test + 1e-9)

    def law(self, n: int) -> CoverageLaw:
        """Law of the coverage of a class with n calibration rows, each another patient's."""
        return CoverageLaw.of(n, self.level, confidence=self.confidence)

    def limit(self, n: int, m: int) -> float:
        """What the gate holds the coverage of m test rows against, with n calibration rows."""
        law = CoverageLaw.of(n, self.level, floor=self.floor, confidence=self.confidence)
        return min(self.floor, law.band(m, COVERAGE_BUDGET / (2 * (_CLASSES + 1))).lower)


@dataclass(frozen=True, slots=True)
class CellPlan:
    """What can be seen of one class (in one group).

    Attributes
    ----------
    of : which class
    calibration_rows, test_rows : of it; each counts as another patient
    covers : mean coverage over calibrations
    likely_from, likely_to : between them lies the true coverage of 90 % of calibrations
    limit : coverage of the test rows below which the gate refuses
    valid_refused : chance that it refuses a valid model for this class
    refused : chance that it refuses, by true coverage
    noticed : the largest true coverage that it refuses with a chance of 80 %
    proven : chance that ``gate.prove`` is satisfied by a valid model
    alarm_above : the monitor's largest miss rate without an alarm
    delay_half_more, delay_double : its median delay, in labels of the class, after the miss rate rose from 1 - level by
        one half, and to the double; None where it takes more than ``MOST_DELAY``
    """

    of: str
    calibration_rows: int
    test_rows: int
    covers: float
    likely_from: float
    likely_to: float
    limit: float
    valid_refused: float
    refused: dict[str, float]
    noticed: float
    proven: float
    alarm_above: float
    delay_half_more: int | None
    delay_double: int | None


@dataclass(frozen=True, slots=True)
class CoverageNeed:
    """Rows that a promise needs.

    Attributes
    ----------
    promise : in words
    calibration_rows, test_rows : of the smaller class in one group
    rows : labelled rows in all; None where a class of half a million rows is not enough
    """

    promise: str
    calibration_rows: int | None
    test_rows: int | None
    rows: int | None


def plan_cells(sizes: PlannedSizes, seed: int = 0) -> tuple[CellPlan, ...]:
    """What can be seen of the class and of the others, by exact laws; delays by simulation.

    Parameters
    ----------
    seed : of the simulated delays
    """
    return tuple(
        _cell(sizes, name, share, seed)
        for name, share in (("class", sizes.class_share), ("others", 1.0 - sizes.class_share))
    )


def rows_needed(sizes: PlannedSizes) -> tuple[CoverageNeed, ...]:
    """How many rows each promise needs at these shares; ``sizes.rows`` is not looked at.

    The counts are of the smaller class, since the larger one has more. A promise that holds at some size may fail at a
    slightly larger one, because ranks are whole; the first size found by bisection is told.
    """
    smaller = min(sizes.class_share, 1.0 - sizes.class_share)
    lost = float(sizes.level - Decimal("0.05"))
    least = needed_rows(sizes.level, sizes.confidence)
    promises: list[tuple[str, Callable[[int, int], bool]]] = [
        (f"the level {sizes.level} means anything", lambda n, _m: n >= least),
        (
            f"95 % of calibrations truly cover {sizes.floor:g} or more",
            lambda n, _m: n >= least and _quantile(sizes.law(n), _LIKELY) >= sizes.floor,
        ),
        (
            f"the gate refuses a class truly covered {lost:g} with {NOTICED_WITH:.0%}",
            lambda n, m: m > 0 and power_of_limit(sizes.limit(n, m), m).refused(lost) >= NOTICED_WITH,
        ),
        (
            f"a valid model proves more than {sizes.floor:g} (gate.prove) with {NOTICED_WITH:.0%}",
            lambda n, m: n >= least and m > 0 and _proven(sizes, n, m) >= NOTICED_WITH,
        ),
    ]
    return tuple(_need(sizes, smaller, words, holds) for words, holds in promises)


def median_delay(mu0: float, miss_rate: float, before: float, seed: int = 0, block: int = BLOCK) -> int | None:
    """Median number of labels from a change of the miss rate to the detector's alarm, of simulated streams.

    Parameters
    ----------
    mu0 : the detector's largest miss rate without an alarm
    miss_rate, before : after the change, and in the 1,000 labels before it; streams that alarm before are not counted
    block : labels in a block of the detector

    Returns
    -------
    int or None
        None where more than half of the streams have no alarm after ``MOST_DELAY`` labels, or too few were left.
    """
    rng = np.random.default_rng(seed)
    delays = []
    for _ in range(_STREAMS):
        state = update(DetectorState(mu0, block=block), rng.random(_LABELS_BEFORE) < before)
        if state.is_alarmed:
            continue
        while not state.is_alarmed and state.labels < _LABELS_BEFORE + MOST_DELAY:
            state = update(state, rng.random(100) < miss_rate)
        delays.append(np.inf if state.alarm_at is None else state.alarm_at - _LABELS_BEFORE)
    median = float(np.median(delays)) if delays else np.inf
    return None if median > MOST_DELAY else round(median)


def _cell(sizes: PlannedSizes, name: str, share: float, seed: int) -> CellPlan:
    n, m = sizes.of(share)
    law, limit = sizes.law(n), sizes.limit(n, m)
    rule, alpha = power_of_limit(limit, m), float(1 - sizes.level)
    mu0 = highest_miss_rate(n, sizes.level, confidence=sizes.confidence)
    return CellPlan(
        of=name,
        calibration_rows=n,
        test_rows=m,
        covers=law.promised,
        likely_from=_quantile(law, _LIKELY),
        likely_to=_quantile(law, 1.0 - _LIKELY),
        limit=limit,
        valid_refused=float(law.pmf(m)[: rule.needed].sum()) if m else 1.0,
        refused={str(sizes.level - loss): rule.refused(float(sizes.level - loss)) for loss in _LOSSES},
        noticed=rule.noticed,
        proven=_proven(sizes, n, m),
        alarm_above=mu0,
        delay_half_more=median_delay(mu0, 1.5 * alpha, alpha, seed, block_for(share)),
        delay_double=median_delay(mu0, min(2.0 * alpha, 1.0), alpha, seed, block_for(share)),
    )


def _quantile(law: CoverageLaw, share: float) -> float:
    """Quantile of the true coverage over calibrations."""
    if law.promised >= 1.0:
        return 1.0
    weight = law.effective_rows + 1.0
    return float(beta.ppf(share, weight * law.promised, weight * (1.0 - law.promised)))


def _proven(sizes: PlannedSizes, n: int, m: int) -> float:
    """Chance that a valid model proves its coverage."""
    return float(sizes.law(n).pmf(m)[power_of_proof(sizes.floor, m).needed :].sum())


def _need(sizes: PlannedSizes, share: float, words: str, holds: Callable[[int, int], bool]) -> CoverageNeed:
    """The first size found at which the promise holds, by doubling and bisection."""
    high = 1
    while not holds(*sizes.of(share, high)):
        if max(sizes.of(share, high)) > _LARGEST_CLASS:
            return CoverageNeed(words, None, None, None)
        high *= 2
    low = high // 2
    while high - low > max(1, high // 2_000):
        middle = (low + high) // 2
        low, high = (low, middle) if holds(*sizes.of(share, middle)) else (middle, high)
    return CoverageNeed(words, *sizes.of(share, high), high)
