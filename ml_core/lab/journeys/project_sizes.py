"""What so many rows can promise: shares of the split, level, smallest classes, and what the gate can see with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from ml_core.base.errors import DataError
from ml_core.lab.config import SplitConfig
from ml_core.lab.measuring.calibration import needed_rows
from ml_core.lab.measuring.coverage_law import CoverageLaw
from ml_core.lab.measuring.coverage_power import power_of_limit
from ml_core.lab.measuring.coverage_verdicts import COVERAGE_BUDGET
from ml_core.lab.training.labelled_rows import PARTS, split_of

__all__ = ["ClassSizes", "ProjectSizes", "choose_sizes"]

_LEVELS = tuple(Decimal(text) for text in ("0.90", "0.85", "0.80"))
_PLENTY, _SMALL, _TINY = (
    {"train": 0.50, "validation": 0.10, "calibration": 0.20, "test": 0.20},
    {"train": 0.40, "validation": 0.10, "calibration": 0.25, "test": 0.25},
    {"train": 0.35, "validation": 0.15, "calibration": 0.25, "test": 0.25},
)
_TINY_CLASS = 60  # rows: of fewer, a tenth may well be none
_ENOUGH_TESTS = 100  # of each class, for the shares of a table of plenty
_GAP = Decimal("0.02")  # between the level and the floor that the gate enforces
_SLACK = 0.8  # of the rarest class's test rows are asked for, so that a few rows less do not refuse a model
_LIKELY = 0.05


@dataclass(frozen=True, slots=True)
class ClassSizes:
    """One class: its rows, and what can be said of its coverage.

    Attributes
    ----------
    label, rows : the class and its rows
    calibration, test : of them
    likely_from, likely_to : between them lies the true coverage of 90 % of calibrations of this size
    noticed : the largest true coverage that the gate refuses with a chance of 80 %
    """

    label: Any
    rows: int
    calibration: int
    test: int
    likely_from: float
    likely_to: float
    noticed: float


@dataclass(frozen=True, slots=True)
class ProjectSizes:
    """What was chosen.

    Attributes
    ----------
    split : shares and salt
    level : confidence level of the sets
    floor : smallest coverage that the gate accepts, as far as chance allows to tell
    min_positives : fewest test rows of a class with which the gate judges
    parts : rows of each part
    classes : of the model
    left_out : labels whose classes are too small, with their rows
    """

    split: SplitConfig
    level: Decimal
    floor: Decimal
    min_positives: int
    parts: dict[str, int]
    classes: tuple[ClassSizes, ...]
    left_out: tuple[tuple[Any, int], ...]


def choose_sizes(
    y_index: npt.NDArray[np.int64],
    groups: npt.NDArray[np.generic],
    labels: Sequence[Any],
    level: Decimal | None = None,
) -> ProjectSizes:
    """Shares, level and smallest classes for these rows.

    A class that does not reach every part, or has too few calibration rows for 80 %, is left out, the rarest first. The
    level is 90 %, or lower where the rarest class has too few calibration rows for that.

    Parameters
    ----------
    y_index : shape (n,), position of each row's label; -1 where it has none
    groups : shape (n,), whose row it is, in the type that training gives it
    level : the confidence level that is wanted; chosen here if None

    Raises
    ------
    DataError
        Fewer than two classes are large enough.
    """
    kept, left_out = list(range(len(labels))), list[tuple[Any, int]]()
    counts = np.bincount(y_index[y_index >= 0], minlength=len(labels))
    wanted = level or _LEVELS[-1]
    while True:
        split = _split_for(int(counts[kept].min()))
        table = _by_part(y_index, split_of(groups, split), len(labels))
        small = [k for k in kept if table[k].min() < 1 or table[k][_at("calibration")] < needed_rows(wanted)]
        if not small:
            break
        rarest = min(small, key=lambda k: counts[k])
        if len(kept) == 2:
            raise DataError(f"class {labels[rarest]!r}", _too_few(table[rarest], wanted, split))
        kept.remove(rarest)
        left_out.append((labels[rarest], int(counts[rarest])))
    least = min(int(table[k][_at("calibration")]) for k in kept)
    chosen = level or next(one for one in _LEVELS if needed_rows(one) <= least)
    floor = chosen - _GAP
    tests = min(int(table[k][_at("test")]) for k in kept)
    classes = tuple(_class(labels[k], table[k], chosen, floor, len(kept)) for k in kept)
    parts = {part: int(table[kept, at].sum()) for at, part in enumerate(PARTS)}
    enough = min(_ENOUGH_TESTS, max(1, int(_SLACK * tests)))
    return ProjectSizes(split, chosen, floor, enough, parts, classes, tuple(left_out))


def _at(part: str) -> int:
    return list(PARTS).index(part)


def _split_for(rows_of_rarest: int) -> SplitConfig:
    if rows_of_rarest * _PLENTY["test"] >= _ENOUGH_TESTS:
        return SplitConfig(**_PLENTY)
    return SplitConfig(**(_TINY if rows_of_rarest < _TINY_CLASS else _SMALL))


def _too_few(rows: npt.NDArray[np.int64], level: Decimal, split: SplitConfig) -> str:
    """Why a class cannot be promised anything, given its rows in each part, shape (4,)."""
    needed, found = needed_rows(level), int(rows[_at("calibration")])
    if found >= needed:
        return f"has {int(rows.sum())} rows, none of them in the part {PARTS[int(rows.argmin())]!r}: add rows"
    about = int(np.ceil(1.5 * needed / split.calibration))
    return (
        f"has {int(rows.sum())} rows, {found} of them to calibrate with, and a promise of {level} needs {needed}, "
        f"which takes about {about} rows of each class: add rows"
    )


def _by_part(y_index: npt.NDArray[np.int64], parts: npt.NDArray[np.str_], n_classes: int) -> npt.NDArray[np.int64]:
    """Rows by class and part, shape (K, 4)."""
    found = [np.bincount(y_index[(parts == part) & (y_index >= 0)], minlength=n_classes) for part in PARTS]
    return np.stack(found, axis=1)


def _class(label: Any, rows: npt.NDArray[np.int64], level: Decimal, floor: Decimal, n_classes: int) -> ClassSizes:
    n, m = int(rows[_at("calibration")]), int(rows[_at("test")])
    law = CoverageLaw.of(n, level, floor=float(floor))
    limit = min(float(floor), law.band(m, COVERAGE_BUDGET / (2 * (n_classes + 1))).lower)
    misses = int((n + 1) * (1 - level))
    likely = beta(n + 1 - misses, misses)
    return ClassSizes(
        label, int(rows.sum()), n, m,
        float(likely.ppf(_LIKELY)), float(likely.ppf(1 - _LIKELY)), power_of_limit(limit, m).noticed,
    )  # fmt: skip
