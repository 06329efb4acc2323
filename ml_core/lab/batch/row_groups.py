"""Work by name: pieces of table files, each some row groups of one file, whoever reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["PIECE_ROWS", "Piece", "pieces_of"]

PIECE_ROWS = 131_072
"""Row groups of one file are taken together until they have so many rows: about a second of scoring."""


class Grouped(Protocol):
    """A table file that knows its row groups.

    Attributes
    ----------
    rows : of the file
    group_rows : of each row group; None for a text table, which one process reads from start to end
    """

    @property
    def rows(self) -> int: ...

    @property
    def group_rows(self) -> tuple[int, ...] | None: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Some row groups of one file, one after another; its name says everything that a reader needs.

    Attributes
    ----------
    number : from 0, in the order of files and rows
    file : which of the files, from 0
    groups : numbers of its row groups; None for a whole text table
    first_row : number of its first row in the file, from 0
    rows : how many it has; an upper bound for a text table
    """

    number: int
    file: int
    groups: tuple[int, ...] | None
    first_row: int
    rows: int


def pieces_of(tables: Sequence[Grouped], piece_rows: int = PIECE_ROWS) -> tuple[Piece, ...]:
    """The work in these tables, in their order; none for a table or row group without rows.

    Parameters
    ----------
    piece_rows : row groups are taken together until they have so many rows; a larger row group is never cut

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> tables = [SimpleNamespace(rows=7, group_rows=(2, 3, 2)), SimpleNamespace(rows=4, group_rows=None)]
    >>> [(p.number, p.file, p.groups, p.first_row, p.rows) for p in pieces_of(tables, 5)]
    [(0, 0, (0, 1), 0, 5), (1, 0, (2,), 5, 2), (2, 1, None, 0, 4)]
    """
    found: list[Piece] = []
    for file, table in enumerate(tables):
        for groups, first_row, rows in _runs(table, piece_rows):
            found.append(Piece(len(found), file, groups, first_row, rows))
    return tuple(found)


def _runs(table: Grouped, piece_rows: int) -> Iterator[tuple[tuple[int, ...] | None, int, int]]:
    """Row groups that are taken together, the number of their first row, and how many rows they have."""
    if table.group_rows is None:
        if table.rows:
            yield None, 0, table.rows
        return
    held: list[int] = []
    first_row = rows = 0
    for group, more in enumerate(table.group_rows):
        if more:
            held.append(group)
        rows += more
        if rows >= piece_rows:
            yield tuple(held), first_row, rows
            held, first_row, rows = [], first_row + rows, 0
    if rows:
        yield tuple(held), first_row, rows
