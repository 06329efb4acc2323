"""The coverage detector on many streams of misses at once."""

from __future__ import annotations

from functools import cache

import numpy as np

from ml_core.lab.measuring.coverage_detector import (
    _FIRST_PAIRS,
    _PAIRS,
    _RUNS,
    _WIDEST_LATELY,
    _WIDEST_RATIO,
    BETS,
    BLOCK,
    THRESHOLD,
    _factors,
)

__all__ = ["alarm_labels", "found_share"]


def alarm_labels(
    misses: np.ndarray, mu0: float | np.ndarray, threshold: float = THRESHOLD, *, block: int = BLOCK
) -> np.ndarray:
    """Number of the label at which each stream alarms; labels + 1 where it does not.

    Parameters
    ----------
    misses : bool, shape (streams, labels)
    mu0 : of all streams, or shape (streams,)
    block : labels in a block
    """
    streams, labels = misses.shape
    limits = np.broadcast_to(np.asarray(mu0, dtype=np.float64), (streams,))
    # one table of factors per stream: shape (bets, misses in a block, streams)
    tables = {limit: np.array([_factors(limit, m / block) for m in range(block + 1)]).T for limit in set(limits)}
    table = np.stack([tables[limit] for limit in limits], axis=-1)
    blocks = misses[:, : labels // block * block].reshape(streams, -1, block).sum(axis=2, dtype=np.int8)
    evidence, at = np.zeros((len(BETS), streams)), np.full(streams, labels + 1)
    variances = np.ones((len(_RUNS), streams))
    opened, last = np.zeros((len(_RUNS), streams)), np.zeros((len(_RUNS), streams))
    seen, earlier = np.ones(streams), []  # the ratio of all blocks, and at the ends of the last two longest runs
    for number in range(1, blocks.shape[1] + 1):
        missed = blocks[:, number - 1]
        ratio = np.maximum(np.minimum(seen, _WIDEST_LATELY), earlier[0]) if earlier else seen
        won = table[:, missed, np.arange(streams)] ** (1.0 / ratio)
        evidence = (evidence + block / len(BETS)) * won
        at[(evidence.sum(axis=0) >= threshold) & (at > labels)] = number * block
        evidence[:, at <= labels] = 0.0  # what follows the alarm does not count
        if (at <= labels).all():
            break
        opened += missed
        for n, length in enumerate(_RUNS):
            runs, left = divmod(number, length)
            if left:
                continue
            if runs > 1:
                squared = (opened[n] - last[n]) ** 2 / (2 * length * block * limits * (1.0 - limits))
                variances[n] += (squared - variances[n]) * max(1.0 / (_FIRST_PAIRS + runs - 1), 1.0 / _PAIRS)
            last[n], opened[n] = opened[n], 0.0
        seen = np.clip(variances[1:].max(axis=0) / np.maximum(1.0, variances[0]), 1.0, _WIDEST_RATIO)
        if number % _RUNS[-1] == 0:
            earlier = [*earlier[-1:], seen]
    return at


@cache
def found_share(
    labels: int,
    rate: float,
    limit: float,
    threshold: float,
    block: int,
    *,
    calm: tuple[int, float] = (0, 0.0),
    streams: int = 2_000,
) -> float:
    """Share of detectors that have alarmed after so many independent labels, each missed with that chance.

    ``calm``: labels that they have seen before, and the chance of a miss then.
    """
    rng, (before, calm_rate) = np.random.default_rng(labels), calm
    misses = rng.random((streams, before + labels)) < np.repeat([calm_rate, rate], [before, labels])
    return float((alarm_labels(misses, limit, threshold, block=block) <= before + labels).mean())
