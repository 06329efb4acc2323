"""Guards of a canary: when counts show that it does worse than a limit, however often somebody looks at them.

The evidence is a bet against "the mean is at most the limit": a wealth that starts at 1, does not grow on average while
that is true, and so ever reaches 1 / alpha with probability at most alpha (Ville's inequality). Looking every few
seconds costs nothing, and the first look that trips may be acted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum, log

import numpy as np

from ml_core.base.arrays import FloatArray

__all__ = [
    "GuardVerdict",
    "judge_guard",
    "log_evidence",
]

_FRACTIONS: FloatArray = np.geomspace(0.001, 0.99, 40)
"""Stakes of the bets, as shares of 1 / limit, the largest that never loses more than everything.

For Bernoulli values the share f grows fastest where the true mean is ``limit + f (1 - limit)`` (Kelly 1956), so even
steps of log f serve small and large violations alike. Neighbours differ by a fifth: a truth between two costs 1 % of
the growth, up to 6 % between the last two. A mean less than about 0.0005 above the limit, half of the least share, is
never found.
"""


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """What one guard saw, and whether it wants the canary taken back.

    Attributes
    ----------
    guard : its name
    observed : mean of the values; None without data
    limit : the largest mean that is acceptable, in (0, 1)
    observations : number of values
    log_evidence : natural logarithm of the e-value; 0 says nothing, larger speaks against the canary
    needed : ``log_evidence`` from which on it trips, log(1 / alpha)
    tripped : evidence and number of observations suffice
    """

    guard: str
    observed: float | None
    limit: float
    observations: int
    log_evidence: float
    needed: float
    tripped: bool


def log_evidence(counts: Mapping[float, int], limit: float) -> float:
    """Natural logarithm of the e-value against "the mean is at most ``limit``", from counts of all values so far.

    The e-value is the mean, over a fixed grid of stakes, of the product of ``1 + stake (x - limit)`` over all values x.
    While the mean of each value, given those before it, is at most the limit, it is a nonnegative supermartingale that
    starts at 1: the probability that it ever reaches 1 / alpha is at most alpha. Order is without influence, so counts
    summed over workers serve as well as the stream. They must be of everything since a start chosen beforehand: counts
    set back to 0 when they look bad or good, or bad outcomes counted sooner than good ones, break the promise.

    Parameters
    ----------
    counts : how often each value came
        Values in [0, 1], unitless: 0 and 1 for outcomes, size / K for set sizes of K labels. Counts are >= 0.
    limit : unitless, in (0, 1)
        A limit of 1 cannot be exceeded and one of 0 is broken by a single positive value; neither needs evidence.

    Returns
    -------
    float
        0.0 without data; below 0 when the bets lost; at most ``log(1 / limit)`` per value.

    Raises
    ------
    ValueError
        Limit outside (0, 1), a value outside [0, 1], or a negative count.

    Notes
    -----
    Good values lose bets that later bad ones must win back first. With limit 0.02 and alpha 0.0025, a failure rate of
    0.1 is found after 84 values (median) if it is there from the start, but only after about 2,800 if it follows 10,000
    values with a rate of 0.005. Who must see late changes soon also judges counts since later starts, fixed beforehand,
    each with its part of alpha.

    References
    ----------
    Waudby-Smith & Ramdas (2024), Estimating means of bounded random variables by betting, JRSS-B 86(1), 1-27;
    Ville (1939), Etude critique de la notion de collectif.

    Examples
    --------
    >>> round(log_evidence({0: 90, 1: 10}, limit=0.02), 2)
    6.46
    >>> log_evidence({0: 98, 1: 2}, limit=0.02) < 0
    True
    """
    if not 0.0 < limit < 1.0:
        raise ValueError(f"limit {limit}, expected one in (0, 1)")
    for value, count in counts.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"value {value}, expected one in [0, 1]: divide by the largest it can be")
        if not count >= 0:
            raise ValueError(f"{count} observations of value {value}, expected 0 or more")
    seen = {value: count for value, count in counts.items() if count}
    if not seen:
        return 0.0
    values, times = np.array(list(seen), dtype=np.float64), np.array(list(seen.values()), dtype=np.float64)
    return float(_log_mixture(values, times, limit))


def judge_guard(
    guard: str, counts: Mapping[float, int], limit: float, *, false_alarm: float, minimum: int
) -> GuardVerdict:
    """Verdict on the values counted so far; may be asked for at any time and as often as wanted.

    Parameters
    ----------
    guard : name of the guard, kept in the verdict
    counts, limit : as in :func:`log_evidence`
    false_alarm : unitless, in (0, 1)
        Chance alpha of ever tripping while the mean is at most the limit. It is this guard's own: of several guards,
        any trips with at most the sum of theirs.
    minimum : >= 0
        Fewest observations to trip on, whatever the evidence.

    Raises
    ------
    ValueError
        As :func:`log_evidence`; ``false_alarm`` outside (0, 1); negative ``minimum``.

    Examples
    --------
    >>> judge_guard("errors", {0: 90, 1: 10}, 0.02, false_alarm=0.01, minimum=50).tripped
    True
    >>> judge_guard("errors", {0: 90, 1: 10}, 0.02, false_alarm=0.01, minimum=200).tripped
    False
    """
    if not 0.0 < false_alarm < 1.0:
        raise ValueError(f"false alarm probability {false_alarm}, expected one in (0, 1)")
    if minimum < 0:
        raise ValueError(f"minimum of {minimum} observations, expected 0 or more")
    evidence = log_evidence(counts, limit)
    observations = sum(counts.values())
    observed = fsum(value * count for value, count in counts.items()) / observations if observations else None
    needed = -log(false_alarm)
    tripped = observations >= minimum and evidence >= needed
    return GuardVerdict(guard, observed, limit, observations, evidence, needed, tripped)


def _log_mixture(values: FloatArray, counts: FloatArray, limit: float) -> FloatArray:
    """Logarithm of the mean wealth over the grid, for ``values`` (V,) and ``counts`` (..., V); shape (...)."""
    with np.errstate(over="ignore"):  # by a limit below 1e-308: evidence above 700 is then infinity
        growth = np.log1p(np.outer(values / limit - 1.0, _FRACTIONS))
    mixture: FloatArray = np.logaddexp.reduce(counts @ growth, axis=-1) - log(_FRACTIONS.size)
    return mixture
