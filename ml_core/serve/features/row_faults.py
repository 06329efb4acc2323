"""What is wrong with the rows of a table. A short body that is wrong a million times takes little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import FieldProblem, InvalidRecord
from ml_core.features.columns import Column
from ml_core.serve.features.column_rules import Fault, fault_of

__all__ = ["RowFaults", "RowProblems"]

_QUOTED_FAULTS = 10_000  # beyond this many wrong cells in a table, problems no longer quote the value
_MOST_FAULTS = 1_000_000  # beyond this many the table is no table of records, and telling them all would cost gigabytes


@dataclass(frozen=True, slots=True)
class RowProblems(Mapping[int, Sequence[FieldProblem]]):
    """All that is wrong with each refused row, by its number from 0.

    What is wrong with every row is kept once. So a column that is missing, or null throughout, takes no memory,
    however many rows a short body says there are.

    Attributes
    ----------
    n_rows : rows in the table
    everywhere : what is wrong with every row
    of_row : what else is wrong, by row
    """

    n_rows: int
    everywhere: list[FieldProblem] = field(default_factory=list)
    of_row: dict[int, tuple[FieldProblem, ...]] = field(default_factory=dict)

    def __getitem__(self, row: int) -> Sequence[FieldProblem]:
        found = (*(self.everywhere if 0 <= row < self.n_rows else ()), *self.of_row.get(row, ()))
        if not found:
            raise KeyError(row)
        return found

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n_rows) if self.everywhere else self.of_row)

    def __len__(self) -> int:
        return self.n_rows if self.everywhere else len(self.of_row)


@dataclass(slots=True)
class RowFaults:
    """Collects what is wrong with a table, row by row.

    Attributes
    ----------
    problems : by row
    checks : how many cells failed each (column, check)
    told : how many cells failed

    Raises
    ------
    InvalidRecord
        By each method, once more than a million cells are wrong, before anything is made for them.
    """

    problems: RowProblems
    checks: dict[tuple[str, str], int] = field(default_factory=dict)
    told: int = 0
    _unquoted: dict[tuple[str, str], tuple[FieldProblem]] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Rows in the table."""
        return self.problems.n_rows

    def add(self, column: Column, row: int, fault: Fault) -> None:
        """One wrong cell."""
        self._count(column.name, fault.check, 1)
        if self.told <= _QUOTED_FAULTS:
            found = (FieldProblem(column.name, fault.problem),)
        else:  # rows share what is said of them: a million wrong cells may come from a body of a few bytes
            key = column.name, fault.check
            found = self._unquoted.get(key) or self._unquoted.setdefault(key, (FieldProblem(*key),))
        before = self.problems.of_row.get(row)
        self.problems.of_row[row] = found if before is None else (*before, *found)

    def every_row(self, name: str, fault: Fault) -> None:
        """A column that is wrong in every row."""
        self._count(name, fault.check, self.n_rows)
        if self.n_rows:
            self.problems.everywhere.append(FieldProblem(name, fault.problem))

    def at(self, column: Column, rows: npt.NDArray[np.intp], value_at: Callable[[int], object]) -> None:
        """Judge the values of rows that are known to be wrong."""
        for row in rows.tolist():
            fault = fault_of(column, value_at(row))
            self.add(column, row, fault or Fault("refused", "cannot be accepted"))

    def _count(self, name: str, check: str, cells: int) -> None:
        if not cells:
            return
        self.told += cells
        self.checks[name, check] = self.checks.get((name, check), 0) + cells
        if self.told > _MOST_FAULTS:
            raise InvalidRecord([FieldProblem(c, f"{k} in {n} rows or more") for (c, k), n in self.checks.items()])
