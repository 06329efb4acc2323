"""What can be known of coverage when some outcomes never come: bounds, a test of the gaps, and a weighted estimate.

Throughout, an answer is *due* once its label horizon has passed. Its outcome has then *returned*, or is *missing*.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, chi2_contingency, fisher_exact

__all__ = [
    "CoverageBounds",
    "OutcomeCell",
    "ReturnTest",
    "WeightedCoverage",
    "coverage_bounds",
    "observed_coverage",
    "return_test",
    "return_p_value",
    "inverse_chance_coverage",
]

_FEW = 10
"""A cell with fewer returned outcomes shares its weight with others of its side."""
_EXPECTED = 5.0
"""Smallest expected number of returned, and of missing, outcomes of a row of the G-test (Cochran 1954)."""
_OUTSIDE = 0.05
"""Chance that the truth lies outside the interval of a weighted estimate, both ends together."""


@dataclass(frozen=True, slots=True)
class OutcomeCell:
    """Due answers with one prediction set and one predicted class.

    Attributes
    ----------
    members : the set, as positions in class order
    prediction : the predicted class, as position in class order
    returned : number of outcomes of each class, in class order
    missing : number of answers whose outcome has not come
    other : number of outcomes that are none of the classes; they count as returned, and for no class
    """

    members: tuple[int, ...]
    prediction: int
    returned: tuple[int, ...]
    missing: int
    other: int = 0

    @property
    def due(self) -> int:
        """All answers of the cell."""
        return self.came + self.missing

    @property
    def came(self) -> int:
        """Those whose outcome has returned."""
        return sum(self.returned) + self.other

    def counted(self, k: int | None) -> int:
        """Returned outcomes that coverage of class ``k`` is about; None: of all classes together."""
        return sum(self.returned) if k is None else self.returned[k]

    def covered(self, k: int | None) -> int:
        """Those of them that the set held."""
        if k is None:
            return sum(self.returned[j] for j in self.members)
        return self.returned[k] if k in self.members else 0


@dataclass(frozen=True, slots=True)
class CoverageBounds:
    """Smallest and largest share covered of the due answers that the missing outcomes leave possible."""

    lowest: float
    highest: float


def coverage_bounds(cells: Iterable[OutcomeCell], k: int | None) -> CoverageBounds | None:
    """Worst and best case of the coverage of class ``k`` among all due answers; None where no answer can be of it.

    Nothing is assumed of the missing outcomes. In the worst case those whose set does not hold class k are of it, and
    no others; in the best case those whose set holds it. Both can happen, so the bounds cannot be narrower. They are
    about these answers and leave out sampling error.

    Parameters
    ----------
    k : position of the class; None for all classes together, where missing outcomes are taken to be of the classes

    References
    ----------
    Manski (1989), Anatomy of the selection problem, Journal of Human Resources 24(3), 343-360; Horowitz & Manski
    (2000), Journal of the American Statistical Association 95(449), 77-84.

    Examples
    --------
    >>> coverage_bounds([OutcomeCell((1,), 1, (0, 8), 2), OutcomeCell((0,), 0, (9, 1), 1)], 1)
    CoverageBounds(lowest=0.8, highest=0.9090909090909091)
    """
    counted = covered = may_hit = may_miss = must_hit = 0
    for cell in cells:
        counted += cell.counted(k)
        covered += cell.covered(k)
        if k is None:
            must_hit += cell.missing * (len(cell.members) == len(cell.returned))
            may_hit += cell.missing * bool(cell.members)
        elif k in cell.members:
            may_hit += cell.missing
        else:
            may_miss += cell.missing
    if k is None:
        n = counted + sum(cell.missing for cell in cells)
        return CoverageBounds((covered + must_hit) / n, (covered + may_hit) / n) if n else None
    if not counted + may_hit + may_miss:
        return None
    lowest = covered / (counted + may_miss) if counted + may_miss else 1.0
    highest = (covered + may_hit) / (counted + may_hit) if counted + may_hit else 0.0
    return CoverageBounds(lowest, highest)


@dataclass(frozen=True, slots=True)
class ReturnTest:
    """Whether outcomes return alike, whatever the set was.

    Attributes
    ----------
    inside, outside : share of outcomes returned among answers whose set holds the class, and among the others; for all
        classes together the largest and smallest share among the sets. None where there are no such answers
    p_value : of the hypothesis that return does not depend on the set; 1 where there is nothing to compare
    """

    inside: float | None
    outside: float | None
    p_value: float


def return_test(cells: Sequence[OutcomeCell], k: int | None) -> ReturnTest:
    """Test whether the return of an outcome depends on the set.

    Two tests are made: a likelihood-ratio test (G-test) of the table with one row for each set, rare sets together, and
    for a class Fisher's exact test of whether its label is in the set. The p-value is twice the smaller one
    (Bonferroni). It is of one look, and not made for looking again and again: whoever acts on it must also ask for a
    difference that matters.

    Parameters
    ----------
    k : position of the class; None for all classes together

    References
    ----------
    Wilks (1938), Annals of Mathematical Statistics 9(1), 60-62; Cochran (1954), Biometrics 10(4), 417-451; Fisher
    (1922), Journal of the Royal Statistical Society 85(1), 87-94.
    """
    by_set = _by_set(cells)
    table = _table(by_set.values())
    if k is None:
        shares = [came / due for came, due in table]
        return ReturnTest(max(shares, default=None), min(shares, default=None), _p_of(table))
    sides = [_sum(counts for members, counts in by_set.items() if (k in members) == holds) for holds in (True, False)]
    inside, outside = (came / due if due else None for came, due in sides)
    exact = _p_of([side for side in sides if side[1]], exact=True)
    return ReturnTest(inside, outside, min(1.0, 2.0 * min(_p_of(table), exact)))


def return_p_value(counts: Iterable[tuple[int, int]]) -> float:
    """P-value of the hypothesis that outcomes return alike in all groups of answers: a G-test, rare groups together.

    Parameters
    ----------
    counts : returned and due answers of each group; groups do not overlap

    Examples
    --------
    >>> round(return_p_value([(80, 100), (60, 100)]), 4)
    0.0018
    """
    return _p_of(_table([(came, due) for came, due in counts if due]))


def _by_set(cells: Sequence[OutcomeCell]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Returned and due answers by set; sets without answers left out."""
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    for cell in cells:
        came, due = found.get(cell.members, (0, 0))
        found[cell.members] = (came + cell.came, due + cell.due)
    return {members: counts for members, counts in found.items() if counts[1]}


