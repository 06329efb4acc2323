"""Change of shares between two windows of counts: categories, texts, missing values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc
from scipy.stats import fisher_exact

__all__ = ["CountsCompared", "compare_counts", "jensen_shannon", "two_by_two_p"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FEWEST_EXPECTED = 5.0
"""Rows expected in a cell from which on the chi-square law may be used (Cochran 1954, Biometrics 10(4), 417-451)."""


@dataclass(frozen=True, slots=True)
class CountsCompared:
    """How two windows of counts differ.

    Attributes
    ----------
    test : the tests behind ``p_value``
    p_value : in [0, 1]
    distance : Jensen-Shannon distance of the shares, natural logarithm, in [0, 0.833]
    """

    test: str
    p_value: float
    distance: float


def compare_counts(reference: IntArray, current: IntArray, rest: int | None, other: int) -> CountsCompared | None:
    """Test of equal shares per level: chi-square over the frequent levels, with all that is rare in one cell.

    A level is rare with fewer than 5 expected rows on a side; what is not listed is rare too. Where even all rare rows
    together are too few for chi-square, Fisher's exact test of rare against frequent stands beside it, and the p-value
    is twice the smaller one. Which levels share a cell hangs on both sides together, so it favours neither: a free text
    whose values hardly repeat is no change, a new level in a closed list is one.

    Parameters
    ----------
    reference, current : shape (L,), rows per listed level
    rest : reference rows with a level that is not listed; None where it lists all it holds
    other : current rows with a level that is not listed

    Returns
    -------
    CountsCompared or None
        None where both sides hold one and the same level, or only levels too rare to compare.
    """
    n, m = int(reference.sum()) + (rest or 0), int(current.sum()) + other
    frequent = _enough(reference + current, n, m)
    ours, theirs = reference[frequent], current[frequent]
    rare = (n - int(ours.sum()), m - int(theirs.sum()))
    found = []
    if sum(rare) and (len(ours) < 2 or _enough(np.array(sum(rare)), n, m)):
        cells = (np.append(ours, rare[0]), np.append(theirs, rare[1]))
    else:
        cells = (ours, theirs)
        if sum(rare):
            found.append(("fisher exact", two_by_two_p(rare[0], n - rare[0], rare[1], m - rare[1])))
    if len(cells[0]) >= 2:
        found.append(_shares_p(*cells))
    if not found:
        return None
    # where levels occur once in the reference, some that it lacks are to be expected and get no cell of their own
    unseen = other if rest is None and not (reference == 1).any() else 0
    shares = (np.append(ours, [rare[0], 0]), np.append(theirs, [rare[1] - unseen, unseen]))
    test = " | ".join(name for name, _ in found)
    return CountsCompared(test, min(1.0, len(found) * min(p for _, p in found)), jensen_shannon(*shares))


def two_by_two_p(a: int, b: int, c: int, d: int) -> float:
    """p-value of "a of a + b and c of c + d are the same share".

    Chi-square without correction where all four cells expect at least 5 rows, else Fisher's exact test. Two shares
    that are both 0, or both 1, give 1.
    """
    if not (a + c) or not (b + d):
        return 1.0
    if not _enough(np.array([a + c, b + d]), a + b, c + d).all():
        return float(fisher_exact([[a, b], [c, d]]).pvalue)
    return _chi_square_p(np.array([a, b]), np.array([c, d]))


def jensen_shannon(reference: IntArray, current: IntArray) -> float:
    """Jensen-Shannon distance of two rows of counts: 0 for equal shares, sqrt(log 2) = 0.833 for disjoint ones."""
    p, q = reference / reference.sum(), current / current.sum()
    middle = (p + q) / 2.0
    return float(max((_entropy(middle) - (_entropy(p) + _entropy(q)) / 2.0), 0.0) ** 0.5)


def _entropy(shares: FloatArray) -> float:
    above = shares[shares > 0.0]
    return float(-(above * np.log(above)).sum())


def _enough(rows: IntArray, n: int, m: int) -> npt.NDArray[np.bool_]:
    """Whether cells that hold so many rows of both sides together expect enough on each."""
    enough: npt.NDArray[np.bool_] = rows * (min(n, m) / (n + m)) >= FEWEST_EXPECTED
    return enough


def _shares_p(reference: IntArray, current: IntArray) -> tuple[str, float]:
    """Name and p-value of the test over at least two cells."""
    if len(reference) > 2 or _enough(reference + current, int(reference.sum()), int(current.sum())).all():
        return "chi-square", _chi_square_p(reference, current)
    cells = (int(reference[0]), int(reference[1]), int(current[0]), int(current[1]))
    return "fisher exact", two_by_two_p(*cells)


def _chi_square_p(reference: IntArray, current: IntArray) -> float:
    n, m = int(reference.sum()), int(current.sum())
    # sum over both rows of (seen - expected)^2 / expected, written as one sum over the cells
    distance = reference * (m / n) ** 0.5 - current * (n / m) ** 0.5
    return float(chdtrc(len(reference) - 1, (distance**2 / (reference + current)).sum()))
