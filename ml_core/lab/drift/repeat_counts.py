"""How often people repeat among rows, counted in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["RepeatCounts"]

_MOST_PEOPLE = 1 << 20
"""People who are counted one by one: 16 MB. Of more, a share chosen by hash stands for all."""
_MOST_WAITING = 1 << 20


class RepeatCounts:
    """Rows of each person, for the sum of their squares.

    Exact for at most a million people. Beyond that those are counted whose hash ends in zeros, enough zeros that no
    more than a million are left, and the sum is scaled by the share that they are (adaptive sampling).

    References
    ----------
    Flajolet (1990), On adaptive sampling, Computing 43, 391-400.
    """

    def __init__(self) -> None:
        self._rows = self._alone = 0
        self._zeros = 0
        self._people: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._counts: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._waiting: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]] = []

    def __len__(self) -> int:
        return self._rows

    def add(self, cells: pd.Series[Any]) -> None:
        """Further rows; one without a name is of somebody whom no other row is of."""
        known = cells[cells.notna()]
        self._rows += len(cells)
        self._alone += len(cells) - len(known)
        people, counts = np.unique(_hashes(known), return_counts=True)
        self._waiting.append((people, counts))
        if sum(len(each) for each, _ in self._waiting) > _MOST_WAITING:
            self._count()

    def include(self, later: RepeatCounts) -> None:
        """Rows that were counted elsewhere."""
        self._rows += later._rows
        self._alone += later._alone
        self._zeros = max(self._zeros, later._zeros)
        self._waiting += [(later._people, later._counts), *later._waiting]
        self._count()

    @property
    def squares(self) -> float:
        """Sum over people of the square of their rows; whole where it is exact."""
        self._count()
        return float(int((self._counts**2).sum()) * (1 << self._zeros) + self._alone)

    def _count(self) -> None:
        people, counts = zip((self._people, self._counts), *self._waiting, strict=True)
        self._waiting = []
        self._people, places = np.unique(np.concatenate(people), return_inverse=True)
        summed = np.zeros(len(self._people), np.int64)
        np.add.at(summed, places, np.concatenate(counts))
        self._counts = summed
        self._thin()
        while len(self._people) > _MOST_PEOPLE:
            self._zeros += 1
            self._thin()

    def _thin(self) -> None:
        if self._zeros:
            chosen = self._people & np.uint64((1 << self._zeros) - 1) == 0
            self._people, self._counts = self._people[chosen], self._counts[chosen]


def _hashes(cells: pd.Series[Any]) -> npt.NDArray[np.uint64]:
    """64 bits for each name; 7 and 7.0 are one name."""
    if pd.api.types.is_numeric_dtype(cells.dtype):
        numbers = cells.to_numpy()
        whole = numbers.astype(np.int64) if (np.mod(numbers, 1) == 0).all() else numbers.astype(np.float64)
        return pd.util.hash_array(whole)
    return pd.util.hash_array(cells.astype(str).to_numpy(dtype=object))