def _table(found: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returned and due answers of each set or group; those too rare for the chi-square law are one row."""
    came, due = _sum(found)
    enough = _EXPECTED * due / max(1, min(came, due - came))
    rows = sorted(found, key=lambda counts: counts[1])
    rare = [counts for counts in rows if counts[1] < enough]
    common = rows[len(rare) :]
    if rare and common and _sum(rare)[1] < enough:
        rare.append(common.pop(0))
    return [_sum(rare)] * bool(rare) + common


def _sum(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    listed = list(counts)
    return sum(came for came, _ in listed), sum(due for _, due in listed)


def _p_of(table: Sequence[tuple[int, int]], *, exact: bool = False) -> float:
    """P-value of independence of rows with so many returned of so many due answers."""
    counts = np.array([(came, due - came) for came, due in table]).reshape(-1, 2)
    if len(counts) < 2 or not counts.sum(axis=0).all():
        return 1.0
    tested = fisher_exact(counts) if exact else chi2_contingency(counts, correction=False, lambda_="log-likelihood")
    return float(tested.pvalue)


def observed_coverage(cells: Iterable[OutcomeCell], k: int | None) -> float | None:
    """Share covered of the returned outcomes of class ``k`` (None: of all classes); None without any."""
    each = [(cell.covered(k), cell.counted(k)) for cell in cells]
    n = sum(counted for _, counted in each)
    return sum(covered for covered, _ in each) / n if n else None


@dataclass(frozen=True, slots=True)
class WeightedCoverage:
    """An estimate of coverage in which returned outcomes also stand for those that are missing.

    Attributes
    ----------
    estimate : share covered
    lower, upper : 95 % interval
    rows : returned outcomes it rests on
    """

    estimate: float
    lower: float
    upper: float
    rows: int


def inverse_chance_coverage(
    cells: Sequence[OutcomeCell], k: int | None, effect: float = 1.0
) -> WeightedCoverage | None:
    """Coverage of class ``k`` with each returned outcome weighted by the inverse of the share returned in its cell.

    It is right if outcomes are missing at random given the prediction set and the predicted class: among answers with
    the same set and prediction, whether the outcome returns has nothing to do with what it is. No data can show that.
    It is wrong, for instance, where only bad outcomes are reported.

    Cells with fewer than 10 returned outcomes share one weight with the other such cells whose set also holds class k
    (or also does not); if these together have fewer, with the next larger cell as well. The variance is that of the
    estimate's influence function, which counts the chance of return and the mix of cells as estimated. The interval is
    Clopper-Pearson's at the effective sample size (Korn & Graubard).

    Parameters
    ----------
    k : position of the class; None for all classes together
    effect : design effect of repeated patients, >= 1; it widens the interval

    Returns
    -------
    WeightedCoverage or None
        None where no outcome of the class has returned, or none at all from a side that has due answers: the chance of
        return cannot be estimated there.

    References
    ----------
    Horvitz & Thompson (1952), Journal of the American Statistical Association 47(260), 663-685; Little & Rubin,
    Statistical Analysis with Missing Data, section 3.3 (weighting classes); Robins, Rotnitzky & Zhao (1994), Journal of
    the American Statistical Association 89(427), 846-866; Korn & Graubard (1998), Survey Methodology 24, 193-201.
    """
    classes = _weighting_classes(cells, k)
    if any(not came for _, came, _, _ in classes):
        return None
    weights = [due / came for due, came, _, _ in classes]
    total = sum(w * counted for w, (_, _, counted, _) in zip(weights, classes, strict=True))
    rows = sum(counted for _, _, counted, _ in classes)
    if not rows:
        return None
    estimate = sum(w * covered for w, (_, _, _, covered) in zip(weights, classes, strict=True)) / total
    variance = 0.0
    for due, came, counted, covered in classes:
        mean = (covered * (1.0 - estimate) - (counted - covered) * estimate) / came
        square = (covered * (1.0 - estimate) ** 2 + (counted - covered) * estimate**2) / came
        variance += due**2 / came * (square - mean**2) + due * mean**2
    variance *= effect / total**2
    if 0.0 < estimate < 1.0 and variance > 0.0:
        size = min(rows / effect, estimate * (1.0 - estimate) / variance)
    else:  # all covered or none: Kish's size, of the weights alone
        squares = sum(w**2 * counted for w, (_, _, counted, _) in zip(weights, classes, strict=True))
        size = total**2 / squares / effect
    hits = estimate * size
    lower = float(beta.ppf(_OUTSIDE / 2, hits, size - hits + 1.0)) if hits > 0.0 else 0.0
    upper = float(beta.isf(_OUTSIDE / 2, hits + 1.0, size - hits)) if hits < size else 1.0
    return WeightedCoverage(estimate, lower, upper, rows)


def _weighting_classes(cells: Sequence[OutcomeCell], k: int | None) -> list[tuple[int, int, int, int]]:
    """Due, returned, counted and covered of the groups of cells that share a weight, empty groups left out."""
    groups: list[tuple[int, int, int, int]] = []
    sides: dict[object, list[OutcomeCell]] = {}
    for cell in cells:
        sides.setdefault(k is None or k in cell.members, []).append(cell)
    for side in sides.values():
        side.sort(key=lambda c: c.came)
        small, large = ([c for c in side if (c.came >= _FEW) == want] for want in (False, True))
        if large and sum(c.came for c in small) < _FEW:
            small.append(large.pop(0))
        together = [small, *([c] for c in large)]
        groups += [
            (
                sum(c.due for c in group),
                sum(c.came for c in group),
                sum(c.counted(k) for c in group),
                sum(c.covered(k) for c in group),
            )
            for group in together
        ]
    return [group for group in groups if group[0]]
